"""Says what control-plane nodes report of service-account keys, as the record of these keys counts it; pure.

A report counts only if its pass read the record as it stands, and a process counts by the files that it was started
with. A report is a node's own word: a false one affects that node, or delays a gate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from vaultpki.pki import x509
from vaultpki.pki.key_plan import refused_nodes
from vaultpki.records.node_report import NodeReport, TokenKeysReport
from vaultpki.records.service_account import KeyRecord, NodeKeys


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A control-plane node of cluster.yaml that can log in, or has reported.

    `report` is None if it never reported, and for a node that is `locked`: nobody can log in as it. `join_until`
    is as in `reasons.Participant`.
    """

    name: str
    report: NodeReport | None
    locked: bool = False
    join_until: datetime | None = None

    @property
    def keys(self) -> TokenKeysReport | None:
        """What it reports of its service-account keys; None if nothing."""
        return self.report.token_keys if self.report is not None else None


Holders = Mapping[str, KeyHolder]
"""The nodes by name."""


@dataclass(frozen=True, slots=True)
class LoadedKeys:
    """The SHA-256 of certificates: what a node's kube-apiserver accepts tokens of, and the one that it signs with.

    `either` also has what the file holds that the process does not, and what it holds that the file does not; `union`
    has what both hold. `signing` is "" unless the process was started with the key that is on the disk.
    """

    union: frozenset[str]
    either: frozenset[str]
    signing: str


@cache
def sha256_of(pem: str) -> str:
    """Return the SHA-256 of a certificate in hex; "" if it is none."""
    found = x509.readable(pem)
    return found[0].fingerprint if found else ""


@cache
def key_sha256(pem: str) -> str:
    """Return the SHA-256 of the public key of a certificate, in hex, of its SubjectPublicKeyInfo; "" if it is none."""
    found = x509.readable(pem)
    return hashlib.sha256(found[0].public_key).hexdigest() if found else ""


def wanted_union(record: KeyRecord) -> frozenset[str]:
    """Return the SHA-256 of the certificates that every union is to hold."""
    return frozenset(map(sha256_of, record.offered)) - {""}


def expected_union(record: KeyRecord, holder: KeyHolder) -> frozenset[str]:
    """Return the same for one node: certificates of nodes that are gone count only if it has them.

    An agent takes none that it has retired, or whose CA it has never known, and nothing helps against that but time.
    """
    union = holder.keys.union if holder.keys is not None else frozenset[str]()
    own = {each for keys in record.nodes.values() for each in certificates_of(keys, keys.accepted(record.state))}
    gone = {sha256_of(each.pem) for each in record.departed if each.pem} - own
    return wanted_union(record) - (gone - union)


def unwanted(record: KeyRecord) -> frozenset[str]:
    """Return the SHA-256 of the certificates that no union is to hold any more, of those that the record knows."""
    known = frozenset(sha256_of(pem) for keys in record.nodes.values() for pem in keys.certificates.values())
    return (known | {each.sha256 for each in record.departed}) - wanted_union(record) - {""}


def certificates_of(keys: NodeKeys, numbers: Collection[int]) -> frozenset[str]:
    """Return the SHA-256 of a node's certificates with these numbers, of those that the record has."""
    return frozenset(sha256_of(pem) for number, pem in keys.certificates.items() if number in numbers) - {""}


def fresh(record: KeyRecord, holder: KeyHolder) -> bool:
    """Return whether a node's report answers the record as it stands."""
    keys = holder.keys
    return keys is not None and record.read_by(keys.seen.revision, keys.seen.highest)


def refused_at(record: KeyRecord, holder: KeyHolder | None) -> tuple[str, ...]:
    """Return the nodes whose keys a node takes for retired, by a report that answers the record as it stands.

    One whose agent has failed at something may only not have written them.
    """
    keys = holder.keys if holder is not None else None
    if holder is None or keys is None or not keys.signing or not fresh(record, holder):
        return ()
    if holder.report is not None and holder.report.failures:
        return ()
    return refused_nodes(record, keys.union)


def loaded(record: KeyRecord, holder: KeyHolder) -> LoadedKeys:
    """Return what the node's kube-apiserver has; nothing if it was not seen to run, healthy.

    A person's word that it was restarted stands for what the agent cannot see. One that is stopped has what it will
    read at its start.
    """
    keys = holder.keys
    if keys is None:
        return LoadedKeys(frozenset(), frozenset(), "")
    if holder.name in record.restarted or holds_nothing(record, holder):
        return LoadedKeys(keys.union, keys.union, keys.signing)
    if not keys.reader.sound:
        return LoadedKeys(frozenset(), keys.union | keys.loaded_union, "")
    signing = keys.signing if keys.signing == keys.loaded_signing else ""
    return LoadedKeys(keys.union & keys.loaded_union, keys.union | keys.loaded_union, signing)


def signs_with(record: KeyRecord, holder: KeyHolder, number: int) -> bool:
    """Return whether the node's kube-apiserver was started to sign with its key of that number, also on the disk.

    Its certificate may have been renewed since the record got it.
    """
    entry, keys = record.nodes.get(holder.name), holder.keys
    signing = loaded(record, holder).signing
    if entry is None or keys is None or not signing or number not in entry.certificates:
        return False
    return _of_key(signing, entry.certificates[number], keys.own.get(number, ""))


def _of_key(sha256: str, known: str, renewed: str) -> bool:
    """Return whether it is the SHA-256 of a key's known certificate, or of a renewed one of the same key."""
    return sha256 == sha256_of(known) or (sha256 == sha256_of(renewed) and same_key(known, renewed))


def same_key(one: str, other: str) -> bool:
    """Return whether two certificates are of one key."""
    first, second = x509.readable(one), x509.readable(other)
    return bool(first) and bool(second) and first[0].public_key == second[0].public_key


def final_on_disk(record: KeyRecord, holder: KeyHolder) -> bool:
    """Return whether the files on a node's disk are as the record wants them."""
    entry, keys = record.nodes.get(holder.name), holder.keys
    if entry is None or keys is None or not fresh(record, holder):
        return False
    number = entry.signs_with(record.state)
    known = entry.certificates.get(number, "")
    signs = _of_key(keys.signing, known, keys.own.get(number, ""))
    return bool(known) and signs and expected_union(record, holder) <= keys.union and not unwanted(record) & keys.union


def owes_start(record: KeyRecord, holder: KeyHolder) -> bool:
    """Return whether the node's kube-apiserver was not started with the files that are on its disk."""
    keys = holder.keys
    if keys is None or holder.name in record.restarted or holds_nothing(record, holder):
        return False
    return not keys.loaded


def holds_nothing(record: KeyRecord, holder: KeyHolder) -> bool:
    """Return whether kube-apiserver is stopped there, and nobody waits for it to come back."""
    return holder.keys is not None and record.gone(holder.name, holder.keys.reader.stopped)


def never_ran(holder: KeyHolder) -> bool:
    """Return whether the node's agent has never seen a kube-apiserver there, so that it is still to be started."""
    keys = holder.keys
    return keys is not None and keys.reader.started is None and not keys.reader.running
