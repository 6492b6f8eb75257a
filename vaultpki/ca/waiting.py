"""Finds the issuing CAs that wait for the signer of a root from outside, each with its signing request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.identity.outside_signer import request_of
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.provision import authorities
from vaultpki.provision.rotation_records import read_records
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation.states import number
from vaultpki.vault import Answer, Json, Request, Vault

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts
    from vaultpki.pki.outside_request import WaitingRequest


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

    `installed` are the SHA-256 of the certificates on their mounts, with the domain of each.
    """

    waiting: tuple[WaitingCa, ...] = ()
    installed: Mapping[str, str] = field(default_factory=dict)


def outside_root(cluster: Cluster) -> OutsideRoot:
    """Return the root from outside whose signer people carry requests to; ArgumentError if there is none."""
    outside = cluster.authority.outside
    if outside is None:
        raise ArgumentError(
            f"the root CA of {cluster.name} is made by vaultpki, and signs by itself; `ca: {{root: external}}` in "
            f"{cluster.file} is for a root from outside"
        )
    if not outside.by_people:
        raise ArgumentError(
            f"{outside.mount}/issuer/{outside.issuer} signs the issuing CAs of {cluster.name} by itself; "
            f"`vaultpki apply -f {cluster.file}` has them signed"
        )
    return outside


def find(cluster: Cluster, vault: Vault) -> OutsideCas:
    """Return which CAs wait, and which are installed; changes nothing on the server.

    Raises StateConflict if the cluster was not applied.
    """
    vault.pin_to_leader()
    records = read_records(cluster, vault)
    asked = [request for ca in ISSUING_CAS for request in _lists(cluster, vault, ca)]
    answers = vault.map(vault.call, asked)
    lists = dict(zip(ISSUING_CAS, zip(answers[::2], answers[1::2], strict=True), strict=True))
    found = {ca: _waiting(cluster, vault, ca, records[ca].record, *lists[ca]) for ca in ISSUING_CAS}
    read = vault.prepare.secrets.pki.read_issuer
    issuers = [(ca, id_) for ca in ISSUING_CAS for id_ in lists[ca][0].keys]
    shown = vault.map(vault.call, [read(id_, mount_point=cluster.mount(ca)) for ca, id_ in issuers])
    pems = ((ca, str(answer.data.get("certificate") or "")) for (ca, _), answer in zip(issuers, shown, strict=True))
    installed = {facts.fingerprint: ca for ca, pem in pems for facts in _readable(pem)}
    return OutsideCas(tuple(each for each in found.values() if each is not None), installed)


def _readable(pem: str) -> Sequence[Facts]:
    from vaultpki.pki import x509

    return x509.readable(pem)[:1]


def _lists(cluster: Cluster, vault: Vault, ca: str) -> Iterator[Request]:
    mount = cluster.mount(ca)
    yield vault.prepare.secrets.pki.list_issuers(mount_point=mount)
    # hvac has no method for a list of keys.
    yield Request("LIST", f"{mount}/keys")


def _waiting(
    cluster: Cluster, vault: Vault, ca: str, record: RotationRecord | None, issuers: Answer, keys: Answer
) -> WaitingCa | None:
    """Return the CA of a mount that waits: the first one, or the next one of a rotation; None if none does."""
    if record is not None:
        if record.state is not State.PREPARED or record.new is None:
            return None
        name, key = record.new.name, record.new.key
        if any(each.get("issuer_name") == name for each in issuers.key_info.values()):
            return None
        if key not in keys.keys:
            raise StateConflict(
                f"the rotation of {ca} has not made its key yet; run `vaultpki ca continue -f {cluster.file}` first"
            )
    else:
        name = f"{ca}-1"
        named = {id_ for id_, each in keys.key_info.items() if each.get("key_name") == name}
        if any(_is_own(each, name, named) for each in issuers.key_info.values()):
            return None
        if not named:
            raise StateConflict(
                f"{cluster.mount(ca)} has no key that waits for a certificate; run `vaultpki apply -f {cluster.file}` "
                "first"
            )
        key = min(named)
    subject = ca_subject(cluster.name, ca, number(name))
    csr = authorities.signing_request(cluster, vault, cluster.mount(ca), subject, key)
    return WaitingCa(ca, name, key, request_of(cluster, ca, csr), record)


def _is_own(issuer: Json, name: str, keys: set[str]) -> bool:
    return issuer.get("issuer_name") == name or issuer.get("key_id") in keys


def domain_of(cluster: Cluster, common_name: str) -> str:
    """Return the issuing CA whose common name this is, or that of a later key; "" for any other name."""
    for ca in ISSUING_CAS:
        head = ca_subject(cluster.name, ca)
        rest = common_name.removeprefix(head)
        if common_name.startswith(head) and (not rest or (rest[0] == " " and rest[1:].isdecimal())):
            return ca
    return ROOT if common_name == ca_subject(cluster.name, ROOT) else ""
