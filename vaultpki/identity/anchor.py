"""Finds what nodes and operators of a cluster are told to trust: where Vault is, and the root CA they are pinned to.

All of it comes from cluster.yaml, from whoever runs the command, and from the root CA's own mount. The cluster's record
in the config store has the same, but more people may write it: it is compared and never trusted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from vaultpki.certificates import MOST_ISSUERS, ROOT, all_cas, ca_subject
from vaultpki.errors import BadAnswer, Denied, ForeignObject, SpecError, StateConflict
from vaultpki.identity import outside_signer, root_pin
from vaultpki.model import Cluster
from vaultpki.pki.roots import successors, unfit
from vaultpki.pki.trust import is_root, named
from vaultpki.records import above, published
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import ROTATION_FOLDER, RotationRecord, State
from vaultpki.values import names
from vaultpki.vault import HEALTH, Answer, Capabilities, Vault, shown_certificate, shown_request

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts

# The name that `apply` gives to the root, and a rotation to its successors.
_OWN: Final = re.compile(rf"{ROOT}-[0-9]{{1,6}}")


@dataclass(frozen=True, slots=True)
class Anchors:
    """What every join file of a cluster has in common.

    `namespace` is None for the root namespace. `drift` names the fields in which the cluster's record differs.
    `former_root_sha256` is the root from which nodes come that join with their folders; None for all others.
    """

    addresses: tuple[str, ...]
    ca_pem: str | None
    root_sha256: str
    namespace: str | None = None
    drift: tuple[str, ...] = ()
    former_root_sha256: str | None = None


def find(cluster: Cluster, vault: Vault, now: datetime) -> Anchors:
    """Return what the nodes of an applied cluster are told; the root CA must be valid at `now`.

    Raises StateConflict if the cluster was not applied, and ForeignObject if the root's mount has no root CA of this
    cluster, or another one than `ca.root_sha256` in cluster.yaml.
    """
    cluster = outside_signer.complete(cluster, vault)
    namespace = _namespace(cluster, vault)
    path = f"{cluster.mount('config')}/data/cluster"
    record = vault.stored(cluster.mount("config"), "cluster").get("data")
    listed = vault.api.secrets.pki.list_issuers(mount_point=cluster.mount(ROOT)) if record is not None else None
    if record is None or listed is None or not listed.keys:
        raise StateConflict(
            f"cluster {cluster.name} is not in this Vault; run `vaultpki apply{cluster.file_option}` first"
        )
    addresses, ca_pem = where(cluster, vault.addresses, vault.settings.ca_pem)
    pin = _root_sha256(cluster, vault, listed, now)
    wanted = published.cluster_record(cluster, addresses, ca_pem, pin)
    return Anchors(addresses, ca_pem, pin, namespace, published.drift(record, wanted, where=path))


def every_pin(cluster: Cluster, first: str) -> tuple[str, ...]:
    """Return the SHA-256 of the root that join files name, and those of a list in cluster.yaml.

    Whoever wrote that list needs no other word for these roots, as the owner of a node by the list in agent.yaml.
    """
    authority = cluster.authority
    listed = (authority.root_sha256, *authority.other_roots) if authority.other_roots else ()
    return tuple(dict.fromkeys((first, *(pin for pin in listed if pin))))


def refuse_missing(cluster: Cluster, vault: Vault) -> None:
    """Raise StateConflict if the server has nothing of this cluster: it was never applied there, or was destroyed.

    Then every list of nodes and CAs would be empty, which says nothing about nodes that live elsewhere.
    """
    try:
        if vault.stored(cluster.mount("config"), "cluster"):
            return
    except Denied:
        # A token may see a part of the nodes, and no record.
        return
    # The prefix of another cluster may lie below this one.
    own = {f"{cluster.mount(name)}/" for name in ("config", *all_cas(cluster))}
    if own.isdisjoint(vault.api.sys.list_mounted_secrets_engines().data):
        raise missing(cluster, vault)


def missing(cluster: Cluster, vault: Vault) -> StateConflict:
    """Return the error for a server that has nothing of this cluster."""
    return StateConflict(
        f"cluster {cluster.name} is not in this Vault ({vault.address} has nothing below {cluster.prefix}): it was "
        "never applied here, or it was destroyed. VAULT_ADDR, VAULT_NAMESPACE and `prefix` say where it is looked for. "
        f"To make it, run `vaultpki apply{cluster.file_option}`"
    )


def where(cluster: Cluster, addresses: tuple[str, ...], ca_pem: str | None) -> tuple[tuple[str, ...], str | None]:
    """Return the addresses of Vault that nodes are told, and the CA of its certificate as PEM.

    The arguments are those of whoever runs the command. They count if cluster.yaml has none; if it has addresses but
    no CA, the CA of other addresses does not count.
    """
    spec = cluster.vault
    if spec.addresses:
        return spec.addresses, spec.ca_pem
    return addresses, spec.ca_pem or ca_pem


def drift_sentence(cluster: Cluster, drift: tuple[str, ...]) -> str:
    """Return the sentence that warns of a cluster record in Vault that differs from cluster.yaml."""
    return (
        f"the record {cluster.mount('config')}/cluster in Vault differs from {cluster.file} "
        f"({', '.join(drift)}), and is not trusted; `vaultpki plan{cluster.file_option}` shows it, and "
        "`apply` corrects it"
    )


def refuse_other_root(
    cluster: Cluster, shown: str | None, *, accepted: Collection[str] = (), record: RotationRecord | None = None
) -> None:
    """Raise ForeignObject if `ca.root_sha256` is set and is neither `shown` nor `accepted`.

    `shown` is None if there is no root CA. `accepted` are successors that the root vouches for. The root's `record`
    tells of a rotation that has ended, after which that line must be changed; it makes no other root pass.
    """
    wanted, mount = cluster.authority.root_sha256, cluster.mount(ROOT)
    if wanted is None or wanted == shown or wanted in accepted or shown in cluster.authority.other_roots:
        return
    if cluster.authority.outside is not None:
        if shown is None:
            # An apply puts it there.
            return
        raise ForeignObject(
            f"the root CA at {mount} has the SHA-256 {shown}, and that of {cluster.file}, which is from outside, has "
            f"{wanted}. This is another Vault, or somebody changed one of the two. If the one is to take the place of "
            f"the other, write both below `ca`, `root_sha256: [{wanted}, {shown}]`. Then rotate the root: `vaultpki ca "
            "rotate root`"
        )
    if shown is None:
        raise ForeignObject(
            f"there is no root CA at {mount}, and a new one would be another root than ca.root_sha256 in "
            f"{cluster.file} names. Restore that one from a backup, or remove the key to make a new one"
        )
    if root_pin.replaced_by(record, wanted) == shown:
        done = record is not None and record.state is State.DONE
        how = "was replaced by `vaultpki ca rotate root`" if done else "came back by `vaultpki ca abort`"
        raise ForeignObject(
            f"the root CA at {mount} {how}; if that was you or yours, write `root_sha256: {shown}` into {cluster.file} "
            "below `ca`"
        )
    raise ForeignObject(
        f"the root CA at {mount} has the SHA-256 {shown}, and {cluster.file} names {wanted} (ca.root_sha256). This is "
        "another Vault, or somebody changed the root. Find out which before anything is trusted"
    )


def vouched(cluster: Cluster, root: Facts, shown: Collection[Facts], now: datetime) -> frozenset[str]:
    """Return the SHA-256 of the roots on the root's mount for which `root` vouches: its successors in a rotation."""
    found = successors([root], tuple(shown), now, name=ca_subject(cluster.name, ROOT))
    return frozenset(facts.fingerprint for facts in found)


def accepted_for(cluster: Cluster, root: Facts, shown: Collection[Facts], now: datetime) -> frozenset[str]:
    """Return the SHA-256 that cluster.yaml may name in place of that of `root`, since `root` vouches for them.

    Only from one root of ours to another: anybody's root can vouch for one from outside, whose certificate is public,
    so cluster.yaml names both of them then.
    """
    name = ca_subject(cluster.name, ROOT)
    ours = {facts.fingerprint for facts in shown if named(facts, name)}
    return vouched(cluster, root, shown, now) & ours if named(root, name) else frozenset()


def refuse_unvouched_root(cluster: Cluster, vault: Vault, root: Facts, listed: Answer, now: datetime) -> None:
    """Raise ForeignObject unless `root`, the default issuer of its mount, is what `ca.root_sha256` names.

    While the root is rotated that line may name the old root or the new one: the one for which the other vouches by the
    certificates on the mount, whose issuers are `listed`. No record is believed for that.
    """
    wanted = cluster.authority.root_sha256
    if wanted is None or root.fingerprint in (wanted, *cluster.authority.other_roots):
        return
    shown = _certificates(cluster, vault, listed.keys).values()
    accepted = set(accepted_for(cluster, root, tuple(shown), now))
    for facts in shown:
        if facts.fingerprint == wanted and root.fingerprint in vouched(cluster, facts, shown, now):
            accepted.add(wanted)
    if wanted not in accepted:
        refuse_other_root(cluster, root.fingerprint, record=_root_record(cluster, vault))


def refuse_no_namespaces(cluster: Cluster, capabilities: Capabilities) -> None:
    """Raise SpecError if cluster.yaml names a namespace and the server ignores namespaces."""
    if cluster.vault.namespace not in (None, "root") and not capabilities.namespaces:
        raise SpecError(
            f"this server (Vault {capabilities.version}, community edition) has no namespaces, so the cluster would "
            "be beside everything else. Leave vault.namespace out, or use OpenBao or Vault Enterprise",
            file=cluster.file,
            field="vault.namespace",
        )


def _namespace(cluster: Cluster, vault: Vault) -> str | None:
    name = names.vault_namespace(vault.settings.namespace) if vault.settings.namespace else "root"
    if name == "root":
        return None
    capabilities = Capabilities.of(vault.call(HEALTH))
    refuse_no_namespaces(cluster, capabilities)
    return name if capabilities.namespaces else None


def _root_sha256(cluster: Cluster, vault: Vault, listed: Answer, now: datetime) -> str:
    """Return the SHA-256 of the cluster's root CA among the issuers on its mount, which `listed` lists.

    While the root is rotated that is the old one, which vouches for the new one, until it is deleted.
    """
    subject, mount = ca_subject(cluster.name, ROOT), cluster.mount(ROOT)
    found = _certificates(cluster, vault, listed.keys)
    if leaving := _leaving(cluster, listed, found, now):
        return leaving
    if cluster.authority.outside is not None:
        return _outside(cluster, found, now)
    roots = {id_: facts for id_, facts in found.items() if is_root(facts, subject, now)}
    after = {facts.fingerprint: vouched(cluster, facts, found.values(), now) for facts in roots.values()}
    pinned = cluster.authority.root_sha256
    if pinned is not None and pinned in after:
        return next((sha256 for sha256, others in after.items() if pinned in others), pinned)
    if not roots:
        raise ForeignObject(
            f"{mount} shows no root CA of this cluster: none of its issuers is a self-signed CA named {subject} that "
            f"is in date. Find out who changed it, and run `vaultpki plan{cluster.file_option}`"
        )
    followed = frozenset[str]().union(*after.values())
    first = {id_: facts.fingerprint for id_, facts in roots.items() if facts.fingerprint not in followed}
    # Of several, the one that apply or a rotation named.
    own = [sha for id_, sha in first.items() if _OWN.fullmatch(str(listed.key_info.get(id_, {}).get("issuer_name")))]
    chosen = list(first.values()) if len(first) == 1 else own
    if len(chosen) != 1:
        raise ForeignObject(
            f"{mount} shows {len(roots)} root CAs named {subject}; write the SHA-256 of the right one into "
            f"{cluster.file} as ca.root_sha256"
        )
    if pinned is not None:
        refuse_other_root(cluster, chosen[0], record=_root_record(cluster, vault))
    return chosen[0]


def _leaving(cluster: Cluster, listed: Answer, found: Mapping[str, Facts], now: datetime) -> str:
    """Return the SHA-256 of the root that another one is to replace, of which one is from outside; "" if none is.

    It is one that cluster.yaml names beside the new one. If cluster.yaml names none and asks for a root of ours, it is
    the default issuer, or what vouches for that.
    """
    authority, name = cluster.authority, ca_subject(cluster.name, ROOT)
    pins = [pin for pin in (authority.root_sha256, *authority.other_roots) if pin]
    wanted = above.sha256(authority.outside.anchor) if authority.outside is not None else ""
    shown = {facts.fingerprint: facts for facts in found.values() if unfit(facts, now, name=name) is None}
    if authority.outside is not None or pins:
        others = [pin for pin in pins if pin in shown and pin != wanted]
        ours = [pin for pin in others if named(shown[pin], name)]
        # Of roots of ours alone the rest of this module decides.
        return next((pin for pin in others if pin not in ours), next(iter(ours if wanted else ()), ""))
    default = next((facts for id_, facts in found.items() if listed.key_info.get(id_, {}).get("is_default")), None)
    if default is None or default.fingerprint not in shown:
        return ""
    if not named(default, name):
        return default.fingerprint
    before = [
        facts.fingerprint
        for facts in shown.values()
        if not named(facts, name) and default.fingerprint in vouched(cluster, facts, found.values(), now)
    ]
    return before[0] if len(before) == 1 else ""


def _outside(cluster: Cluster, found: Mapping[str, Facts], now: datetime) -> str:
    """Return the SHA-256 of the anchor of a root from outside, which the root's mount must show and be in date."""
    wanted, mount = str(cluster.authority.root_sha256), cluster.mount(ROOT)
    shown = next((facts for facts in found.values() if facts.fingerprint == wanted), None)
    if shown is None:
        raise ForeignObject(
            f"{mount} does not show the root CA that {cluster.file} names ({wanted}); run `vaultpki plan"
            f"{cluster.file_option}`, and find out who changed it"
        )
    if why := unfit(shown, now, name=ca_subject(cluster.name, ROOT)):
        raise ForeignObject(f"{why}; its SHA-256, {wanted}, is in {cluster.file}")
    return wanted


def _root_record(cluster: Cluster, vault: Vault) -> RotationRecord | None:
    """Return the record of the root's rotation; None if there is none that can be read."""
    path = f"{ROTATION_FOLDER}/{ROOT}"
    data = vault.stored(cluster.mount("config"), path).get("data")
    with contextlib.suppress(SpecError):
        return rotation_record.read(data, ROOT, where=path)
    return None


def _certificates(cluster: Cluster, vault: Vault, ids: tuple[str, ...]) -> dict[str, Facts]:
    """Read the certificate of every issuer on the root's mount, by the issuer's id. Needs no token."""
    from vaultpki.pki import x509

    mount = cluster.mount(ROOT)
    if len(ids) > MOST_ISSUERS:
        raise BadAnswer(
            f"{mount} shows {len(ids)} issuers, and a CA has one to {MOST_ISSUERS}; "
            f"run `vaultpki plan{cluster.file_option}`"
        )
    answers = vault.many([shown_request(mount, id_) for id_ in ids])
    return {
        id_: x509.read_certificates(shown_certificate(mount, id_, answer).encode())[0]
        for id_, answer in zip(ids, answers, strict=True)
    }
