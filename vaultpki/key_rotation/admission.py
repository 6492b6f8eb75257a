"""Lets control planes with new service-account keys start: with the keys that a person was shown, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from vaultpki.ca.announced import announced
from vaultpki.errors import Refused, StateConflict, Unavailable
from vaultpki.identity import credentials
from vaultpki.identity.credentials import Identity, SecretId
from vaultpki.key_rotation import commands
from vaultpki.key_rotation.scene import KeysOnServer, read_keys
from vaultpki.model import Cluster
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.records.service_account import KeyRecord
from vaultpki.token_keys.course import first_number
from vaultpki.token_keys.holders import KeyHolder, key_sha256, sha256_of
from vaultpki.token_keys.steps import NOTHING_SAID_OF_KEYS
from vaultpki.vault import Vault


@dataclass(frozen=True, slots=True)
class WaitingKey:
    """A service-account key whose node waits to start.

    `sha256` is that of its certificate and `public_key` that of the key itself; both are "" before it is made.
    `credential` is the one with which the node logs in, None if nobody can, and `reported` the time of its report.
    """

    node: str
    sha256: str = ""
    public_key: str = ""
    credential: SecretId | None = None
    reported: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeysAhead:
    """The keys that wait to be admitted, and where all of them stand."""

    keys: tuple[WaitingKey, ...]
    done: KeyStepDone


def waiting_keys(cluster: Cluster, vault: Vault, now: datetime) -> KeysAhead:
    """Return the keys that wait; writes nothing. StateConflict if a node that waits has two live credentials."""
    seen = read_keys(cluster, vault, now, strict=False)
    done = commands.standing(seen, NOTHING_SAID_OF_KEYS)
    nodes = [each.node for each in done.joining]
    found = _live_credentials(cluster, vault, nodes)
    return KeysAhead(tuple(_key(seen, name, found[name]) for name in nodes), done)


def admit(cluster: Cluster, vault: Vault, now: datetime, confirmed: Mapping[str, str]) -> KeyStepDone:
    """Take the confirmed keys into the record, and let those start whose keys every running API server has loaded.

    `confirmed` are the SHA-256 of public keys by node. It takes no step of a rotation. Raises as `waiting_keys`.
    """
    with announced(cluster, vault) as notice:
        seen = read_keys(cluster, vault, now, notice=notice)
        _live_credentials(cluster, vault, [name for name in confirmed if not _certificates(seen.record, name)])
        holders = {name: _as_confirmed(seen.record, each, confirmed) for name, each in seen.facts.holders.items()}
        seen = replace(seen, facts=replace(seen.facts, holders=holders))
        return commands.go_on(seen, NOTHING_SAID_OF_KEYS, steps=False)


def not_admitted(done: KeyStepDone, confirmed: Iterable[str]) -> list[str]:
    """Return the nodes that do not have to start yet, of those that were confirmed."""
    nodes = done.record.nodes if done.record is not None else {}
    return [name for name in confirmed if name not in nodes or not nodes[name].admitted]


def _certificates(record: KeyRecord | None, name: str) -> Mapping[int, str]:
    entry = record.nodes.get(name) if record is not None else None
    return entry.certificates if entry is not None else {}


def _as_confirmed(record: KeyRecord | None, holder: KeyHolder, confirmed: Mapping[str, str]) -> KeyHolder:
    """Return a node whose report has no key that would be new to the record and that nobody has confirmed."""
    report = holder.report
    if report is None or report.token_keys is None or _certificates(record, holder.name):
        return holder
    wanted = confirmed.get(holder.name)
    own = {number: pem for number, pem in report.token_keys.own.items() if wanted and key_sha256(pem) == wanted}
    return replace(holder, report=replace(report, token_keys=replace(report.token_keys, own=own)))


def _key(seen: KeysOnServer, name: str, credential: SecretId | None) -> WaitingKey:
    record, holder = seen.record, seen.facts.holders.get(name)
    known = _certificates(record, name)
    if record is not None and known:
        pem = known.get(record.nodes[name].signs_with(record.state)) or known[max(known)]
    else:
        reported = holder.keys.own if holder is not None and holder.keys is not None else {}
        pem = reported.get(first_number(record, name, seen.facts), "")
    at = holder.report.time if holder is not None and holder.report is not None else None
    return WaitingKey(name, sha256_of(pem), key_sha256(pem), credential, at)


def _live_credentials(cluster: Cluster, vault: Vault, nodes: Iterable[str]) -> dict[str, SecretId | None]:
    """Return the live credential of each node; StateConflict if one has two, since a copy may have made its key."""
    found: dict[str, SecretId | None] = {}
    for name in nodes:
        identity = Identity("listed", name)
        try:
            accessors = credentials.secret_ids(cluster, vault, identity)
        except Refused:
            # Both servers answer 400 if there is no such AppRole.
            accessors = ()
        if len(accessors) > 1:
            raise StateConflict(
                f"{name} has {len(accessors)} live credentials, so its key may be that of a copy. Nothing was "
                "admitted. An agent that has just renewed its credential ends the old one within minutes: then run it "
                f"again. Else run `vaultpki lock {name}{cluster.file_option}`, and enroll it again"
            )
        found[name] = None
        for accessor in accessors:
            try:
                found[name] = credentials.look_up(cluster, vault, identity, accessor)
            except (Refused, Unavailable) as error:
                raise StateConflict(f"the credential of {name} changes at this moment; run it again") from error
    return found
