"""What would make a join fail on this machine, found before anything is used up or written.

Each check is a small function that raises where something is wrong, and leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from vaultpki import files, marks, pairs
from vaultpki.errors import SpecError, StoreError, VaultpkiError
from vaultpki.generations import HIDDEN
from vaultpki.guard import PASSING
from vaultpki.join import Join
from vaultpki.model import AgentConfig
from vaultpki.values import dataclass

# What a join and a first pass write, with room to spare: pairs in blocks of 4 KiB, their folders and links.
_STATE_BYTES, _STATE_ENTRIES = 64 * 1024, 8
_PAIRS_BYTES, _PAIRS_ENTRIES = 512 * 1024, 100


@dataclass(frozen=True, slots=True)
class Plan:
    """A join that is to be made: where its agent.yaml (`file`), directory and state folder will be, by absolute paths.

    `old` is the agent.yaml of an earlier join; what it says of owners stays.
    """

    join: Join
    old: AgentConfig | None
    file: str
    directory: str
    state: str


def refuse(plan: Plan) -> None:
    """Raises for the first thing that would make the join fail: SpecError or StoreError, with what to do."""
    for _, error in problems(plan):
        raise error


def problems(plan: Plan) -> Iterator[tuple[str, VaultpkiError]]:
    """Each check that fails, by its name, and why."""
    for name, check in CHECKS:
        try:
            check(plan)
        except (SpecError, StoreError) as error:
            yield name, error


def _same_node(plan: Plan) -> None:
    join, old = plan.join, plan.old
    if old is not None and (old.cluster, old.prefix, old.node) != (join.cluster, join.prefix, join.node):
        raise SpecError(
            f"the join file is for node {join.node} of {join.cluster}, and {plan.file} is of node {old.node} of "
            f"{old.cluster}; name another agent.yaml with -c"
        )


def _apart(plan: Plan) -> None:
    if _inside(plan.state, plan.directory):
        raise SpecError(
            f"the agent's own folder {plan.state} would lie in {plan.directory}, which static pods mount; "
            "name another place for agent.yaml with -c, or another --dir"
        )
    if _inside(plan.directory, plan.state):
        raise SpecError(
            f"{plan.directory} would lie in the agent's own folder {plan.state}, which nobody else may enter; "
            "name another --dir"
        )


def _configuration(plan: Plan) -> None:
    _prove(os.path.dirname(plan.file), _STATE_BYTES, 1)


def _state(plan: Plan) -> None:
    _prove(plan.state, _STATE_BYTES, _STATE_ENTRIES)


def _whose(plan: Plan) -> None:
    marks.refuse_foreign(plan.directory, marks.Holder(plan.join.cluster, plan.join.node, plan.join.root_sha256))


def _directory(plan: Plan) -> None:
    hidden = f"{plan.directory}/{HIDDEN}"
    _prove(hidden if files.there(hidden) else plan.directory, _PAIRS_BYTES, _PAIRS_ENTRIES)


def _owners(plan: Plan) -> None:
    if plan.old is not None:
        for owner in (plan.old.owner, *(each.owner for each in plan.old.certificates.values())):
            pairs.owner_of(owner)


CHECKS: Final[tuple[tuple[str, Callable[[Plan], None]], ...]] = (
    ("agent.yaml is of the same node", _same_node),
    ("state folder and directory lie apart", _apart),
    ("agent.yaml can be written", _configuration),
    ("state folder can be written", _state),
    ("directory is nobody else's", _whose),
    ("directory can be written", _directory),
    ("owners exist", _owners),
)
"""The checks in their order, by name."""


def _inside(path: str, folder: str) -> bool:
    return f"{os.path.normpath(path)}/".startswith(f"{os.path.normpath(folder)}/")


def _prove(path: str, size: int, entries: int) -> None:
    """Proves that `size` bytes and `entries` more names can be written in the folder, or where it will be made.

    Nothing is left there.
    """
    files.refuse_unsafe_way(path)
    while not files.there(path):
        path = os.path.dirname(path)
    with files.told(path):
        fd = os.open(path, PASSING)
        try:
            files.prove_writable(f".probe.{files.random_suffix()}", fd, size, entries)
        finally:
            os.close(fd)
