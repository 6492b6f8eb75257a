"""What this node holds, as Vault says: its record and the cluster's CAs, checked against the pin, kept as a copy.

The copy (STATE/spec.json) is used without a request within the poll interval, as long as Vault says that nothing has
changed, and as long as Vault is unreachable.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from vaultpki.certificates import ISSUING_CAS, ROOT, SERVICE_ACCOUNT
from vaultpki.disk.files import private_folder, read_private, storage_errors, write_private
from vaultpki.errors import BadAnswer, Denied, Refused, SpecError, StateConflict, StoreError
from vaultpki.issue import issuers
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import (
    RecordRead,
    Rotations,
    fetch_key_record,
    fetch_rotations,
    only_turns,
    read_key_record,
    read_rotations,
    stepped,
)
from vaultpki.layout import shown
from vaultpki.model import AgentConfig, Certificate, NodeRole, UserTemplate
from vaultpki.node import pins
from vaultpki.node.credential import own_record
from vaultpki.pki.facts import Facts
from vaultpki.procedure.envelope import ProcedureRecord
from vaultpki.records import changes, published, written
from vaultpki.records.adoption import NAME, AdoptionRecord
from vaultpki.records.changes import CHANGES, LONGEST_LOOK, Mark, settled_mark
from vaultpki.records.rotation import MOST_AHEAD, ROTATION_FOLDER
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, KeyRecord
from vaultpki.records.written import Written
from vaultpki.values import json_object
from vaultpki.vault import Vault

COPY: Final = "spec.json"


@dataclass(frozen=True, slots=True)
class SurplusPair:
    """A pair on the disk that this node's record does not name: of the certificate `name`, in `folder` under `stem`.

    `ca` is the domain of its CA, "" if that is not known. `leaf` is None if it cannot be read; `served` is the chain
    after it in its file.
    """

    name: str
    ca: str
    folder: str
    stem: str
    leaf: Facts | None
    served: tuple[Facts, ...] = ()

    @property
    def place(self) -> str:
        """The file with the leaf, as messages have it."""
        return shown(self.folder, f"{self.stem}.crt")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What this node holds. `fetched` is when Vault sent it, or last said that nothing has changed (Unix time).

    `endpoint` is the URL of the API server, `server` that of the kube-apiserver that plain kubeconfigs name. `issuers`
    is what the CA mounts showed, `trusted` whom the node then trusted, as PEM by CA. `look` is after how many seconds
    the whole of it is asked for again at the latest; 0 where each poll asks for it. `mark` is of the record of changes
    as Vault was asked for it all; None in a copy, and while something changes. `foreign` are the certificates of
    foreign CAs that the cluster's record offers, as text by domain: see `pki.foreign_cas`. `procedures` is what was
    read of the records of procedures, by name. `token_key` is the certificate of a service-account key of this node, of
    number 1; None if it has none of its own. `keys` is the record of those keys, which only such a node reads.
    `surplus` are the pairs on the disk that are not assigned (any more); no copy has them. `applied` says who last
    changed the records of cluster, nodes and pools.
    """

    fetched: float
    endpoint: str
    server: str
    roles: frozenset[NodeRole]
    certificates: tuple[Certificate, ...]
    templates: tuple[UserTemplate, ...]
    issuers: Issuers
    trusted: Mapping[str, tuple[str, ...]]
    rotations: Rotations
    look: int = 0
    mark: Mark | None = None
    foreign: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    procedures: Mapping[str, RecordRead[Any]] = field(default_factory=dict)
    token_key: Certificate | None = None
    keys: RecordRead[KeyRecord] = field(default_factory=RecordRead)
    surplus: tuple[SurplusPair, ...] = ()
    applied: Written = field(default_factory=Written)

    @property
    def adoption(self) -> RecordRead[AdoptionRecord]:
        """What was read of the record of the cluster's adoption, which is asked for where foreign CAs are accepted."""
        return self.procedures.get(NAME, RecordRead())

    def fresh(self, now: float, age: float) -> bool:
        """Return whether it is younger than `age` seconds. A copy from the future means that a clock was set back."""
        return 0 <= now - self.fetched < age


@dataclass(frozen=True, slots=True)
class HeldBefore:
    """What a node that asks Vault has of before: `held` are the CAs that it trusts, the root too, as PEM by CA.

    `highest` are the highest revisions of records that were ever read here; None if nothing of this cluster was.
    `records` are those of procedures that it follows.
    """

    held: Mapping[str, Sequence[str]]
    highest: Mapping[str, int] | None
    records: tuple[ProcedureRecord, ...]


def copy(config: AgentConfig, records: Iterable[ProcedureRecord] = ()) -> Assignment | None:
    """Return the copy on disk; None if there is none that this user and this version can read.

    Of procedures it has those `records` that its reader names.
    """
    with contextlib.suppress(StoreError):
        return read_copy(config, records)
    return None


def read_copy(config: AgentConfig, records: Iterable[ProcedureRecord] = ()) -> Assignment | None:
    """As `copy`; but StoreError if there is one that this user may not read, or that is not a private file."""
    try:
        raw = read_private(f"{config.state}/{COPY}")
        return None if raw is None else _read(config, json.loads(raw), f"{config.state}/{COPY}", records)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, SpecError):
        return None


def remove_copy(state: str) -> None:
    """Remove the copy in the folder `state`, if there is one. Raises StoreError."""
    with storage_errors(f"{state}/{COPY}"), contextlib.suppress(FileNotFoundError):
        os.unlink(f"{state}/{COPY}")


def fetched(state: str) -> float | None:
    """Return when the copy in the folder `state` was fetched or confirmed (Unix time); None without one."""
    try:
        return float(json.loads(read_private(f"{state}/{COPY}") or b"")["fetched"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, StoreError):
        return None


def confirm(config: AgentConfig, known: Assignment, now: float) -> Assignment:
    """Keep the copy as Vault's answer of now: Vault has said that nothing has changed. Raises StoreError."""
    path = f"{config.state}/{COPY}"
    value = json_object.parse(read_private(path) or b"")
    if value is None:
        raise StoreError(f"{path} was changed during a pass")
    write_private(path, json.dumps({**value, "fetched": now}).encode())
    return replace(known, fetched=now)


def outdate(config: AgentConfig) -> None:
    """Make the copy so old that the next pass asks for all; if no server answers it still counts. Raises StoreError."""
    path = f"{config.state}/{COPY}"
    value, when = json_object.parse(read_private(path) or b""), fetched(config.state)
    if value is not None and when is not None:
        write_private(path, json.dumps({**value, "fetched": when - config.poll}).encode())


def fetch(
    config: AgentConfig,
    vault: Vault,
    now: float,
    known: HeldBefore,
    shown_before: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> Assignment:
    """Ask Vault, and keep the answer as the new copy. Raises StateConflict if it has no record of this node.

    `shown_before` are certificates of issuers that need not be read again, as `Issuers.by_id`.
    """
    store = f"{config.prefix}/config"
    # First: what changes after it makes another version.
    look, mark, applied = _changes(vault, store)
    read = vault.prepare.secrets.kv.v2.read_secret
    cluster, node = vault.many(
        [read(name, mount_point=store, raise_on_deleted_version=False) for name in ("cluster", own_record(config))]
    )
    if not cluster.found or not node.found:
        raise _unrecorded(config)
    value = {"version": 1, "cluster": cluster.data.get("data"), "own": node.data.get("data"), "look": look}
    value["applied"] = applied.document
    rotations, cas = _fetch_records(config, vault, value, known)
    shown = issuers.fetch_issuers(vault, config.prefix, rotations.named(), shown_before, cas)
    return replace(_keep(config, now, known, value, rotations, shown), mark=mark)


@dataclass(frozen=True, slots=True)
class SeenStep:
    """What one command may have changed: it ended with the version `mark` of the record of changes.

    `copy` is what the node read before, and `shown` are certificates of issuers, as `Issuers.by_id`.
    """

    copy: Assignment
    mark: Mark
    shown: Mapping[tuple[str, str], str] = field(repr=False)


def fetch_step(config: AgentConfig, vault: Vault, now: float, known: HeldBefore, step: SeenStep) -> Assignment | None:
    """As `fetch` if the command was a step in the rotation of issuing CAs; None, and nothing kept, if not.

    All records of rotations are read, and the issuers of the CAs whose records the command has changed, since no other
    command has changed anything. The arguments are as in `fetch`.
    """
    before = json_object.parse(read_private(f"{config.state}/{COPY}") or b"")
    # While one of these is under way, most commands change more than a step, and all would be read once more.
    further = (step.copy.rotations.records.get(ROOT), *(each.record for each in step.copy.procedures.values()))
    if before is None or any(each is not None and each.active for each in further):
        return None
    value = {name: before[name] for name in ("version", "cluster", "own", "look")}
    value["applied"] = before.get("applied")
    rotations, _ = _fetch_records(config, vault, value, known)
    cas = stepped(step.copy.rotations, rotations)
    others = ("keys", "keys_not_followed", *(name for each in known.records for name in (each.name, each.ahead)))
    if not cas or any(value.get(name) != before.get(name) for name in others):
        return None
    shown = step.copy.issuers
    if only_turns(step.copy.rotations, rotations, shown.defaults):
        cas = frozenset()
    shown = issuers.fetch_issuers(vault, config.prefix, rotations.named(), step.shown, cas, before=shown)
    return replace(_keep(config, now, known, value, rotations, shown), mark=step.mark)


def _fetch_records(
    config: AgentConfig, vault: Vault, value: dict[str, Any], known: HeldBefore
) -> tuple[Rotations, Sequence[str]]:
    """Read the records of rotations and of procedures into the copy `value`; return those of CAs, and the CAs."""
    where = f"the records of {config.prefix}/config/data"
    signs = _token_key(config, value["own"], where) is not None
    cas = (*ISSUING_CAS, SERVICE_ACCOUNT) if signs else ISSUING_CAS
    # Read before the issuers: what a record names was made before it was written.
    contents = fetch_rotations(vault, config.prefix, cas)
    rotations = read_rotations(contents, config.prefix, known.highest)
    value["rotation"] = {domain: each for domain, each in contents.items() if domain not in rotations.not_followed}
    value["not_followed"] = dict(rotations.not_followed)
    for each in known.records:
        value |= _fetch_record(config, vault, each, known.highest)
    if signs:
        keys, highest = fetch_key_record(vault, config.prefix), known.highest
        read = read_key_record(keys, config.prefix, None if highest is None else highest.get(SERVICE_ACCOUNT_KEYS, 0))
        value |= {"keys": keys, "keys_not_followed": read.not_followed}
    return rotations, cas


def _keep(
    config: AgentConfig, now: float, known: HeldBefore, value: dict[str, Any], rotations: Rotations, shown: Issuers
) -> Assignment:
    """Write the copy `value`, with the issuers that are `shown`; return what it says."""
    # Checked against the pin before it is kept.
    when, held, highest = datetime.fromtimestamp(now, UTC), known.held, known.highest or {}
    above = pins.follow(config, shown, rotations, highest, when, held)
    trust = issuers.follow(shown, held, rotations.views(highest, {}), above, when, cluster=config.cluster)
    # Before the copy: the root that this node was pinned to may leave the server.
    pins.save(config, above)
    value |= {
        "fetched": now,
        "issuing": {ca: list(pems) for ca, pems in shown.issuing.items()},
        "roots": list(shown.roots),
        "defaults": dict(shown.defaults),
        "unshown": dict(shown.unshown),
        "trusted": {ca: [facts.pem for facts in known.issuing] for ca, known in trust.items()},
    }
    # Only below a root outside.
    if kept := list(dict.fromkeys(facts.pem for known in trust.values() for facts in (*known.between, *known.tops))):
        value["above"] = kept
    holding = _read(config, value, f"the records of {config.prefix}/config/data", known.records)
    # A machine image brings only agent.yaml and the issuer's token.
    private_folder(config.state)
    write_private(f"{config.state}/{COPY}", json.dumps(value).encode())
    return replace(holding, issuers=replace(shown, kept=holding.issuers.kept))


def with_record(
    config: AgentConfig, vault: Vault, known: Assignment, record: ProcedureRecord, highest: Mapping[str, int] | None
) -> Assignment:
    """Return what is known, with the record of a procedure as Vault has it now; nothing is kept.

    `highest` is as in HeldBefore. Raises SpecError if no vaultpki writes such a record.
    """
    where = f"the record {config.prefix}/config/data/{ROTATION_FOLDER}/{record.name}"
    read = _read_record(_fetch_record(config, vault, record, highest), record, where)
    return replace(known, procedures={**known.procedures, record.name: read})


def _fetch_record(
    config: AgentConfig, vault: Vault, record: ProcedureRecord, highest: Mapping[str, int] | None
) -> dict[str, Any]:
    """Return what a copy has of the record of a procedure, which is followed or not as `read_rotations` judges them.

    The policy of an earlier apply lets nobody read it.
    """
    if record.only_with_foreign and not config.also_trust:
        return {}
    try:
        found = vault.stored(f"{config.prefix}/config", f"{ROTATION_FOLDER}/{record.name}").get("data")
    except Denied:
        return {}
    revision = found.get("revision") if isinstance(found, Mapping) else None
    if highest is not None and type(revision) is int and revision > highest.get(record.name, 0) + MOST_AHEAD:
        return {record.ahead: revision}
    return {} if found is None else {record.name: found}


def _changes(vault: Vault, store: str) -> tuple[int, Mark | None, Written]:
    """Return after how many seconds to look again at the latest, the mark of a record of changes that is settled, and
    who applied last.

    Without the record, or the right to read it, each poll looks.
    """
    try:
        stored = vault.stored(store, CHANGES)
    except (Denied, Refused, BadAnswer):
        return 0, None, Written()
    record = stored.get("data")
    return (LONGEST_LOOK if record else 0), settled_mark(stored), changes.read(record).applied


def own_roles(config: AgentConfig, vault: Vault) -> tuple[frozenset[NodeRole], bool]:
    """Ask Vault for the roles of this node, and whether it has service-account keys of its own.

    Raises StateConflict if Vault has no record of it.
    """
    store, own = f"{config.prefix}/config", own_record(config)
    record = vault.stored(store, own).get("data")
    if record is None:
        raise _unrecorded(config)
    where = f"the record {store}/data/{own}"
    roles, _ = published.read_certificates(
        record, node=config.node, prefix=config.prefix, layout=config.layout, where=where
    )
    return roles, _token_key(config, record, where) is not None


def _unrecorded(config: AgentConfig) -> StateConflict:
    return StateConflict(
        f"Vault has no record {own_record(config)} of cluster {config.cluster}; run `vaultpki apply` for it first"
    )


def _read(config: AgentConfig, value: Mapping[str, Any], where: str, records: Iterable[ProcedureRecord]) -> Assignment:
    cluster = published.read_cluster(value["cluster"], where=where, cluster=config.cluster)
    published.refuse_other_layout(cluster.layout, config.layout, where=where)
    kind, name = ("pool", config.pool) if config.pool else ("node", config.node)
    own = value["own"]
    if isinstance(own, dict) and own.get(kind) != name:
        raise SpecError(f"is not that of {name}; check the address and any proxy in between", file=where, field=kind)
    roles, certificates = published.read_certificates(
        own, node=config.node, prefix=config.prefix, layout=config.layout, where=where
    )
    published.refuse_file_names(certificates, cluster.templates, config.layout, where=where)
    if not certificates:
        raise SpecError("names no certificate, and every node of a cluster holds some", file=where)
    token_key = _token_key(config, own, where)
    # A copy of before this node had such keys lacks their CA, and is fetched anew.
    cas = (*ISSUING_CAS, SERVICE_ACCOUNT) if token_key is not None else ISSUING_CAS
    issuing = {ca: _texts(value["issuing"][ca]) for ca in cas}
    return Assignment(
        fetched=float(value["fetched"]),
        endpoint=cluster.endpoint,
        server=published.read_server(own, where=where) or cluster.endpoint,
        roles=roles,
        certificates=certificates,
        templates=tuple(t for t in cluster.templates if t.roles & roles),
        issuers=Issuers(
            issuing,
            # Without a root nothing can be checked.
            _texts(value["roots"], least=1),
            {str(ca): str(sha256) for ca, sha256 in value["defaults"].items()},
            {str(ca): str(why) for ca, why in value["unshown"].items()},
            kept=_texts(value.get("above", ())),
        ),
        trusted={ca: _texts(value["trusted"][ca]) for ca in cas},
        rotations=_rotations(config, value),
        look=int(value["look"]),
        foreign=cluster.also_trust,
        procedures={each.name: _read_record(value, each, where) for each in records},
        token_key=token_key,
        keys=_keys(config, value),
        applied=written.of_document(value.get("applied")),
    )


def _token_key(config: AgentConfig, record: object, where: str) -> Certificate | None:
    if not isinstance(record, Mapping):
        return None
    return published.read_token_key(record, node=config.node, prefix=config.prefix, where=where)


def _read_record(value: Mapping[str, Any], record: ProcedureRecord, where: str) -> RecordRead[Any]:
    if revision := int(value.get(record.ahead, 0)):
        return RecordRead(not_followed=revision)
    found = value.get(record.name)
    return RecordRead(record.read(found, where=where) if found else None, written=written.of_record(found))


def _keys(config: AgentConfig, value: Mapping[str, Any]) -> RecordRead[KeyRecord]:
    if revision := int(value.get("keys_not_followed", 0)):
        return RecordRead(not_followed=revision)
    return read_key_record(value.get("keys"), config.prefix)


def _rotations(config: AgentConfig, value: Mapping[str, Any]) -> Rotations:
    read = dict(read_rotations(value["rotation"], config.prefix).read)
    ahead = value.get("not_followed", {})
    return Rotations(read | {str(name): RecordRead(not_followed=int(revision)) for name, revision in ahead.items()})


def _texts(value: object, *, least: int = 0) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) < least or not all(isinstance(pem, str) for pem in value):
        raise TypeError("no list of certificates")
    return tuple(value)
