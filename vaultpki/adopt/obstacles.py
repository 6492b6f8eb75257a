"""Says what is in the way of a take-over: small checks of an inventory and its draft; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from vaultpki import certificates
from vaultpki.adopt import endings, etcd, kubelets, own_rows
from vaultpki.adopt.catalogue import OBSTACLE_KINDS, OBSTACLES, Obstacle
from vaultpki.adopt.draft import SERVERS, ClusterDraft, counted
from vaultpki.adopt.found import CONTROL_PLANE, ROWS, ClusterInventory, InUse
from vaultpki.findings.catalogue import Severity
from vaultpki.kube.cluster import CaCopy, Copied
from vaultpki.kube.flags import signing_files
from vaultpki.kubernetes_versions import KUBEADM_FIRST, TRIED, minor, tagged
from vaultpki.live.trust import readable_certificates
from vaultpki.model import Node
from vaultpki.records.adoption import ClusterShape
from vaultpki.redact import first_few
from vaultpki.rotation.adoption_outages import outages

_Check = Callable[[ClusterInventory, ClusterDraft], Iterator[Obstacle]]

# A controller manager issues within seconds of the approval.
_STUCK: Final = timedelta(minutes=5)
# From the names of `certificates.ca_subject`.
_OURS: Final = re.compile(r"[a-z0-9-]+ (?:kubernetes|front-proxy|etcd|kubelet) CA(?: [0-9]+)?")
_SOON: Final = timedelta(days=180)
_NAMED: Final = 5


def obstacles(found: ClusterInventory, draft: ClusterDraft) -> tuple[Obstacle, ...]:
    """Return all that is in the way, the heaviest first."""
    order = {kind.name: number for number, kind in enumerate(OBSTACLES)}
    every = (each for check in _CHECKS for each in check(found, draft))
    return tuple(sorted(every, key=lambda each: order[each.kind.name]))


def attention(every: tuple[Obstacle, ...]) -> bool:
    """Return whether one of these must be cured before a take-over begins."""
    return any(each.severity is Severity.CRITICAL for each in every)


def _one(name: str, text: str, *where: str) -> Obstacle:
    return Obstacle(OBSTACLE_KINDS[name], where, text)


def _kubeadm(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    whole = found.whole
    unread = {"static pods", "kubeadm-config"} & whole.unread.keys()
    if not unread and whole.settings is None and not any(pod.component == "kube-apiserver" for pod in found.static):
        yield _one("not-kubeadm", "there is neither a static pod of kube-apiserver nor the ConfigMap kubeadm-config")


def _ours(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    for ca, held in found.cas.items():
        for facts in held:
            if _OURS.fullmatch(facts.subject.common_name):
                yield _one("other-ca-of-vault", f"the CA of {ca} is called {facts.subject.common_name}", ca)


def _components(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    if "static pods" in found.whole.unread and not found.static:
        return
    there = {(pod.node, pod.component) for pod in found.static}
    for pod in found.whole.static:
        if pod not in found.static:
            yield _one("unlabelled-control-plane", f"{pod.node} shows {pod.component}", pod.node)
    for node in found.whole.nodes:
        gone = [name for name in CONTROL_PLANE if (node.name, name) not in there]
        if node.control_plane and gone:
            yield _one("not-a-static-pod", f"{node.name} is a control plane without {' and '.join(gone)}", node.name)
    at = {pod.flags.get("advertise-address", "") for pod in found.static if pod.component == "kube-apiserver"}
    by_node = {address: node.name for node in found.whole.nodes for address in node.called}
    planes = {node.name for node in found.whole.nodes if node.control_plane}
    for address in found.whole.endpoints:
        on = by_node.get(address, "")
        if address not in at and on not in planes and (on, "kube-apiserver") not in there:
            yield _one("not-a-static-pod", f"a kube-apiserver answers at {address}, and it is none of these", address)
    for component, host in found.whole.leaders.items():
        if not any(_same_host(host, node) for node, name in there if name == component):
            yield _one("leader-elsewhere", f"{component} on {host} leads, and no control plane is called so", host)


def _same_host(host: str, node: str) -> bool:
    """Return whether a host name may be that of a node: one of them may have a domain."""
    return host == node or host.startswith(f"{node}.") or node.startswith(f"{host}.")


def versions(found: ClusterInventory) -> dict[str, str]:
    """Return the versions of Kubernetes in the cluster, by what has them."""
    made = {f"kubelet of {node.name}": node.version for node in found.whole.nodes}
    made |= {
        f"{pod.component} of {pod.node}": tagged(pod.image) for pod in found.static if pod.component in CONTROL_PLANE
    }
    if found.whole.settings is not None:
        made["kubeadm-config"] = found.whole.settings.version
    return {what: version for what, version in made.items() if version}


def _versions(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    old: dict[str, list[str]] = {}
    untried: dict[str, list[str]] = {}
    for what, version in versions(found).items():
        number = minor(version)
        if number is not None and number not in TRIED:
            (old if number < KUBEADM_FIRST else untried).setdefault(version, []).append(what)
    for name, held in (("old-kubeadm", old), ("untried-version", untried)):
        for version, those in held.items():
            yield _one(name, f"{version} is the version of {first_few(those, _NAMED)}", *those)


def _etcd(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    shape = etcd.shape(found.static, found.members)
    own = [member.node for member in found.members if member.stacked]
    outside = [member for member in found.members if not member.stacked]
    if shape is ClusterShape.TWO_MEMBERS:
        text = f"{own[0]} and {own[1]} run the two members of etcd, and one alone has no majority: {outages(shape)}"
        yield _one("two-etcd-members", text, *own)
    planes = [pod.node for pod in found.static if pod.component == "kube-apiserver"]
    if shape is ClusterShape.ONE_PLANE:
        yield _one("one-control-plane", f"{planes[0]} runs the only kube-apiserver; {outages(shape)}", planes[0])
    if outside:
        names = [member.node for member in outside]
        more = "; two members have no majority while one restarts" if len(outside) == 2 else ""
        yield _one("external-etcd", f"kubeadm does not run etcd on {first_few(names, _NAMED)}{more}", *names)
    for member in found.members:
        if not member.tls:
            yield _one("etcd-without-tls", f"etcd of {member.node} is called by http://", member.node)


def _several_cas(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    published = {}
    for copy in found.whole.live.copies:
        if copy.copied in (Copied.CLIENTS, Copied.FRONT_PROXY):
            held = tuple(facts for facts in readable_certificates(copy.pem) if facts.is_ca)
            published[copy.copied.value] = {facts.fingerprint for facts in held}
            if len(held) > 1:
                subjects = [facts.subject_text for facts in held]
                yield _one("several-cas", f"{copy.place} holds {first_few(subjects, _NAMED)}", copy.place)
    for machine in found.machines:
        for ca, held in machine.cas.items():
            others = {facts.fingerprint for facts in held} - published.get(ca, set()) if ca in published else set()
            if others:
                text = f"{machine.node} holds a CA of {ca} that kube-apiserver does not publish"
                yield _one("other-cas", text, machine.node)
    names = {node.name for node in found.whole.nodes}
    for machine in found.foreign:
        text = f"the files below {machine.root} are of another cluster's CA, so they were not counted"
        # An operator's machine may be a node of another cluster.
        yield _one("other-cas" if machine.node in names else "not-read", text, machine.node or machine.root)
    for ca, held in found.cas.items():
        for facts in held:
            if facts.not_after - found.now < _SOON:
                yield _one("ca-expires", f"the CA of {ca} expires on {facts.not_after:%Y-%m-%d}", ca)


def _requests(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    stuck = [
        each
        for each in found.whole.requests
        if each.state == "approved" and (each.made is None or found.now - each.made > _STUCK)
    ]
    if stuck:
        who = list(dict.fromkeys(each.user for each in stuck))
        yield _one("requests-stuck", f"approved and not issued: {len(stuck)}, of {first_few(who, _NAMED)}", *who)
    known = found.cas.get("kubernetes", ())
    for each in found.whole.requests:
        held = next(iter(readable_certificates(each.pem)), None) if each.pem else None
        own = each.signer.startswith("kubernetes.io/")
        if own and held is not None and known and held.issuer_text not in {facts.subject_text for facts in known}:
            text = f"the CSR {each.name} of {each.user} was signed by {held.issuer_text}"
            yield _one("foreign-signer", text, each.name)
    signers = [pod for pod in found.static if pod.component == "kube-controller-manager"]
    bundle = f"{found.directory}/ca.crt"
    same = [pod.node for pod in signers if bundle in signing_files(pod.flags, "cert").values()]
    if same:
        text = f"the controller manager of {first_few(same, _NAMED)} signs from {bundle}"
        yield _one("signer-of-the-bundle", text, *same)


def _tokens(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    whole = found.whole
    live = [each.id for each in whole.tokens if each.expires is None or each.expires > found.now]
    if live:
        yield _one("open-tokens", f"in date: {first_few(live, _NAMED)}", *live)
    if whole.keys_token is not None:
        ends = f" until the token {whole.keys_token} ends" if whole.keys_token else ""
        yield _one("uploaded-keys", f"kubeadm-certs is there{ends}", "kubeadm-certs in kube-system")
    keyed = {machine.node: machine.ca_keys for machine in found.machines if machine.ca_keys}
    for node, paths in keyed.items():
        yield _one("keys-on-disk", f"{node} has {', '.join(paths)}", node)


def _kubeconfigs(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    for machine in found.machines:
        paths: dict[tuple[str, ...], list[str]] = {}
        for each in machine.kubeconfigs:
            if each.parts is not None and each.parts.embedded:
                paths.setdefault(each.parts.embedded, []).append(each.path)
        for held, files in paths.items():
            text = f"on {machine.node}, with the {' and the '.join(held)} inside: {', '.join(files)}"
            yield _one("embedded-kubeconfig", text, machine.node)
    seen = {machine.node for machine in found.machines}
    for pod in found.static:
        path = pod.flags.get("kubeconfig", "")
        if pod.node not in seen and any(volume.single and volume.mount == path for volume in pod.volumes):
            text = f"{path} is mounted alone into {pod.component} on {pod.node}; kubeadm writes such a file with its CA"
            yield _one("embedded-kubeconfig", f"{text} and its client certificate in it", pod.node)
    text = "the kubeconfig that was used here, for one" if found.cas else "none was seen"
    yield _one("kubeconfigs-outside", text)


def holds(copy: CaCopy, found: ClusterInventory) -> tuple[str, ...]:
    """Return the domains of the cluster's CAs in a copy, each once."""
    known = {facts.fingerprint: ca for ca, cas in found.cas.items() for facts in cas}
    held = (known.get(facts.fingerprint) for facts in readable_certificates(copy.pem))
    return tuple(dict.fromkeys(filter(None, held)))


def _copies(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    for copy in found.whole.live.copies:
        if copy.copied in (Copied.SERVER, Copied.BUNDLE) and (cas := holds(copy, found)):
            yield _one("copies-by-hand", f"{copy.place} holds the CA of {' and '.join(cas)}", copy.place)
    by_what: dict[tuple[str, str], list[str]] = {}
    for each in found.whole.readers:
        kind = "pods-mount-files" if each.path else "pods-keep-the-ca"
        by_what.setdefault((kind, each.what), []).append(f"{each.namespace}/{each.name}")
    for (kind, what), pods in by_what.items():
        yield _one(kind, f"{first_few(pods, _NAMED)}: {what}", *pods)


def _rights(found: ClusterInventory, draft: ClusterDraft) -> Iterator[Obstacle]:
    """Compare what clients are called, and their groups, with what they would be."""
    if draft.cluster is None:
        return
    holders = {node.name: node for node in draft.cluster.nodes}
    differ: dict[tuple[str, str], list[str]] = {}
    for row in ROWS.values():
        if not row.usage.client or row.ca == "etcd":
            continue
        for each in counted(found, row.name):
            if text := _other_rights(each, draft, holders.get(each.node)):
                differ.setdefault((row.name, text), []).append(each.node or each.place)
    for (name, text), where in differ.items():
        yield _one("rights-differ", f"{name} of {first_few(where, _NAMED)} {text}", *where)


def _other_rights(each: InUse, draft: ClusterDraft, node: Node | None) -> str:
    assert draft.cluster is not None  # noqa: S101 - for mypy: the caller has looked
    row = certificates.row_named(draft.cluster, each.row)
    if node is None and not row.operator:
        return ""
    wanted = certificates.resolve(row, draft.cluster, None if row.operator else node).subject
    today = each.facts.subject
    if today.common_name != wanted.common_name:
        return f"is the user {today.common_name} today, and would be {wanted.common_name}"
    lost = [group for group in today.organization if group not in wanted.organization]
    return f"is in the group {' and '.join(lost)} today, and would not be" if lost else ""


def _names(found: ClusterInventory, draft: ClusterDraft) -> Iterator[Obstacle]:
    for kind, held in (("name-left-out", draft.left_out), ("name-of-one-kubelet", draft.shared)):
        for each in held:
            where = f"{each.row} of {each.node}" if each.node else each.row
            why = each.why if each.name in each.why else f"{each.name}: {each.why}"
            what = "wildcard-name" if each.wildcard else kind
            yield _one(what, f"{where}: {why}", *filter(None, (each.node,)))
    if draft.problem:
        yield _one("draft-refused", draft.problem)
    settings = found.whole.settings
    for row, asked in settings.names.items() if settings is not None else ():
        have = {name for each in counted(found, row) for name in (*each.facts.subject.dns, *each.facts.subject.ips)}
        lacking = [name for name in asked if name not in have]
        if have and lacking:
            yield _one("names-asked-for", f"{row}: {first_few(lacking, _NAMED)}", row)
    yield from _unseen(found, draft)


def _unseen(found: ClusterInventory, draft: ClusterDraft) -> Iterator[Obstacle]:
    """Yield the rows of nodes whose names were not seen, with the reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    signed = {(each.node, each.row) for each in found.certificates if each.ca}
    shown = {(each.node, each.row) for each in found.certificates}
    silent = {(each.node, each.row): each.why for each in found.listeners if each.why}
    for node in draft.cluster.nodes if draft.cluster is not None else ():
        for row in SERVERS:
            at = (node.name, row)
            if node.roles & ROWS[row].node_roles and at not in signed:
                why = _why_not_seen(found, at, shown=at in shown, silent=silent.get(at, ""))
                if why:
                    reasons.setdefault((row, why), []).append(node.name)
    for (row, why), nodes in reasons.items():
        yield _one("names-not-seen", f"{row} of {first_few(nodes, _NAMED)}: {why}", *nodes)


def _why_not_seen(found: ClusterInventory, at: tuple[str, str], *, shown: bool, silent: str) -> str:
    """Return why the names of a node's row do not count; "" if nothing can be missing."""
    node, row = at
    if row == "kubelet" and (shown or not kubelets.asks_for_serving(found, node)):
        # A kubelet that asks nobody has signed its certificate itself, and nobody can be calling it by its names.
        return ""
    if shown and row.startswith("etcd-") and not found.cas.get("etcd"):
        return "the CA of etcd is not known here; its file is on the control planes"
    if shown:
        return "no CA of the cluster has signed what it presents"
    return silent or "nothing was found at its address"


def _beside(found: ClusterInventory, draft: ClusterDraft) -> Iterator[Obstacle]:
    held: dict[tuple[str, str], list[str]] = {}
    for each in own_rows.beside(found):
        who = own_rows.after(each, found, draft.cluster)
        held.setdefault((f"{each.place} ({each.row}), of the CA {each.ca}", who), []).append(each.node)
    for (text, who), nodes in held.items():
        yield _one("pair-beside", f"{first_few(nodes, _NAMED)}: {text}; afterwards {who} must sign it", *nodes)


def _ending(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    yield from (_one(kind, text, *filter(None, (node,))) for kind, node, text in endings.ending(found))


def _nodes(found: ClusterInventory, draft: ClusterDraft) -> Iterator[Obstacle]:
    for node in found.whole.nodes:
        if node.ready in ("Unknown", ""):
            yield _one("node-silent", f"{node.name} does not report", node.name)
    problems: dict[str, list[str]] = {}
    for name, problem in kubelets.problems(found, draft.cluster):
        problems.setdefault(problem, []).append(name)
    for problem, names in problems.items():
        yield _one("kubelet-locked-out", f"the kubelet of {first_few(names, _NAMED)} {problem}", *names)


def _unfit_machines(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    for machine in found.machines:
        name = machine.node or machine.root
        yield from (_one("unfit-machine", f"{name}: {each}", name) for each in machine.unfit)


def _unread(found: ClusterInventory, _: ClusterDraft) -> Iterator[Obstacle]:
    parts: dict[str, list[str]] = {}
    for part, why in found.whole.unread.items():
        parts.setdefault(why, []).append(part)
    for machine in found.machines:
        for path, why in machine.unread.items():
            parts.setdefault(why, []).append(f"{path} on {machine.node or machine.root}")
    for why, what in parts.items():
        yield _one("not-read", f"{first_few(what, _NAMED)}: {why}", *what)


_CHECKS: Final[tuple[_Check, ...]] = (
    _kubeadm,
    _ours,
    _components,
    _versions,
    _etcd,
    _several_cas,
    _requests,
    _tokens,
    _kubeconfigs,
    _copies,
    _rights,
    _names,
    _beside,
    _ending,
    _nodes,
    _unfit_machines,
    _unread,
)
