"""Finds the issuing CAs that wait for the signer of a root from outside, each with its signing request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vaultpki.certificates import ROOT, ca_subject, issuing_cas
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.identity.outside_signer import keeping_name, refuse_our_name, request_of
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.provision import authorities
from vaultpki.provision.rotation_records import read_records
from vaultpki.records import above
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.vault import Answer, Json, Request, Vault
from vaultpki.vault.issuer import number

if TYPE_CHECKING:
    from vaultpki.outside.request import WaitingRequest
    from vaultpki.pki.facts import Facts


@dataclass(frozen=True, slots=True)
class WaitingCa:
    """One that waits: the name of its issuer and key (`etcd-1`), the id of its key, and its request.

    `record` is that of its rotation, None if the CA was never rotated.
    """

    domain: str
    name: str
    key: str
    request: WaitingRequest
    record: RotationRecord | None = None


@dataclass(frozen=True, slots=True)
class OutsideCas:
    """What there is on the server of issuing CAs below a root from outside.

    `installed` are the SHA-256 of the certificates on their mounts, with the domain of each; `above` those of the CAs
    above on the root's mount. `signing` are the certificates of the CAs whose leaves are installed, and `records` the
    records of those that were rotated, both by domain.
    """

    waiting: tuple[WaitingCa, ...] = ()
    installed: Mapping[str, str] = field(default_factory=dict)
    above: frozenset[str] = frozenset()
    signing: Mapping[str, Facts] = field(default_factory=dict)
    records: Mapping[str, RotationRecord] = field(default_factory=dict)

    @property
    def rotated(self) -> str:
        """The CA that is being rotated; "" if none is."""
        return next((domain for domain, record in self.records.items() if record.active), "")


def waits_for_import(record: RotationRecord) -> bool:
    """Return whether a rotation stands where a certificate of a signer outside lets it go on.

    While the root moves outside the issuing CAs go along in published, each with its key.
    """
    along = record.state is State.PUBLISHED and record.method is Method.SAME_KEY
    return record.state is State.PREPARED or (along and record.new is not None and not record.new.sha256)


def outside_root(cluster: Cluster) -> OutsideRoot:
    """Return the root from outside whose signer people carry requests to; ArgumentError if there is none.

    Raises StateConflict for one with the name of ours.
    """
    outside = cluster.authority.outside
    if outside is None:
        raise ArgumentError(
            f"the root CA of {cluster.name} is made by vaultpki, and signs by itself; `ca: {{root: external}}` in "
            f"{cluster.file} is for a root from outside"
        )
    if not outside.by_people:
        raise ArgumentError(
            f"{outside.mount}/issuer/{outside.issuer} signs the issuing CAs of {cluster.name} by itself; "
            f"`vaultpki apply{cluster.file_option}` has them signed"
        )
    refuse_our_name(cluster)
    return outside


def find(cluster: Cluster, vault: Vault) -> OutsideCas:
    """Return which CAs wait, and which are installed; changes nothing on the server.

    Raises StateConflict if the cluster was not applied.
    """
    vault.pin_to_leader()
    records, cas = read_records(cluster, vault), issuing_cas(cluster)
    rotated = {ca: each.record for ca, each in records.items() if each.record is not None}
    asked = [request for ca in cas for request in _lists(cluster, vault, ca)]
    answers = vault.map(vault.call, asked)
    lists = dict(zip(cas, zip(answers[::2], answers[1::2], strict=True), strict=True))
    shown = {(ca, id_): facts for ca in cas for id_, facts in _shown(cluster, vault, ca, lists[ca][0]).items()}
    own = {ca: _own_id(ca, lists[ca][0], rotated.get(ca)) for ca in cas}
    signing = {ca: shown[ca, id_] for ca, id_ in own.items() if (ca, id_) in shown}
    found = {ca: _waiting(cluster, vault, ca, rotated.get(ca), *lists[ca], signing.get(ca)) for ca in cas}
    listed = vault.api.secrets.pki.list_issuers(mount_point=cluster.mount(ROOT))
    names = {id_: str(about.get("issuer_name") or "") for id_, about in listed.key_info.items()}
    over = _shown(cluster, vault, ROOT, listed)
    return OutsideCas(
        tuple(each for each in found.values() if each is not None),
        {facts.fingerprint: ca for (ca, _), facts in shown.items()},
        # One without its name is not installed yet.
        frozenset(facts.fingerprint for id_, facts in over.items() if names[id_] == above.name(facts.pem)),
        signing,
        rotated,
    )


def _shown(cluster: Cluster, vault: Vault, ca: str, listed: Answer) -> dict[str, Facts]:
    """Return the certificates on a mount by the ids of their issuers; one that cannot be read is left out."""
    from vaultpki.pki import x509

    read = vault.prepare.secrets.pki.read_issuer
    answers = vault.map(vault.call, [read(id_, mount_point=cluster.mount(ca)) for id_ in listed.keys])
    pems = {id_: str(answer.data.get("certificate") or "") for id_, answer in zip(listed.keys, answers, strict=True)}
    return {id_: facts for id_, pem in pems.items() for facts in x509.readable(pem)[:1]}


def _own_id(ca: str, listed: Answer, record: RotationRecord | None) -> str:
    """Return the id of the issuer whose leaves are installed; "" if there is none."""
    if record is not None:
        return record.leaf.issuer
    named = [id_ for id_, about in listed.key_info.items() if about.get("issuer_name") == f"{ca}-1"]
    return next(iter(named), "")


def _lists(cluster: Cluster, vault: Vault, ca: str) -> Iterator[Request]:
    mount = cluster.mount(ca)
    yield vault.prepare.secrets.pki.list_issuers(mount_point=mount)
    # hvac has no method for a list of keys.
    yield Request("LIST", f"{mount}/keys")


def _waiting(
    cluster: Cluster,
    vault: Vault,
    ca: str,
    record: RotationRecord | None,
    issuers: Answer,
    keys: Answer,
    signing: Facts | None,
) -> WaitingCa | None:
    """Return the CA of a mount that waits: the first one, or the next one of a rotation; None if none does.

    `signing` is the certificate of the CA whose leaves are installed.
    """
    if record is not None:
        if record.new is None or not waits_for_import(record):
            return None
        name, key = record.new.name, record.new.key
        if any(each.get("issuer_name") == name for each in issuers.key_info.values()):
            return None
        if key not in keys.keys:
            raise StateConflict(
                f"the rotation of {ca} has not made its key yet; run `vaultpki ca continue{cluster.file_option}` first"
            )
    else:
        name = f"{ca}-1"
        named = {id_ for id_, each in keys.key_info.items() if each.get("key_name") == name}
        if any(_is_own(each, name, named) for each in issuers.key_info.values()):
            return None
        if not named:
            raise StateConflict(
                f"{cluster.mount(ca)} has no key that waits for a certificate; run `vaultpki apply"
                f"{cluster.file_option}` first"
            )
        key = min(named)
    if record is not None and record.method is Method.SAME_KEY and signing is not None:
        cluster = keeping_name(cluster, signing)
    subject = ca_subject(cluster.name, ca, number(name))
    csr = authorities.signing_request(cluster, vault, cluster.mount(ca), subject, key)
    return WaitingCa(ca, name, key, request_of(cluster, ca, csr), record)


def _is_own(issuer: Json, name: str, keys: set[str]) -> bool:
    return issuer.get("issuer_name") == name or issuer.get("key_id") in keys


def domain_of(cluster: Cluster, common_name: str) -> str:
    """Return the issuing CA whose common name this is, or that of a later key; "" for any other name."""
    for ca in issuing_cas(cluster):
        head = ca_subject(cluster.name, ca)
        rest = common_name.removeprefix(head)
        if common_name.startswith(head) and (not rest or (rest[0] == " " and rest[1:].isdecimal())):
            return ca
    return ROOT if common_name == ca_subject(cluster.name, ROOT) else ""
