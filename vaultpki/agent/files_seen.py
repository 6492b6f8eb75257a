"""Compares all files of a node with what Vault last said: every view has what is wrong with them from here."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from vaultpki.agent import bundles, kubeconfigs, pairs, surplus, token_key_faults, token_keys
from vaultpki.disk.folders import Folders
from vaultpki.errors import StoreError
from vaultpki.model import AgentConfig
from vaultpki.node.assignment import Assignment, SurplusPair
from vaultpki.node.state import AgentState
from vaultpki.pki.facts import Trust


@dataclass(frozen=True, slots=True)
class FilesSeen:
    """The files of a node as they are on the disk, compared with what is wanted.

    `kubeconfigs` says in one word what is wrong, by certificate. `bundles`, `token_keys` and `faults` are as in Status.
    `surplus` are the pairs that the node's record does not name.
    """

    items: tuple[pairs.PairStatus, ...] = ()
    surplus: tuple[SurplusPair, ...] = ()
    kubeconfigs: Mapping[str, str] = field(default_factory=dict)
    bundles: tuple[str, ...] = ()
    keys: token_keys.KeysOnDisk | None = None
    token_keys: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)


def look_at_files(
    config: AgentConfig,
    folders: Folders,
    spec: Assignment,
    trust: Mapping[str, Trust],
    known: AgentState,
    now: datetime,
    named: AgentConfig | None = None,
) -> FilesSeen:
    """Compare all files of a node with what Vault last said; every view has what is wrong from here.

    `named` has the places that the files name, where those of `config` are copies.
    """
    items = pairs.inspect(config, folders, spec.certificates, trust, known, now)
    faults: dict[str, str] = {}
    keys, odd_keys = None, tuple[str, ...]()
    # Folders that cannot be read are a fault already.
    with contextlib.suppress(StoreError):
        spec = replace(spec, surplus=surplus.find_surplus(config.cluster, folders, items, known))
    with contextlib.suppress(StoreError):
        keys = token_keys.look(config, folders, spec, trust, known, now)
        odd_keys = tuple(token_key_faults.problems(config, folders, spec, keys)) if keys is not None else ()
    return FilesSeen(
        items,
        spec.surplus,
        _odd_kubeconfigs(named or config, folders, spec, items, faults),
        tuple(bundles.problems(config, folders, spec, trust, items, now)),
        keys,
        odd_keys,
        faults,
    )


def _odd_kubeconfigs(
    config: AgentConfig,
    folders: Folders,
    spec: Assignment,
    items: Collection[pairs.PairStatus],
    faults: dict[str, str],
) -> dict[str, str]:
    """Return in one word what is wrong with kubeconfigs, by certificate; what cannot be read is a fault."""
    try:
        site = bundles.site_of(config, spec.server)
        plain = dict(kubeconfigs.problems(site, folders.kubeconfigs, spec.certificates))
        return plain | dict(bundles.odd_kubeconfigs(config, folders, spec, items))
    except StoreError as error:
        faults.setdefault("kubeconfigs", str(error))
        return {}
