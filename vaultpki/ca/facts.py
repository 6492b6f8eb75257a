"""Reads what a rotation depends on: the mount of its CA, and what nodes and operators hold."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakKeyDictionary

from vaultpki.certificates import LEAF_BACKDATE, ROOT, SERVICE_ACCOUNT, all_rows, ca_subject, resolve, rows
from vaultpki.csr_roles import NODE_PREFIX, NODES_GROUP, CsrRole, csr_roles, fits_pattern
from vaultpki.errors import BadAnswer, CertificateUnreadable, ForeignObject, SpecError, StateConflict
from vaultpki.identity.anchor import refuse_unvouched_root
from vaultpki.identity.nodes import Member, NodeList
from vaultpki.identity.outside_signer import chain_of
from vaultpki.kubernetes_versions import minors
from vaultpki.layout import trust_bundles
from vaultpki.model import Cluster, NodeRole
from vaultpki.pki.ca_life import WITH
from vaultpki.pki.facts import Facts
from vaultpki.provision.ca_facts import BEFORE_ROOT
from vaultpki.readers import READERS, once_start_only, readers_of, start_only
from vaultpki.records import above as above_names
from vaultpki.records import node_report
from vaultpki.redact import named, printable, stamp
from vaultpki.rotation.gates import LeafHolder, OperatorLeaf, Participant, unreplaced
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.vault import Answer, Request, Vault, text

_MOST_ON_MOUNT: Final = 100
_SERIAL: Final = re.compile(r"[0-9a-fA-F]{1,2}(?:[:-][0-9a-fA-F]{1,2}){0,63}")


def read_mount(
    cluster: Cluster,
    vault: Vault,
    domain: str,
    root: Facts,
    *,
    incoming: tuple[Facts, ...] = (),
    above: tuple[Facts, ...] = (),
) -> RotationMount:
    """Return what is on the mount of a CA. Raises ForeignObject if it has more issuers than anybody can want.

    `incoming` and `above` are as in the mount, the latter beside those of cluster.yaml.
    """
    mount = cluster.mount(domain)
    requests = [
        vault.prepare.secrets.pki.list_issuers(mount_point=mount),
        # hvac has no method for keys, and none for a mount's defaults.
        Request("LIST", f"{mount}/keys"),
        Request("GET", f"{mount}/config/issuers"),
    ]
    issuers, keys, config = vault.map(vault.call, requests)
    if len(issuers.keys) > _MOST_ON_MOUNT:
        raise ForeignObject(
            f"{mount} has {len(issuers.keys)} issuers; find out who made them, and delete those that nobody needs"
        )
    read = vault.prepare.secrets.pki.read_issuer
    answers = vault.map(vault.call, [read(id_, mount_point=mount) for id_ in issuers.keys])
    found = zip(issuers.keys, answers, strict=True)
    return RotationMount(
        path=mount,
        root=root,
        # One may have been deleted meanwhile.
        issuers=tuple(_issuer(id_, answer, keys.key_info) for id_, answer in found if answer.found),
        keys={id_: str(key.get("key_name") or "") for id_, key in keys.key_info.items()},
        default=next((id_ for id_, each in issuers.key_info.items() if each.get("is_default")), ""),
        default_key=next((id_ for id_, each in keys.key_info.items() if each.get("is_default")), ""),
        follows=config.data.get("default_follows_latest_issuer") is True,
        above=tuple(dict.fromkeys((*_above(cluster), *above))),
        root_name=ca_subject(cluster.name, ROOT),
        incoming=incoming if domain == ROOT else (),
    )


def read_above(cluster: Cluster, vault: Vault) -> tuple[Facts, ...]:
    """Return the CAs of chains of roots from outside on the root's mount, as far as they can be read."""
    from vaultpki.pki import x509

    mount, pki = cluster.mount(ROOT), vault.prepare.secrets.pki
    listed = vault.api.secrets.pki.list_issuers(mount_point=mount).key_info
    ids = [id_ for id_, each in listed.items() if above_names.is_name(str(each.get("issuer_name") or ""))]
    answers = vault.map(vault.call, [pki.read_issuer(id_, mount_point=mount) for id_ in ids])
    pems = (str(answer.data.get("certificate") or "") for answer in answers if answer.found)
    return tuple(facts for pem in pems for facts in x509.readable(pem)[:1])


def _above(cluster: Cluster) -> tuple[Facts, ...]:
    """Return the CAs of a root from outside other than its anchor; none if the root is ours."""
    outside = cluster.authority.outside
    return chain_of(cluster, outside)[1:] if outside is not None else ()


def read_root(cluster: Cluster, vault: Vault, now: datetime, *, known: Facts | None = None) -> Facts:
    """Return the certificate of the root CA that signs now.

    Raises ForeignObject if its mount shows none, or another one than cluster.yaml names; see
    `anchor.refuse_unvouched_root`. `known` is the root that this command has found to be the cluster's already: once a
    rotation is done, the root that vouched for it is not on the mount any more.
    """
    from vaultpki.pki import x509

    mount, pki = cluster.mount(ROOT), vault.api.secrets.pki
    listed = pki.list_issuers(mount_point=mount)
    answer = pki.read_issuer("default", mount_point=mount) if listed.keys else None
    if answer is None or not answer.found:
        raise ForeignObject(f"there is no root CA at {mount}; run `vaultpki apply{cluster.file_option}` first")
    root = x509.read_certificates(text(answer.data, "certificate").encode())[0]
    if known is None or root != known:
        refuse_unvouched_root(cluster, vault, root, listed, now)
    return root


def _issuer(id_: str, answer: Answer, keys: Mapping[str, object]) -> MountIssuer:
    from vaultpki.pki import x509

    data = answer.data
    facts: Facts | None = None
    try:
        facts = x509.read_certificates(str(data.get("certificate") or "").encode())[0]
    except CertificateUnreadable:
        facts = None
    key = str(data.get("key_id") or "")
    return MountIssuer(
        id=id_,
        name=str(data.get("issuer_name") or ""),
        key=key if key in keys else "",
        usage=frozenset(str(data.get("usage") or "").split(",")),
        revoked=data.get("revoked") is True,
        facts=facts,
        chain=tuple(map(str, data.get("manual_chain") or ())),
    )


def refuse_unknown(cluster: Cluster, vault: Vault, found: NodeList) -> None:
    """Raise SpecError if a node has a credential that cluster.yaml does not name.

    A gate that did not know such a node would not wait for it.
    """
    listed = vault.api.auth.approle.list_roles(mount_point=f"{cluster.prefix}/listed").keys
    known = {node.name for node in cluster.nodes}
    unknown = [name for name in listed if name not in known]
    unknown += [each.name for each in found.members if each.holder is None and each.credentials != 0]
    unknown += [f"the nodes of pool {pool}" for pool in found.lacking]
    if unknown:
        raise SpecError(
            f"{named(unknown)} can log in and {'is' if len(unknown) == 1 else 'are'} not in {cluster.file}; run "
            "`vaultpki plan` with the cluster.yaml that was applied last, and `vaultpki apply` if they are gone",
            file=cluster.file,
            field="nodes",
        )


def participants(cluster: Cluster, found: Collection[Member], domain: str) -> tuple[Participant, ...]:
    """Return these nodes as the gates of a domain count them; a listed node that never joined is none of them."""
    shares = functools.cache(functools.partial(_share, cluster, domain))
    return tuple(
        _participant(each, cluster, domain, shares(each.holder.roles if each.holder is not None else frozenset()))
        for each in found
        if not each.locked or each.report
    )


@dataclass(frozen=True, slots=True)
class _Share:
    """What nodes of the same roles have of a domain: its certificates, its bundle, and readers of that bundle."""

    roles: frozenset[NodeRole]
    certificates: frozenset[str]
    bundle: bool


def _share(cluster: Cluster, domain: str, roles: frozenset[NodeRole]) -> _Share:
    own = [row for row in rows(cluster) if row.node_roles & roles]
    return _Share(
        roles=roles,
        certificates=frozenset(row.name for row in own if row.ca == domain),
        bundle=any(each.ca == domain and not each.chain for each in trust_bundles(cluster.layout, roles, own))
        # It is in no file: such a node reports the CA by which it checks keys, and `token_key_certificates` the rest.
        or (domain == SERVICE_ACCOUNT and NodeRole.CONTROL_PLANE in roles),
    )


def _participant(who: Member, cluster: Cluster, domain: str, share: _Share) -> Participant:
    # Nothing that a locked node claims counts, for others or for itself; a thief may have written it.
    report = None if who.locked else who.report
    # A node's word on its versions makes gates wait for its own components, or not.
    versions = minors(report.kubernetes) if report is not None else {}
    at_start = [each.component for each in start_only(domain, share.roles, cluster.layout, versions)]
    _, older = once_start_only(readers_of(domain, share.roles, cluster.layout), versions)
    return Participant(
        name=who.name,
        kind="listed" if who.kind == "listed" else "pooled",
        pool=who.pool or "" if who.kind == "pooled" else "",
        certificates=share.certificates,
        bundle=share.bundle,
        readers=tuple(f"{domain}/{component}" for component in at_start),
        credentials=who.credentials,
        report=report,
        locked=who.locked,
        last_expiry=node_report.last_expiry(who.report) if who.locked and who.report is not None else None,
        join_until=who.join_until,
        unversioned=tuple(component for component in older if component not in at_start),
        member=NodeRole.ETCD in share.roles,
        signs=cluster.service_account_keys and NodeRole.CONTROL_PLANE in share.roles,
    )


# The certificates that are not what is looked for, or do not count any more, by mount and purpose: a certificate does
# not change but for its revocation, and a command that waits looks again and again.
_SETTLED: WeakKeyDictionary[Vault, dict[str, set[str]]] = WeakKeyDictionary()


def read_operator_leaves(
    cluster: Cluster,
    vault: Vault,
    ca: Facts,
    domain: str,
    now: datetime,
    successor: Facts | None = None,
    since: datetime | None = None,
) -> tuple[OperatorLeaf, ...]:
    """Return the live certificates that `ca` has signed and no agent reports, and that none of `successor` replaces.

    One that was signed before `since` replaces none. They are those of operators, and those that the signer had signed
    for kubelets and people: of the latter one replaces all in its name. Operators' are known by their rows' subjects on
    the mount itself: a node that reports the serial number of one says what is not so. A revoked one does not count.
    """
    successors: list[str] = []
    replaced: set[tuple[LeafHolder, str]] = set()
    leaves = []
    for facts, leaf in _of_no_agent(cluster, vault, domain, now):
        if facts.authority_key_id == ca.subject_key_id:
            leaves.append(leaf)
        elif successor is not None and facts.authority_key_id == successor.subject_key_id:
            if _signed(facts) < (since or _signed(facts)):
                continue
            if leaf.holder is LeafHolder.OPERATOR:
                successors.append(leaf.name)
            else:
                replaced.add((leaf.holder, leaf.name))
    own = [leaf for leaf in leaves if leaf.holder is LeafHolder.OPERATOR]
    others = (leaf for leaf in leaves if leaf.holder is not LeafHolder.OPERATOR)
    return (*unreplaced(own, successors), *(leaf for leaf in others if (leaf.holder, leaf.name) not in replaced))


def signed_for_operators(
    cluster: Cluster, vault: Vault, ca: Facts, domain: str, now: datetime, since: datetime | None = None
) -> tuple[OperatorLeaf, ...]:
    """Return the live certificates that `ca` has signed, since then if that is given, and that no agent reports."""
    return tuple(
        leaf
        for facts, leaf in _of_no_agent(cluster, vault, domain, now)
        if facts.authority_key_id == ca.subject_key_id and (since is None or _signed(facts) >= since)
    )


def _of_no_agent(cluster: Cluster, vault: Vault, domain: str, now: datetime) -> list[tuple[Facts, OperatorLeaf]]:
    """Return the live certificates on a CA's mount of operators, and those that the signer had signed for others."""
    operators = {
        (each.subject.common_name, each.subject.organization): each.name
        for row in rows(cluster)
        if row.operator and row.ca == domain
        for each in [resolve(row, cluster, None)]
    }
    by_request = tuple(role for role in csr_roles(cluster) if role.ca == domain)
    if not operators and not by_request:
        return []

    def known(facts: Facts) -> OperatorLeaf | None:
        name = operators.get((facts.subject.common_name, facts.subject.organization), "")
        return OperatorLeaf(name, f"{facts.serial:x}", facts.not_after) if name else _by_request(facts, by_request)

    return _live_leaves(vault, cluster.mount(domain), now, "no agent", known)


def read_joined(cluster: Cluster, vault: Vault, now: datetime) -> dict[str, datetime]:
    """Return the nodes that joined by token and have a live certificate, with when the newest of it was signed."""
    return {name: signed for name, (signed, _) in joined_lives(cluster, vault, now).items()}


def joined_lives(cluster: Cluster, vault: Vault, now: datetime) -> dict[str, tuple[datetime, datetime]]:
    """Return the same, with when that certificate was signed and when it ends."""
    roles = [each for each in csr_roles(cluster) if each.ca == "kubernetes" and each.organization == (NODES_GROUP,)]
    if not roles:
        return {}
    found: dict[str, tuple[datetime, datetime]] = {}
    mount = cluster.mount("kubernetes")
    for facts, leaf in _live_leaves(vault, mount, now, "joined", lambda facts: _by_request(facts, roles)):
        found[leaf.name] = max((_signed(facts), leaf.not_after), found.get(leaf.name, (_signed(facts), leaf.not_after)))
    return found


def _signed(facts: Facts) -> datetime:
    # Vault backdates what it signs.
    return facts.not_before + timedelta(seconds=LEAF_BACKDATE)


def _live_leaves(
    vault: Vault, mount: str, now: datetime, purpose: str, known: Callable[[Facts], OperatorLeaf | None]
) -> list[tuple[Facts, OperatorLeaf]]:
    """Return the certificates on a mount that are in date, not revoked and `known`, as the latter has them."""
    from vaultpki.pki import x509

    settled = _SETTLED.setdefault(vault, {}).setdefault(f"{mount} {purpose}", set())
    pki = vault.api.secrets.pki
    wanted = [_checked(serial) for serial in pki.list_certificates(mount_point=mount).keys if serial not in settled]

    def look(serial: str) -> tuple[Facts, OperatorLeaf] | None:
        answer = pki.read_certificate(serial, mount_point=mount)
        facts = None
        # Tidied meanwhile, or revoked.
        if answer.found and not answer.data.get("revocation_time"):
            with contextlib.suppress(CertificateUnreadable):
                facts = x509.read_certificates(text(answer.data, "certificate").encode())[0]
        leaf = known(facts) if facts is not None and not facts.is_ca and facts.not_after > now else None
        if facts is None or leaf is None:
            settled.add(serial)
            return None
        return facts, leaf

    # One at a time is kept: a mount has many certificates.
    return [each for each in vault.map(look, wanted) if each is not None]


def _by_request(facts: Facts, roles: Iterable[CsrRole]) -> OperatorLeaf | None:
    """Return the leaf of a kubelet without an agent, or of a person; None if none of these roles signs such a one."""
    subject = facts.subject
    for role in roles:
        if {*subject.organization} == {*role.organization} and any(
            fits_pattern(subject.common_name, each) for each in role.common_names
        ):
            kubelet = role.organization == (NODES_GROUP,)
            holder = LeafHolder.KUBELET if kubelet else LeafHolder.PERSON
            name = subject.common_name.removeprefix(NODE_PREFIX) if kubelet else subject.common_name
            return OperatorLeaf(name, f"{facts.serial:x}", facts.not_after, holder)
    return None


def _checked(serial: str) -> str:
    if not _SERIAL.fullmatch(serial):
        raise BadAnswer(f"the server lists {printable(serial[:80])!r} as a serial number; check any proxy in between")
    return serial


def longest_ttl(cluster: Cluster, domain: str) -> int:
    """Return the longest TTL, in seconds, of the leaves of a CA."""
    return max((row.ttl or cluster.ttl for row in all_rows(cluster) if row.ca == domain), default=cluster.ttl)


def reload(cluster: Cluster, domain: str) -> int:
    """Return after how many seconds each reader of a CA's leaves or of its bundle has noticed a new file by itself."""
    leaves = (row.reload for row in rows(cluster) if row.ca == domain)
    bundles = (reader.reload for reader in READERS if reader.ca == domain)
    return max((*leaves, *bundles), default=0)


def _first_above(cluster: Cluster, root: Facts) -> Facts:
    """Return the CA above the issuing ones that ends first: the root, or one of a PKI outside."""
    by_key: dict[bytes, Facts] = {}
    for facts in sorted((root, *_above(cluster)), key=lambda facts: facts.not_after):
        # A CA above is renewed by another certificate for its key.
        by_key[facts.public_key] = facts
    return min(by_key.values(), key=lambda facts: facts.not_after)


def no_time_gained(cluster: Cluster, domain: str, root: Facts, old: Facts) -> str:
    """Return why a successor of the issuing CA `old` would end no later than it, as a sentence; "" if it would."""
    first = _first_above(cluster, root)
    if first.not_after > old.not_after + WITH:
        return ""
    renew = "Have whoever keeps that renew it with its key first, and put it into ca.root_file"
    if cluster.authority.outside is None:
        renew = "Rotate the root first (`vaultpki ca rotate root`)"
    return (
        f"{printable(first.subject_text)} above the CA {domain} ends on {first.not_after:%Y-%m-%d}. A new CA would "
        f"end with it, as the one in use does (on {old.not_after:%Y-%m-%d}): no time is gained. {renew}"
    )


def life(cluster: Cluster, domain: str, root: Facts, now: datetime) -> int:
    """Return how many seconds a new CA can live below the root; raise StateConflict if leaves need more."""
    first = _first_above(cluster, root)
    left = int((first.not_after - now).total_seconds()) - BEFORE_ROOT
    if left <= 2 * longest_ttl(cluster, domain) and cluster.authority.outside is not None:
        raise StateConflict(
            f"{printable(first.subject_text)} ends at {stamp(first.not_after)}, too early for a new CA of {domain} "
            "and its certificates. Have whoever keeps it renew it with its key, and put that into ca.root_file"
        )
    if left <= 2 * longest_ttl(cluster, domain):
        raise StateConflict(
            f"the root CA ends at {stamp(root.not_after)}, too early for a new CA of {domain} and its certificates; "
            "rotate the root first (`vaultpki ca rotate root`)"
        )
    return min(cluster.authority.issuing_ttl, left)
