"""The phases of the soak of service-account keys on control planes that have keys of their own.

They go on with one cluster, in the order of PHASES; each begins and ends where the keys are at rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from helpers.kube.components import API_PORT, Programs
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.servers import wait_for
from soak.keys import cluster as clusters
from soak.keys import controls, planes
from soak.keys.cluster import SoakedKeys
from soak.keys.shape import FIRST
from soak.keys.table import KeyPhase
from vaultpki.records.service_account import KeyState

_CALM_SECONDS: Final = 20.0
_USED_SECONDS: Final = 120.0
STOLEN: Final = "cp-3"
KILLED: Final = "cp-2"


def before(run: SoakedKeys) -> None:
    with run.phase("before"):
        time.sleep(_CALM_SECONDS)


def join(run: SoakedKeys) -> None:
    with run.phase("cp-4 joins in steady"):
        run.lead(lambda record: record.state.resting, "continue", planes.joins(run, "cp-4"))
        run.settle()


def removal(run: SoakedKeys) -> None:
    """The tokens of a node that has left are accepted everywhere, in this phase and as long as they live."""
    leaving = [name for name in run.planes if name not in FIRST]
    assert leaving, "no node has joined that could be removed"
    with run.phase(f"{' and '.join(leaving)} removed"):
        issuers = [(run.planes[name], API_PORT) for name in leaving]
        used = {(issuer, at): run.tokens.used[issuer, at] for issuer in issuers for at in run.kubernetes.apis}
        planes.remove(run, *leaving)
        used = {pair: run.tokens.used[pair] for pair in used if pair[1] in run.kubernetes.apis}

        def missing() -> list[str]:
            return [f"{one[0]} at {at[0]}" for (one, at), count in used.items() if run.tokens.used[one, at] <= count]

        wait_for(lambda: not missing(), _USED_SECONDS, lambda: f"not used after the removal: {missing()}", pause=1)


def rotation(run: SoakedKeys) -> None:
    """A whole rotation, in which a node is killed, and others join in two states."""
    with run.phase("rotated: published, cp-5 joins, cp-2 is killed"):
        run.rotate()
        run.reach(KeyState.SWITCHED, "continue", planes.joins(run, "cp-5"), planes.killed(run, KILLED))
    with run.phase("rotated: switched, cp-6 joins"):
        run.lead(lambda record: record.waits_for_tokens, "continue", planes.joins(run, "cp-6"))
    with run.phase("rotated: the old tokens end"):
        given = len(run.pod.seen)
        run.reach(KeyState.RETIRED)
        # Its kubelet asks for another one at 80 % of the life of tokens, and this phase took a whole one.
        assert len(run.pod.seen) > given, "the token of the pod was not replaced"
    with run.phase("rotated: retired, then done"):
        run.reach(KeyState.DONE)
        run.settle()


def abort_published(run: SoakedKeys) -> None:
    """Back while some API servers have loaded the next keys, and others have not."""
    with run.phase("aborted when published"):
        run.rotate()
        turns: set[str] = set()

        def halfway() -> bool:
            record = run.record
            turns.update({record.turn} - {""} if record is not None else ())
            return len(turns) > 1

        run.lead(lambda record: halfway() and record.state is KeyState.PUBLISHED)
        run.reach(KeyState.STEADY, "abort")
        run.settle()


def abort_switched(run: SoakedKeys) -> None:
    """Back once the first API server has signed tokens with its next key."""
    with run.phase("aborted when switched"):
        run.rotate()
        known = set(run.tokens.key_ids)
        run.lead(lambda record: record.state is KeyState.SWITCHED and bool(run.tokens.key_ids - known))
        run.reach(KeyState.RETURNING, "abort")
        run.reach(KeyState.STEADY, "abort")
        run.settle()


def abort_retired(run: SoakedKeys) -> None:
    """Back once no API server accepts the old tokens; after the control runs it goes on from there."""
    if run.state is not KeyState.RETIRED:
        with run.phase("rotated: published and switched"):
            run.rotate()
            run.reach(KeyState.RETIRED)
        with run.phase("rotated: retired"):
            run.lead(lambda record: run.shown_everywhere())
    with run.phase("aborted when retired: re-trusting"):
        run.reach(KeyState.RETURNING, "abort")
    with run.phase("aborted when retired: returning"):
        run.reach(KeyState.STEADY, "abort")
        run.settle()


def stolen(run: SoakedKeys) -> None:
    """The certificate of a stolen node leaves first: its tokens are refused, and those of no other node."""
    with run.phase(f"{STOLEN} stolen"):
        issuer = (run.planes[STOLEN], API_PORT)
        mine = {each.key_id for each in run.tokens.tokens if each.issuer == issuer}
        assert mine, f"there are no tokens of {STOLEN}"
        kubernetes = run.kubernetes
        planes.switch_off(run, STOLEN)
        cluster = kubernetes.cluster
        vaultpki("lock", "-f", cluster.file, STOLEN, env=cluster.environment("locker"))
        run.tokens.given_up |= mine
        run.rotate("--emergency", "--stolen", STOLEN, "--yes")
        run.settle()
        # An answer of before the restart may have been on its way.
        last = next(each for each in reversed(run.tokens.tokens) if each.key_id in mine)
        for at in kubernetes.apis:
            assert run.tokens.status_of(last, at) == 401, f"{at[0]} accepts a stolen token"
        del run.planes[STOLEN]
        run.apply()
        run.lead(lambda record: record.state.resting)


def emergency(run: SoakedKeys) -> None:
    """All keys were stolen: tokens of before are refused at once, and those of after it are accepted everywhere."""
    with run.phase("all keys stolen", outage=True):
        run.rotate("--emergency", "--yes")
        run.reach(KeyState.DONE)
        run.settle()
        run.begin_again()
    with run.phase("after it"):
        time.sleep(_CALM_SECONDS)


PHASES: Mapping[str, Callable[[SoakedKeys], None]] = {
    "before": before,
    "join": join,
    "removal": removal,
    "rotation": rotation,
    "removal-after": removal,
    "abort-published": abort_published,
    "abort-switched": abort_switched,
    **controls.CONTROLS,
    "abort-retired": abort_retired,
    "stolen": stolen,
    "emergency": emergency,
}
"""What a run consists of, in this order unless another one is asked for."""


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[KeyPhase]
) -> None:
    """Add the phases on one server to `phases`; they end with the first one that could not be ended."""
    with clusters.standing(kind, programs, binary, folder, phases) as run:
        for name in names:
            PHASES[name](run)
