"""What Vault says this node holds: its record and the cluster's CAs, fetched, held to the pin, and kept as a copy.

The copy (STATE/spec.json) serves within the poll interval without a request, and for as long as Vault is away.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vaultpki.errors import SpecError, StoreError
from vaultpki.files import private_folder, read_private, write_private
from vaultpki.values import dataclass

if TYPE_CHECKING:
    from vaultpki.model import AgentConfig, Certificate, NodeRole, UserTemplate
    from vaultpki.vault import Vault

COPY: Final = "spec.json"


@dataclass(frozen=True, slots=True)
class Holding:
    """What this node holds. `fetched` is Unix time; the CAs' certificates are PEM."""

    fetched: float
    endpoint: str
    roles: frozenset[NodeRole]
    certificates: tuple[Certificate, ...]
    templates: tuple[UserTemplate, ...]
    issuing: Mapping[str, tuple[str, ...]]
    roots: tuple[str, ...]

    def fresh(self, now: float, age: float) -> bool:
        """Whether it is younger than `age` seconds. A copy from the future means that a clock was set back."""
        return 0 <= now - self.fetched < age


def copy(config: AgentConfig) -> Holding | None:
    """The copy on disk; None where there is none, or none that can be read and that this version understands."""
    with contextlib.suppress(StoreError):
        return read_copy(config)
    return None


def read_copy(config: AgentConfig) -> Holding | None:
    """As `copy`; but StoreError where there is one that this user may not read, or that is no private file."""
    try:
        raw = read_private(f"{config.state}/{COPY}")
        return None if raw is None else _read(config, json.loads(raw), f"{config.state}/{COPY}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, SpecError):
        return None


def stamp(state: str) -> tuple[float, str] | None:
    """When the copy in the folder `state` was fetched, as Unix time, and a digest of what it says; None without one."""
    from hashlib import sha256

    try:
        value = json.loads(read_private(f"{state}/{COPY}") or b"")
        return float(value.pop("fetched")), sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, StoreError):
        return None


def fetch(config: AgentConfig, vault: Vault, now: float, held: Mapping[str, Sequence[str]]) -> Holding:
    """What Vault says now, kept as the new copy. SpecError where it has no record of this node, or none that holds.

    `held` are CAs trusted here until now, as PEM by CA; they stay where a mount shows a stranger.
    """
    from datetime import UTC, datetime

    from vaultpki import issuance
    from vaultpki.credential import own_record
    from vaultpki.vault import Request

    own = own_record(config)
    store = f"{config.prefix}/config/data"
    cluster, node = vault.many([Request("GET", f"{store}/cluster"), Request("GET", f"{store}/{own}")])
    if not cluster.found or not node.found:
        raise SpecError(f"Vault has no record {own} of cluster {config.cluster}; run `vaultpki apply` for it first")
    # What is not held to the pin is not kept either.
    issuers = issuance.keeping(
        issuance.fetch_issuers(vault, config.prefix),
        held,
        config.root_sha256,
        datetime.fromtimestamp(now, UTC),
        cluster=config.cluster,
    )
    value = {
        "version": 1,
        "fetched": now,
        "cluster": cluster.data.get("data"),
        "own": node.data.get("data"),
        "issuing": {ca: list(pems) for ca, pems in issuers.issuing.items()},
        "roots": list(issuers.roots),
    }
    holding = _read(config, value, f"the records of {store}")
    # An image brings agent.yaml and the issuer's token alone.
    private_folder(config.state)
    write_private(f"{config.state}/{COPY}", json.dumps(value).encode())
    return holding


def _read(config: AgentConfig, value: Mapping[str, Any], where: str) -> Holding:
    from vaultpki import records
    from vaultpki.certificates import ISSUING_CAS

    cluster = records.read_cluster(value["cluster"], where=where, cluster=config.cluster)
    kind, name = ("pool", config.pool) if config.pool else ("node", config.node)
    own = value["own"]
    if isinstance(own, dict) and own.get(kind) != name:
        raise SpecError(f"is not that of {name}; check the address and any proxy in between", file=where, field=kind)
    roles, certificates = records.read_certificates(own, node=config.node, prefix=config.prefix, where=where)
    records.refuse_file_names(cluster, certificates, where=where)
    if not certificates:
        raise SpecError("names no certificate, and every node of a cluster holds some", file=where)
    return Holding(
        fetched=float(value["fetched"]),
        endpoint=cluster.endpoint,
        roles=roles,
        certificates=certificates,
        templates=tuple(t for t in cluster.templates if t.roles & roles),
        issuing={ca: _pems(value["issuing"][ca]) for ca in ISSUING_CAS},
        roots=_pems(value["roots"]),
    )


def _pems(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(pem, str) for pem in value):
        raise TypeError("no list of certificates")
    return tuple(value)
