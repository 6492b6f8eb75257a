"""Says which CAs are right in a running cluster: by its Vault, by files that a person names, or by the root's SHA-256.

What the cluster itself shows never decides it: only a certificate with the right SHA-256 is taken from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from vaultpki.certificates import ISSUING_CAS, ROOT, SERVICE_ACCOUNT, ca_subject
from vaultpki.errors import CertificateUnreadable, StateConflict, VaultpkiError
from vaultpki.identity import anchor, nodes
from vaultpki.issue import issuers, rotations
from vaultpki.live.token_keys import KeysExpected
from vaultpki.model import Cluster
from vaultpki.pki import chains, foreign_cas, x509
from vaultpki.pki.chains import between, why_untrusted
from vaultpki.pki.facts import Facts
from vaultpki.pki.roots import unfit
from vaultpki.pki.service_account import token_keys
from vaultpki.pki.trust import in_date, is_root, named, named_by_owner
from vaultpki.records.node_report import NodeReport
from vaultpki.records.service_account import NO_KEYS_YET
from vaultpki.values import pem
from vaultpki.vault import Vault
from vaultpki.verify.on_disk import Holder


@dataclass(frozen=True, slots=True)
class Expected:
    """The CAs that count now: the roots, and the issuing CAs by domain.

    `above` are further CAs of a PKI outside in the chains: those between, and a root above a pinned intermediate. A
    domain of which `issuing` has none is not known: an issuing CA of it counts by its root and its name. `source`
    says in a few words where this is from. `foreign` are the foreign CAs of cluster.yaml by domain: they may be in its
    bundles, and sign nothing of the cluster.
    """

    cluster: str
    roots: tuple[Facts, ...]
    issuing: Mapping[str, tuple[Facts, ...]]
    source: str
    above: tuple[Facts, ...] = ()
    foreign: Mapping[str, tuple[Facts, ...]] = field(default_factory=dict)

    def why_wrong(self, facts: Facts, domain: str) -> str | None:
        """Return why it is not an issuing CA of this domain now, as the rest of a sentence; None if it is one."""
        whys = [_why_untrusted(facts, root, self.above, self.cluster, domain) for root in self.roots]
        if None not in whys:
            return whys[0]
        if domain in self.issuing and facts not in self.issuing[domain]:
            return f"{self.source} does not have it any more"
        return None

    def may_hold(self, facts: Facts, domain: str) -> bool:
        """Return whether it is a foreign CA that bundles of this domain may hold."""
        return facts in self.foreign.get(domain, ())

    def of(self, domain: str) -> tuple[Facts, ...]:
        """Return the issuing CAs of a domain, none if they are not known."""
        return self.issuing.get(domain, ())

    def over(self, domain: str) -> tuple[Facts, ...]:
        """Return the CAs above those of a domain that a bundle for its clients holds beside the roots."""
        return (*chains.above(self.of(domain), self.above), *chains.tops(self.roots, self.above))

    def named(self, facts: Facts, ca: str) -> bool:
        """Return whether a certificate has the name of this CA, with attributes of its owner or none."""
        return named_by_owner(facts, ca_subject(self.cluster, ca))


@dataclass(frozen=True, slots=True)
class Fleet:
    """What Vault says of the nodes: their last reports by node. `unread` says why there are none.

    `keys` are the service-account keys that count, None if Vault does not say; `keys_unread` says why.
    """

    reports: Mapping[str, NodeReport] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    unread: str = ""
    keys: KeysExpected | None = None
    keys_unread: str = ""


def from_vault(cluster: Cluster, vault: Vault, now: datetime) -> Expected:
    """Return what a node of the cluster trusts now, by the same rules. Raises VaultpkiError if Vault does not say."""
    pin = anchor.find(cluster, vault, now).root_sha256
    found = rotations.read_rotations(rotations.fetch_rotations(vault, cluster.prefix), cluster.prefix)
    for error in found.unreadable.values():
        raise error
    shown = issuers.fetch_issuers(vault, cluster.prefix, found.named())
    above = issuers.roots_below(shown, pin, found.records.get(ROOT), now, cluster=cluster.name)
    trust = issuers.follow(shown, {}, found.views({}, {}), above, now, cluster=cluster.name)
    issuing = {ca: trust[ca].issuing for ca in ISSUING_CAS}
    over = dict.fromkeys(facts for known in trust.values() for facts in (*known.between, *known.tops))
    return Expected(cluster.name, above.trusted, issuing, "Vault", tuple(over), foreign_cas.read(cluster))


def fleet(cluster: Cluster, vault: Vault) -> Fleet:
    """Return the reports of the nodes; why there are none if Vault does not give them."""
    try:
        members = nodes.members(cluster, vault)
    except VaultpkiError as error:
        return Fleet(unread=str(error))
    found = {member.name: member.report for member in members}
    reports = {name: report for name, report in found.items() if report is not None}
    return Fleet(reports, tuple(name for name in found if name not in reports))


def with_token_keys(fleet: Fleet, cluster: Cluster, vault: Vault, expected: Expected) -> Fleet:
    """Return the same with the service-account keys that count, as `token_keys_in_vault` says."""
    if not cluster.service_account_keys:
        return fleet
    try:
        return replace(fleet, keys=token_keys_in_vault(cluster, vault, expected))
    except VaultpkiError as error:
        return replace(fleet, keys_unread=str(error))


def token_keys_in_vault(cluster: Cluster, vault: Vault, expected: Expected) -> KeysExpected:
    """Return the service-account keys that count now, by the record and the rules of nodes.

    `expected` are the CAs that count. A key counts until the record takes it out: also if the CA that certified it is
    trusted no more, or was revoked. Raises VaultpkiError if Vault does not say; StateConflict if there are none yet.
    """
    read = rotations.read_key_record(rotations.fetch_key_record(vault, cluster.prefix), cluster.prefix)
    record = read.record
    if record is None:
        raise read.error or StateConflict(NO_KEYS_YET)
    shown = issuers.fetch_issuers(vault, cluster.prefix, cas=(SERVICE_ACCOUNT,))
    on_mount = tuple(issuers.certificates(shown.issuing[SERVICE_ACCOUNT]))
    above = (*expected.above, *issuers.shown_roots(shown), *on_mount)
    issuing = [
        facts
        for facts in on_mount
        if any(_why_untrusted(facts, root, above, cluster.name, SERVICE_ACCOUNT) is None for root in expected.roots)
    ]
    offered = [facts for pem in record.offered for facts in x509.readable(pem)]
    middle = between(above, expected.roots, root_name=ca_subject(cluster.name, ROOT))
    counting = token_keys(offered, issuing, expected.roots, record.key_nodes, {}, {}, between=middle).certificates
    return KeysExpected(counting, "the record in Vault", record.active or bool(record.turn))


def from_files(cluster: Cluster, holders: Sequence[Holder], now: datetime) -> Expected | None:
    """Return what most of these holders trust, the pin of cluster.yaml considered; None if they hold no root CA.

    Raises StateConflict if cluster.yaml names another root than they hold.
    """
    pin = cluster.authority.root_sha256
    by_roots: Counter[frozenset[Facts]] = Counter()
    for holder in holders:
        if roots := frozenset(_roots(cluster, holder, now)):
            by_roots[roots] += 1
    if not by_roots:
        return None
    ((roots, _),) = by_roots.most_common(1)
    if pin is not None and all(facts.fingerprint != pin for facts in roots):
        raise StateConflict(
            f"the files of --dir hold another root CA than ca.root_sha256 in {cluster.file}. Name the files of this "
            "cluster, reach its Vault if the root is being rotated, or find out who changed them"
        )
    over = tuple(
        dict.fromkeys(
            facts
            for holder in holders
            for ca in ISSUING_CAS
            for facts in (*holder.parts(ca).between, *holder.parts(ca).roots)
            if facts not in roots
        )
    )
    issuing = {
        ca: tuple(
            dict.fromkeys(
                facts
                for holder in holders
                for facts in holder.own_cas(ca)
                if in_date(facts, now)
                and any(_why_untrusted(facts, root, over, cluster.name, ca) is None for root in roots)
            )
        )
        for ca in ISSUING_CAS
    }
    known = {ca: found for ca, found in issuing.items() if found}
    return Expected(cluster.name, tuple(roots), known, "--dir", over, foreign_cas.read(cluster))


def _roots(cluster: Cluster, holder: Holder, now: datetime) -> Iterator[Facts]:
    """Yield the roots that a holder trusts: those of this cluster, or the anchor outside that cluster.yaml names."""
    name, pin = ca_subject(cluster.name, ROOT), cluster.authority.root_sha256
    held = holder.authorities()
    outside = [facts for facts in held if facts.fingerprint == pin and not named(facts, name)]
    for facts in held:
        if is_root(facts, name, now) or (facts in outside and unfit(facts, now, name=name) is None):
            yield facts


def _why_untrusted(facts: Facts, root: Facts, above: Sequence[Facts], cluster: str, domain: str) -> str | None:
    root_name = ca_subject(cluster, ROOT)
    middle = between(above, (root,), root_name=root_name)
    return why_untrusted(facts, root, ca_subject(cluster, domain), middle, root_name=root_name)


def from_pin(cluster: Cluster, shown: Iterable[str], now: datetime) -> Expected | None:
    """Return the root that cluster.yaml names, if one of these texts holds it; None without one."""
    pin, name = cluster.authority.root_sha256, ca_subject(cluster.name, ROOT)
    for text in shown if pin is not None else ():
        beside = certificates(text)
        for facts in beside:
            if facts.fingerprint == pin and unfit(facts, now, name=name) is None:
                over = () if named(facts, name) else (*between(beside, (facts,)), *chains.tops((facts,), beside))
                return Expected(cluster.name, (facts,), {}, "ca.root_sha256", over, foreign_cas.read(cluster))
    return None


def certificates(text: str) -> tuple[Facts, ...]:
    """Return the certificates in a text from the cluster; text between them is ignored, as Go does.

    Returns none unless every one of them can be read.
    """
    found = []
    for body in pem.pem_bodies(text, "CERTIFICATE"):
        try:
            block = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
            found.append(x509.read_certificates(block.encode("ascii", "replace"))[0])
        except CertificateUnreadable:
            return ()
    return tuple(found)


def readable_certificates(text: str) -> Iterator[Facts]:
    """Yield the certificates in a text that can be read: one by others must not hide ours."""
    for body in pem.whole_bodies(text, "CERTIFICATE"):
        yield from certificates(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
