"""Saves a plan, and compares a saved one with the plan that is computed again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from vaultpki.errors import StateConflict
from vaultpki.redact import stamp

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.model import Cluster
    from vaultpki.provision.observe import Observation
    from vaultpki.provision.plan import Plan
    from vaultpki.records.saved_plan import Basis, SavedPlan
    from vaultpki.records.server_facts import ServerFacts
    from vaultpki.vault import Vault


def write(path: Path, cluster: Cluster, where: ServerFacts, seen: Observation, plan: Plan, until: datetime) -> None:
    """Write a plan that ends at `until` to a file that is new, or is a saved plan. Raises StoreError for any other."""
    from vaultpki.cli import own_file
    from vaultpki.provision import plan_digests
    from vaultpki.records.saved_plan import PLAN_MARK, dump_plan

    basis = plan_digests.basis_of(cluster, where.addresses, where.namespace)
    text = dump_plan(_saved(basis, cluster, seen, plan, until))
    own_file.replace_own(path, text, marks={PLAN_MARK}, what="saved plan")


def read(path: Path) -> SavedPlan:
    """Return a saved plan. Raises SpecError if others may write the file, or if `plan -o` did not write it so."""
    from vaultpki.records.saved_plan import MOST_PLAN_BYTES, parse_plan
    from vaultpki.values import yaml_tree

    return parse_plan(yaml_tree.read_text(path, MOST_PLAN_BYTES), yaml_tree.shown(path))


def spec_path(path: Path, saved: SavedPlan, named: Path) -> Path:
    """Return the cluster.yaml that -f names, else the one of the saved plan; StateConflict if that is not there."""
    if click.get_current_context().get_parameter_source("file") is not ParameterSource.DEFAULT:
        return named
    # Path.exists raises where a part of the path is too long.
    if not os.path.exists(saved.file):
        raise StateConflict(
            f"{path} was computed from {saved.file}, which is not here: go to the folder in which the plan was saved, "
            "or name the file with -f"
        )
    return Path(saved.file)


def computed_again(path: Path, saved: SavedPlan, cluster: Cluster, vault: Vault, where: ServerFacts) -> Plan:
    """Return the plan of now with its impact: it is the saved one, or empty because all of it is applied already.

    Raises StateConflict, which names what differs. The server is asked only if all else is the same.
    """
    from vaultpki.cli.common import server_now
    from vaultpki.provision import apply, plan_digests
    from vaultpki.provision.plan import Live, without_notice

    basis = plan_digests.basis_of(cluster, where.addresses, where.namespace)
    _refuse(path, cluster, plan_digests.other_basis(saved, basis, cluster.file))
    seen, plan = apply.observe_and_plan(cluster, vault, where)
    plan = apply.with_impact(cluster, vault, seen, plan)
    now = _saved(basis, cluster, seen, plan, saved.until)
    if without_notice(plan.changes):
        _refuse(path, cluster, [f"it ended at {stamp(saved.until)}"] if server_now(vault) > saved.until else [])
        impact = apply.impact_for(cluster, plan, Live(frozenset(saved.reported), saved.pooled))
        _refuse(path, cluster, plan_digests.other_plan(saved, now, impact))
    elif saved.root_sha256:
        # Of what is applied already, others may have changed more since; a root of somebody else is no such thing.
        _refuse(path, cluster, plan_digests.other_root(saved, now))
    return plan


def _saved(basis: Basis, cluster: Cluster, seen: Observation, plan: Plan, until: datetime) -> SavedPlan:
    from vaultpki.provision import plan_digests
    from vaultpki.show import plan as plan_text

    return plan_digests.saved_plan(basis, cluster, seen, plan, plan_text.change_texts(cluster, plan), until)


def _refuse(path: Path, cluster: Cluster, differences: list[str]) -> None:
    if differences:
        again = f"`vaultpki plan{cluster.file_option} -o {path}`"
        raise StateConflict(
            f"{path} is not applied, and nothing was written: {'; '.join(differences)}; save a new plan ({again}) and "
            "have it approved"
        )
