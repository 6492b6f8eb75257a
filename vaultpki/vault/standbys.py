"""Reads that a standby may answer from its own copy, which is some 100 ms old, or older while it is cut off."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from vaultpki.errors import Unavailable, VaultError

Asked = TypeVar("Asked")


class StandbyReads(Generic[Asked]):
    """A server that is asked first for everything, and its standbys, each of which is asked in its turn.

    The turns begin at a random one, so that clients spread over the standbys. One that is cut off answers from an old
    copy, and nothing in its answer says so: the next turn is another server's, so it hides a change once only.
    """

    def __init__(self, active: Asked, standbys: Sequence[Asked], find: Callable[[], bool]) -> None:
        """`find` makes `active` ask the node that is active now, and returns whether there is one that says so."""
        self._active = active
        self._standbys = list(standbys)
        self._find = find
        self._turns = self._in_turn(random.randrange(len(standbys)) if standbys else 0)  # noqa: S311 -- not a secret
        self._forwarded = False

    @property
    def standbys(self) -> tuple[Asked, ...]:
        """The standbys that are still asked."""
        return tuple(self._standbys)

    def agree(self, asks: Callable[[Asked], bool]) -> bool:
        """Return whether `asks` is true of one standby, or else of the active node.

        A standby that fails is left for the next one, and so is one that says no where the active node says yes; they
        are not asked again. Raises what `asks` raises of the active node.
        """
        behind = None
        while self._standbys and behind is None:
            server = self._turns[0]
            self._turns.rotate(-1)
            if server is self._active:
                break
            try:
                if asks(server):
                    return True
                behind = server
            except VaultError as error:
                self._leave(server)
                if isinstance(error, Unavailable) and error.forwards:
                    # So do the others, and no answer comes from an old copy.
                    self._standbys, self._forwarded = [], True
        # The one that was active before may be cut off, and answer from its own old copy.
        found = self._forwarded or self._find()
        if behind is not None and not found:
            return False
        agreed = asks(self._active)
        if agreed and behind is not None:
            self._leave(behind)
        return agreed

    def _leave(self, server: Asked) -> None:
        # In the order of the turns, so that the next one is not asked twice.
        self._standbys = [each for each in self._turns if each is not server and each is not self._active]
        self._turns = self._in_turn(0)

    def _in_turn(self, first: int) -> deque[Asked]:
        """Return whose turns are next. A standby that is the only one takes turns with the active node."""
        turns = deque(self._standbys if len(self._standbys) != 1 else [*self._standbys, self._active])
        turns.rotate(-first)
        return turns
