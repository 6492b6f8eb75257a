"""Reads that a standby may answer from its own copy, which is some 100 ms old, or older while it is cut off."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from vaultpki.errors import VaultError

Asked = TypeVar("Asked")


class StandbyReads(Generic[Asked]):
    """A server that is asked first for everything, and its standbys, each of which is asked in its turn.

    The turns begin at a random one, so that clients spread over the standbys. One that hangs on an old copy still
    answers, and nothing in its answer says so: the next turn is another server's, so it hides a change once only.
    """

    def __init__(self, active: Asked, standbys: Sequence[Asked]) -> None:
        self._active = active
        self._standbys = list(standbys)
        self._turns = self._in_turn(random.randrange(len(standbys)) if standbys else 0)  # noqa: S311 -- not a secret

    @property
    def standbys(self) -> tuple[Asked, ...]:
        """The standbys that are still asked."""
        return tuple(self._standbys)

    def agree(self, asks: Callable[[Asked], bool]) -> bool:
        """Return whether `asks` is true of one standby, or else of the active node.

        A standby that fails is left for the next one, and so is one that says no where the active node says yes; they
        are not asked again. Raises what `asks` raises of the active node.
        """
        behind: Asked | None = None
        while self._standbys:
            server = self._turns[0]
            self._turns.rotate(-1)
            if server is self._active:
                break
            try:
                if asks(server):
                    return True
            except VaultError:
                self._leave(server)
                continue
            behind = server
            break
        agreed = asks(self._active)
        if agreed and behind is not None:
            self._leave(behind)
        return agreed

    def _leave(self, server: Asked) -> None:
        # Where the turns are, so that the next one is not asked twice.
        rest = [each for each in self._turns if each is not server and each is not self._active]
        self._standbys = rest
        self._turns = self._in_turn(0)

    def _in_turn(self, first: int) -> deque[Asked]:
        """Return whose turns are next. A standby that is the only one takes turns with the active node."""
        turns = deque(self._standbys if len(self._standbys) != 1 else [*self._standbys, self._active])
        turns.rotate(-first)
        return turns
