"""`--wait` of `vaultpki ca` for the root and issuing CAs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vaultpki.cli.common import server_now
from vaultpki.cli.wait import Ahead, Wait, until_open
from vaultpki.errors import ChangedMeanwhile, SpecError, Unavailable, VaultError, VaultpkiError

if TYPE_CHECKING:
    from vaultpki.ca.run import Step
    from vaultpki.kube.objects import KubeTrust
    from vaultpki.rotation.course import Course
    from vaultpki.vault import Vault

# Seconds for which an API server that has let us in before may refuse us: it does so until it has read its roles.
_STARTS: Final = 120.0

Take = Callable[["Course | None", "KubeTrust | None"], "Step"]
"""Takes a step, in the course of the steps before, with what the Kubernetes cluster shows."""


def until_rest(
    vault: Vault,
    take: Take,
    pods: Callable[[], KubeTrust | None],
    course: Course | None,
    *,
    back: bool,
    begun: bool = False,
    quiet: bool = False,
) -> Step:
    """Take steps until the rotation is at rest or another operator decides otherwise, and return the last one.

    What the first step raises ends it, unless the command has `begun` the rotation itself. Later a server that is away
    is waited for; the API server from the first look on, if a rotation is under way (`course`), which may restart it.
    """
    from vaultpki.procedure.standing import progress_line
    from vaultpki.rotation.course import Course

    cluster, looked = _Lenient(pods), False

    def look_and_take() -> Step:
        nonlocal course, looked
        looked = False
        shown = cluster.look()
        looked = True
        done = take(course, shown)
        course = course.seen(done.record) if course is not None else Course(done.record, back)
        return done

    def ends(error: Unavailable | ChangedMeanwhile) -> bool:
        return isinstance(error, Unavailable) and not begun and (looked or course is None)

    def ahead(_: Step | None, done: Step) -> Ahead:
        if done.stopped or done.ended:
            return Ahead()
        now = server_now(vault)
        at_once = done.moved and done.gate is not None and done.gate.open(now)
        head = f"{done.record.domain} is {done.record.state.value}"
        line = done.note or progress_line(head, done.gate, now)
        return Ahead(line, 0.0 if at_once else until_open(done.gate, now))

    return Wait(take=look_and_take, ahead=ahead, ends=ends).until_rest(quiet=quiet)


class _Lenient:
    """Looks at the Kubernetes cluster; a refusal by an API server that has let us in before may pass by itself."""

    def __init__(self, pods: Callable[[], KubeTrust | None]) -> None:
        self._pods = pods
        self._let_in: float | None = None

    def look(self) -> KubeTrust | None:
        """Return what the cluster shows. Raises Unavailable for a refusal that may pass."""
        try:
            found = self._pods()
        except Unavailable:
            # It refuses everybody until it has read its roles, however long it was away.
            self._let_in = time.monotonic()
            raise
        except (VaultError, SpecError):
            raise
        except VaultpkiError as error:
            if self._let_in is None or time.monotonic() - self._let_in > _STARTS:
                raise
            raise Unavailable(str(error)) from None
        self._let_in = time.monotonic()
        return found
