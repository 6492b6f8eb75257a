"""Writes the inventory of a cluster that is to be taken over, for people; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.adopt import kubelets, starts
from vaultpki.adopt.catalogue import Obstacle
from vaultpki.adopt.draft import ClusterDraft, further
from vaultpki.adopt.found import ClusterInventory, InUse
from vaultpki.kube.cluster import CaCopy, Copied
from vaultpki.kube.flags import signing_files
from vaultpki.kube.objects import ROOT_COPY
from vaultpki.kubernetes_versions import tagged
from vaultpki.live.checks import days_left
from vaultpki.live.trust import readable_certificates
from vaultpki.pki.facts import Facts
from vaultpki.redact import first_few, printable
from vaultpki.show import table
from vaultpki.show.table import Column

# Names and paths are never cut: they are compared with others.
_WIDE: Final = 4096
# Rows of a table that are shown; the rest is counted, and --json has all of them.
_MOST: Final = 100
# Cells of a column on a narrow terminal.
_LEAST: Final = 12
_NAMED: Final = 8
# Obstacles of one kind that are shown.
_ALIKE: Final = 20


def inventory_lines(
    found: ClusterInventory, draft: ClusterDraft, every: Sequence[Obstacle], width: int | None = None
) -> Iterator[str]:
    """Yield the inventory: what is there, and then what is in the way, the heaviest first.

    Rows of tables are cut to `width`; None for any width, as in a file.
    """
    yield _title(found)
    for name, part in (
        ("Nodes", _nodes(found, draft)),
        ("etcd", _members(found)),
        ("Static pods", _static(found)),
        ("CAs of today", _cas(found)),
        ("Certificates of today", _certificates(found, draft)),
        ("Places that hold a CA", _places(found)),
        ("Who signs CSRs", _signers(found)),
        ("Kubelets", _kubelets(found)),
        ("Bootstrap tokens", _tokens(found)),
        ("What reads a CA only when it starts", _starts(found, draft)),
        ("Pods that mount files of kubeadm's", _mounting(found)),
    ):
        held = [line for each in part for line in ((each,) if isinstance(each, str) else each.lines(width))]
        if held:
            yield ""
            yield f"{name}:"
            yield from held
    yield ""
    yield from _obstacles(every)


def _title(found: ClusterInventory) -> str:
    settings = found.whole.settings
    version = settings.version if settings is not None else ""
    named = (
        f"Cluster {settings.cluster or 'without a name'}" if settings is not None else "Cluster without kubeadm-config"
    )
    count = len(found.whole.nodes)
    nodes = f"{count} node{'' if count == 1 else 's'}"
    return printable(f"{named} {version} at {found.server}: {nodes}, certificates in {found.directory}")


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one table below these titles."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self, width: int | None) -> Iterator[str]:
        """Yield the table; the first column, which names a row, is cut last."""
        columns = [Column(title, most=_WIDE, least=_LEAST if number else 0) for number, title in enumerate(self.titles)]
        if self.rows:
            yield from table.lines(columns, self.rows[:_MOST], width=width)
        if len(self.rows) > _MOST:
            yield f"and {len(self.rows) - _MOST} more; --json has all of them"


# A section is made of tables and lines.
_Section = Iterator[_Rows | str]


def _nodes(found: ClusterInventory, draft: ClusterDraft) -> _Section:
    roles = {node["name"]: node["roles"] for node in draft.nodes}
    rows = []
    for node in found.whole.nodes:
        ready = {"True": "yes", "False": "no"}.get(node.ready, "silent")
        addresses = ", ".join(f"{address} ({kind})" for kind, address in node.addresses)
        rows.append((node.name, ", ".join(roles.get(node.name, [])), node.version or "-", ready, addresses))
    yield _Rows(("NODE", "ROLES", "KUBELET", "READY", "ADDRESSES"), rows)


def _members(found: ClusterInventory) -> _Section:
    rows = [
        (each.name, each.node, "static pod" if each.stacked else "outside of kubeadm", ", ".join(each.hosts))
        for each in found.members
    ]
    yield _Rows(("MEMBER", "NODE", "RUN AS", "CALLED AT"), rows)


def _static(found: ClusterInventory) -> _Section:
    rows = []
    for pod in found.static:
        own = [f"--{name}={value}" for name, value in pod.flags.items() if not starts.by_kubeadm(pod.component, name)]
        volumes = [volume.path for volume in pod.volumes if not starts.volume_of_kubeadm(volume, found.directory)]
        rows.append(
            (pod.node, pod.component, tagged(pod.image) or "-", " ".join(own) or "-", ", ".join(volumes) or "-")
        )
    yield _Rows(("NODE", "COMPONENT", "VERSION", "FLAGS BESIDE KUBEADM'S", "VOLUMES BESIDE KUBEADM'S"), rows)


def _cas(found: ClusterInventory) -> _Section:
    rows = []
    for ca, held in found.cas.items():
        for facts in held:
            keys = [machine.node for machine in found.machines if any(_of(ca, path) for path in machine.ca_keys)]
            rows.append((ca, facts.subject_text, _key(facts), _ends(facts, found), ", ".join(keys) or "-"))
    yield _Rows(("CA", "SUBJECT", "KEY", "ENDS IN", "ITS KEY IS SEEN ON"), rows)
    if "etcd" not in found.cas and found.members:
        yield "The CA of etcd lies on the control planes only, and none of their disks was read."


def _of(ca: str, path: str) -> bool:
    """Return whether a path is that of the key of this CA in kubeadm's folder."""
    etcd = path.endswith("/etcd/ca.key")
    return {"etcd": etcd, "front-proxy": path.endswith("/front-proxy-ca.key")}.get(
        ca, path.endswith("/ca.key") and not etcd
    )


def _key(facts: Facts) -> str:
    return facts.key.value if facts.key is not None else "another kind"


def _ends(facts: Facts, found: ClusterInventory) -> str:
    return "expired" if facts.not_after <= found.now else days_left(facts.not_after, found.now)


def _certificates(found: ClusterInventory, draft: ClusterDraft) -> _Section:
    rows = [
        (
            each.node or "-",
            each.row,
            each.place,
            each.ca or f"none of these ({each.facts.issuer_text})",
            _key(each.facts),
            _ends(each.facts, found),
            ", ".join(further(each, draft)) or "-",
        )
        for each in sorted(found.certificates, key=lambda each: (each.node, each.row))
    ]
    yield _Rows(("NODE", "CERTIFICATE", "FOUND AT", "CA", "KEY", "ENDS IN", "NAMES BESIDE THE TABLE'S"), rows)
    silent: dict[str, list[str]] = {}
    for seen in found.listeners:
        if seen.leaf is None:
            silent.setdefault(seen.why, []).append(f"{seen.row} at {seen.place}")
    for why, places in silent.items():
        yield printable(f"not seen: {first_few(places, _NAMED)}: {why}")


def _places(found: ClusterInventory) -> _Section:
    rows: list[tuple[str, str, str]] = []
    alike: dict[str, list[CaCopy]] = {}
    for copy in found.whole.live.copies:
        if copy.place.startswith(f"{ROOT_COPY} in "):
            alike.setdefault(copy.pem, []).append(copy)
        else:
            rows.append((copy.place, _reader(copy), _held(copy.pem, found)))
    for pem, copies in alike.items():
        spaces = [copy.place.removeprefix(f"{ROOT_COPY} in ") for copy in copies]
        rows.insert(0, (f"{ROOT_COPY} in {first_few(spaces, _NAMED)}", "pods", _held(pem, found)))
    if found.whole.keys_token is not None:
        rows.append(("Secret kubeadm-certs in kube-system", "control planes that join", "keys too, encrypted"))
    for machine in found.machines:
        for ca, held in machine.cas.items():
            text = "".join(facts.pem for facts in held)
            rows.append((f"the file of the CA {ca} on {machine.node}", "components", _held(text, found)))
        for config in machine.kubeconfigs:
            if config.parts is not None:
                named = f"names {config.parts.ca_file}" if config.parts.ca_file else ""
                held_text = _held(config.parts.ca_pem, found) if config.parts.ca_pem else named or "no CA"
                rows.append((f"{config.path} on {machine.node}", "who uses it", held_text))
    yield _Rows(("PLACE", "READ BY", "HOLDS"), rows)


def _reader(copy: CaCopy) -> str:
    by_kind = {
        Copied.PODS: "pods",
        Copied.JOINING: "nodes that join",
        Copied.CLIENTS: "aggregated API servers",
        Copied.FRONT_PROXY: "aggregated API servers",
        Copied.KUBELETS: "who scrapes kubelets",
        Copied.SERVER: "kube-apiserver",
        Copied.BUNDLE: "pods",
    }
    return by_kind[copy.copied]


def _held(pem: str, found: ClusterInventory) -> str:
    """Return in words which CAs a text holds."""
    known = {facts.fingerprint: f"CA of {ca}" for ca, cas in found.cas.items() for facts in cas}
    names = [known.get(facts.fingerprint, "another CA") for facts in readable_certificates(pem)]
    counted = [f"{names.count(name)} times {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
    return ", ".join(counted) or "no CA"


def _signers(found: ClusterInventory) -> _Section:
    rows = []
    for pod in found.static:
        if pod.component == "kube-controller-manager":
            files = signing_files(pod.flags, "cert")
            leads = "yes" if found.whole.leaders.get(pod.component) == pod.node else "-"
            words = ", ".join(f"--{name}={value}" for name, value in files.items())
            rows.append(
                (pod.node, leads, words or "signs nothing", pod.flags.get("cluster-signing-duration", "1 year"))
            )
    yield _Rows(("CONTROLLER MANAGER OF", "LEADS", "SIGNS WITH", "FOR AT MOST"), rows)
    kinds: dict[tuple[str, str], int] = {}
    for each in found.whole.requests:
        kinds[each.signer, each.state] = kinds.get((each.signer, each.state), 0) + 1
    for (signer, state), count in sorted(kinds.items()):
        yield printable(f"{count} CSR{'' if count == 1 else 's'} of {signer} {state}")


def _kubelets(found: ClusterInventory) -> _Section:
    words = {True: "yes", False: "no", None: "not known"}
    rows = [
        (
            each.node,
            words[each.rotates],
            words[each.asks],
            each.client_ca or "-",
            each.source or "-",
            _seen(each.client, found),
            _seen(each.serving, found),
        )
        for each in kubelets.seen(found)
    ]
    titles = ("NODE", "rotateCertificates", "serverTLSBootstrap", "clientCAFile", "TOLD BY", "CLIENT", "SERVING")
    yield _Rows(titles, rows)


def _seen(each: InUse | None, found: ClusterInventory) -> str:
    if each is None:
        return "not seen"
    signer = f"of the CA {each.ca}" if each.ca else f"of {each.facts.issuer_text}"
    return f"{signer}, {_ends(each.facts, found)}"


def _tokens(found: ClusterInventory) -> _Section:
    rows = [
        (each.id, f"{each.expires:%Y-%m-%d %H:%M}Z" if each.expires is not None else "never")
        for each in found.whole.tokens
    ]
    yield _Rows(("ID", "EXPIRES"), rows)


def _starts(found: ClusterInventory, draft: ClusterDraft) -> _Section:
    rows = [
        (each.ca, each.component, each.setting, first_few(each.nodes, _NAMED)) for each in starts.only(found, draft)
    ]
    yield _Rows(("CA", "COMPONENT", "READS IT BY", "ON"), rows)
    count = len(found.whole.pods)
    if count:
        spaces = list(dict.fromkeys(pod.namespace for pod in found.whole.pods))
        yield (
            f"Running pods that were given kube-root-ca.crt: {count}, in {first_few(spaces, _NAMED)}. The file follows "
            "by itself, and a program that has read it once does not."
        )


def _mounting(found: ClusterInventory) -> _Section:
    rows = [
        (f"{each.namespace}/{each.name}", each.node, each.path, "the take-over, by turns" if each.static else "you")
        for each in found.whole.readers
        if each.path
    ]
    yield _Rows(("POD", "NODE", "MOUNTS", "IS RESTARTED BY"), rows)


def _obstacles(every: Sequence[Obstacle]) -> Iterator[str]:
    if not every:
        yield "Nothing is in the way."
        return
    yield "In the way, the heaviest first:"
    for kind in dict.fromkeys(each.kind for each in every):
        held = [each for each in every if each.kind == kind]
        for each in held[:_ALIKE]:
            yield printable(f"{kind.severity.value} {kind.name}: {each.text}")
        if len(held) > _ALIKE:
            yield f"and {len(held) - _ALIKE} more of {kind.name}; --json has all of them"
        yield f"  cure: {kind.cure}"
