"""What this node holds, as Vault says: its record and the cluster's CAs, checked against the pin, kept as a copy.

The copy (STATE/spec.json) is used without a request within the poll interval, as long as Vault says that nothing has
changed, and as long as Vault is unreachable.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
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
from vaultpki.records import adoption as adoption_record
from vaultpki.records import published
from vaultpki.records.adoption import AdoptionRecord
from vaultpki.records.changes import CHANGES, LONGEST_LOOK, Mark, settled_mark
from vaultpki.records.rotation import MOST_AHEAD
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, KeyRecord
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
    foreign CAs that the cluster's record offers, as text by domain: see `pki.foreign_cas`. `adoption` is the record of
    the cluster's adoption; it is asked for where foreign CAs are accepted, and None if there is none.
    `adoption_ahead` is its revision if that is too far ahead of what the node has read to be followed, else 0.
    `token_key` is the certificate of a service-account key of this node, of number 1; None if it has none of its own.
    `keys` is the record of those keys, which only such a node reads. `surplus` are the pairs on the disk that are not
    assigned (any more); no copy has them.
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
    adoption: AdoptionRecord | None = None
    adoption_ahead: int = 0
    token_key: Certificate | None = None
    keys: RecordRead[KeyRecord] = field(default_factory=RecordRead)
    surplus: tuple[SurplusPair, ...] = ()

    def fresh(self, now: float, age: float) -> bool:
        """Return whether it is younger than `age` seconds. A copy from the future means that a clock was set back."""
        return 0 <= now - self.fetched < age


def copy(config: AgentConfig) -> Assignment | None:
    """Return the copy on disk; None if there is none that this user and this version can read."""
    with contextlib.suppress(StoreError):
        return read_copy(config)
    return None


def read_copy(config: AgentConfig) -> Assignment | None:
    """As `copy`; but StoreError if there is one that this user may not read, or that is not a private file."""
    try:
        raw = read_private(f"{config.state}/{COPY}")
        return None if raw is None else _read(config, json.loads(raw), f"{config.state}/{COPY}")
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


def fetch(
    config: AgentConfig,
    vault: Vault,
    now: float,
    held: Mapping[str, Sequence[str]],
    known: Mapping[str, int] | None,
    shown_before: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> Assignment:
    """Ask Vault, and keep the answer as the new copy. Raises StateConflict if it has no record of this node.

    `held` are the CAs trusted here until now, the root too, as PEM by CA, and `known` the highest revisions of the
    rotation records that were ever read here; None if nothing of this cluster was. `shown_before` are certificates of
    issuers that need not be read again, as `Issuers.by_id`.
    """
    store = f"{config.prefix}/config"
    # First: what changes after it makes another version.
    look, mark = _changes(vault, store)
    read = vault.prepare.secrets.kv.v2.read_secret
    cluster, node = vault.many(
        [read(name, mount_point=store, raise_on_deleted_version=False) for name in ("cluster", own_record(config))]
    )
    if not cluster.found or not node.found:
        raise _unrecorded(config)
    value = {"version": 1, "cluster": cluster.data.get("data"), "own": node.data.get("data"), "look": look}
    rotations, cas = _fetch_records(config, vault, value, known)
    shown = issuers.fetch_issuers(vault, config.prefix, rotations.named(), shown_before, cas)
    return replace(_keep(config, now, held, known or {}, value, rotations, shown), mark=mark)


@dataclass(frozen=True, slots=True)
class SeenStep:
    """What one command may have changed: it ended with the version `mark` of the record of changes.

    `copy` is what the node read before, and `shown` are certificates of issuers, as `Issuers.by_id`.
    """

    copy: Assignment
    mark: Mark
    shown: Mapping[tuple[str, str], str] = field(repr=False)


def fetch_step(
    config: AgentConfig,
    vault: Vault,
    now: float,
    held: Mapping[str, Sequence[str]],
    known: Mapping[str, int] | None,
    step: SeenStep,
) -> Assignment | None:
    """As `fetch` if the command was a step in the rotation of issuing CAs; None, and nothing kept, if not.

    All records of rotations are read, and the issuers of the CAs whose records the command has changed, since no other
    command has changed anything. The arguments are as in `fetch`.
    """
    before = json_object.parse(read_private(f"{config.state}/{COPY}") or b"")
    # While one of these is under way, most commands change more than a step, and all would be read once more.
    further = (step.copy.rotations.records.get(ROOT), step.copy.adoption)
    if before is None or any(each is not None and each.active for each in further):
        return None
    value = {name: before[name] for name in ("version", "cluster", "own", "look")}
    rotations, _ = _fetch_records(config, vault, value, known)
    cas = stepped(step.copy.rotations, rotations)
    others = ("adoption", "adoption_ahead", "keys", "keys_not_followed")
    if not cas or any(value.get(name) != before.get(name) for name in others):
        return None
    shown = step.copy.issuers
    if only_turns(step.copy.rotations, rotations, shown.defaults):
        cas = frozenset()
    shown = issuers.fetch_issuers(vault, config.prefix, rotations.named(), step.shown, cas, before=shown)
    return replace(_keep(config, now, held, known or {}, value, rotations, shown), mark=step.mark)


def _fetch_records(
    config: AgentConfig, vault: Vault, value: dict[str, Any], known: Mapping[str, int] | None
) -> tuple[Rotations, Sequence[str]]:
    """Read the records of rotations and of an adoption into the copy `value`; return those of CAs, and the CAs."""
    where = f"the records of {config.prefix}/config/data"
    signs = _token_key(config, value["own"], where) is not None
    cas = (*ISSUING_CAS, SERVICE_ACCOUNT) if signs else ISSUING_CAS
    # Read before the issuers: what a record names was made before it was written.
    contents = fetch_rotations(vault, config.prefix, cas)
    adopted = _adoption(config, vault, f"{config.prefix}/config")
    ahead = _too_far_ahead(adopted, known)
    rotations = read_rotations(contents, config.prefix, known)
    value["rotation"] = {domain: each for domain, each in contents.items() if domain not in rotations.not_followed}
    value["not_followed"] = dict(rotations.not_followed)
    if ahead or adopted is not None:
        value |= {"adoption_ahead": ahead} if ahead else {"adoption": adopted}
    if signs:
        keys = fetch_key_record(vault, config.prefix)
        read = read_key_record(keys, config.prefix, None if known is None else known.get(SERVICE_ACCOUNT_KEYS, 0))
        value |= {"keys": keys, "keys_not_followed": read.not_followed}
    return rotations, cas


def _keep(
    config: AgentConfig,
    now: float,
    held: Mapping[str, Sequence[str]],
    highest: Mapping[str, int],
    value: dict[str, Any],
    rotations: Rotations,
    shown: Issuers,
) -> Assignment:
    """Write the copy `value`, with the issuers that are `shown`; return what it says."""
    # Checked against the pin before it is kept.
    when = datetime.fromtimestamp(now, UTC)
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
    holding = _read(config, value, f"the records of {config.prefix}/config/data")
    # A machine image brings only agent.yaml and the issuer's token.
    private_folder(config.state)
    write_private(f"{config.state}/{COPY}", json.dumps(value).encode())
    return replace(holding, issuers=replace(shown, kept=holding.issuers.kept))


def with_adoption(
    config: AgentConfig, vault: Vault, known: Assignment, highest: Mapping[str, int] | None
) -> Assignment:
    """Return what is known, with the record of the cluster's adoption as Vault has it now; nothing is kept.

    `highest` are the highest revisions that were ever read here, as in `fetch`. Raises SpecError if no vaultpki writes
    such a record.
    """
    store = f"{config.prefix}/config"
    adopted = _adoption(config, vault, store)
    ahead = _too_far_ahead(adopted, highest)
    where = f"the record {store}/data/{adoption_record.RECORD}"
    record = adoption_record.read(adopted, where=where) if adopted and not ahead else None
    return replace(known, adoption=record, adoption_ahead=ahead)


def _adoption(config: AgentConfig, vault: Vault, store: str) -> Any:
    """Return the record of the cluster's adoption; None without one, and on a node that accepts no foreign CA.

    The policy of an earlier apply lets nobody read it.
    """
    if not config.also_trust:
        return None
    try:
        return vault.stored(store, adoption_record.RECORD).get("data")
    except Denied:
        return None


def _too_far_ahead(adopted: Any, known: Mapping[str, int] | None) -> int:
    """Return the revision of an adoption's record that is not followed, as `read_rotations` judges them; 0 if it is."""
    revision = adopted.get("revision") if isinstance(adopted, Mapping) else None
    if known is None or type(revision) is not int:
        return 0
    return revision if revision > known.get(adoption_record.NAME, 0) + MOST_AHEAD else 0


def _changes(vault: Vault, store: str) -> tuple[int, Mark | None]:
    """Return after how many seconds to look again at the latest, and the mark of a record of changes that is settled.

    Without the record, or the right to read it, each poll looks.
    """
    try:
        stored = vault.stored(store, CHANGES)
    except (Denied, Refused, BadAnswer):
        return 0, None
    return (LONGEST_LOOK if stored.get("data") else 0), settled_mark(stored)


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


def _read(config: AgentConfig, value: Mapping[str, Any], where: str) -> Assignment:
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
        adoption=adoption_record.read(value["adoption"], where=where) if value.get("adoption") else None,
        adoption_ahead=int(value.get("adoption_ahead", 0)),
        token_key=token_key,
        keys=_keys(config, value),
    )


def _token_key(config: AgentConfig, record: object, where: str) -> Certificate | None:
    if not isinstance(record, Mapping):
        return None
    return published.read_token_key(record, node=config.node, prefix=config.prefix, where=where)


def _keys(config: AgentConfig, value: Mapping[str, Any]) -> RecordRead[KeyRecord]:
    if revision := int(value.get("keys_not_followed", 0)):
        return RecordRead(not_followed=revision)
    return read_key_record(value.get("keys"), config.prefix)


def _rotations(config: AgentConfig, value: Mapping[str, Any]) -> Rotations:
    ahead = {
        str(name): RecordRead(not_followed=int(revision)) for name, revision in value.get("not_followed", {}).items()
    }
    return Rotations({**read_rotations(value["rotation"], config.prefix).read, **ahead})


def _texts(value: object, *, least: int = 0) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) < least or not all(isinstance(pem, str) for pem in value):
        raise TypeError("no list of certificates")
    return tuple(value)
