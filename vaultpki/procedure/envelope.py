"""Holds what every record of a procedure has in common: its revision, the state that it is in, and who has read it."""

from __future__ import annotations

from dataclasses import Field, fields, replace
from datetime import datetime
from typing import Any, ClassVar, Generic, Self, TypeVar

_State = TypeVar("_State")


class Envelope(Generic[_State]):
    """What a record of a procedure is built on, as a frozen dataclass with `state`, `revision` and `since`.

    FORGOTTEN are its fields that belong to one state, such as what people confirmed and whose turn it is: the next
    state begins with their defaults.
    """

    __slots__ = ()
    # Every record has these two.
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    revision: int
    FORGOTTEN: ClassVar[tuple[str, ...]]

    @property
    def counts_from(self) -> int:
        """The revision that a report's pass must have read to count: this very one, so each write asks for a pass."""
        return self.revision

    def moved(self, state: _State, now: datetime, **changes: Any) -> Self:
        """Return the next revision in another state, without what is FORGOTTEN."""
        begins = {each.name: each.default for each in fields(self) if each.name in self.FORGOTTEN}
        return self.changed(state=state, since=now, **begins | changes)

    def changed(self, **changes: Any) -> Self:
        """Return the next revision in the same state."""
        return replace(self, revision=self.revision + 1, **changes)

    def read_by(self, read: int, highest: int) -> bool:
        """Return whether a report counts: its pass has `read` this record, and no pass there a later one.

        `highest` is the highest revision that was ever read there. After a snapshot was restored, nodes stand by a
        record that the server does not have, and what they say answers that.
        """
        return self.counts_from <= read <= highest <= self.revision
