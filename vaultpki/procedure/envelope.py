"""Holds what every record of a procedure has in common: its revision, the state that it is in, and who has read it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import Field, dataclass, fields, replace
from datetime import datetime
from typing import Any, ClassVar, Generic, Self, TypeVar

_State = TypeVar("_State")


class Envelope(Generic[_State]):
    """What a record of a procedure is built on, as a frozen dataclass with `state`, `revision` and `since`.

    FORGOTTEN are its fields that belong to one state, such as what people confirmed: the next state begins with their
    defaults. Whose turn it is stays, since a step that waits for nobody may come while that node restarts. A step that
    waits is taken with the turn that its gate gives.
    """

    __slots__ = ()
    # Every record has these two.
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    revision: int
    since: datetime
    turn: str
    FORGOTTEN: ClassVar[tuple[str, ...]]

    @property
    def active(self) -> bool:
        """Whether it is not at rest, so that whoever follows it asks the server that decides for the next step."""
        return True

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

    def noted(self, **said: Collection[str]) -> Self:
        """Return the same revision with what people said too, such as `restarted`, each in its field."""
        return replace(self, **{name: tuple(sorted({*getattr(self, name), *more})) for name, more in said.items()})

    def gone(self, node: str, stopped: datetime | None) -> bool:
        """Return whether a component of a node that has `stopped` is not waited for; None if it has not.

        Others wait for what stopped in the turn of its node, in whatever state that was: it may have ended by what it
        read, and the next one would too.
        """
        return stopped is not None and self.turn != node

    def read_by(self, read: int, highest: int) -> bool:
        """Return whether a report counts: its pass has `read` this record, and no pass there a later one.

        `highest` is the highest revision that was ever read there. After a snapshot was restored, nodes stand by a
        record that the server does not have, and what they say answers that.
        """
        return self.counts_from <= read <= highest <= self.revision


@dataclass(frozen=True, slots=True)
class ProcedureRecord:
    """The record of a procedure: `name` is its path in the folder of records that every node's policy lets it read.

    `read(VALUE, where=PLACE)` makes it of what Vault has; it raises SpecError for what no vaultpki writes. With
    `only_with_foreign` nodes that accept no foreign CA do not ask for it. The copy of Vault's answer has it under its
    name, or its revision under `ahead` if that is too far ahead of what the node has read to be followed.
    """

    name: str
    read: Callable[..., Envelope[Any]]
    only_with_foreign: bool = False

    @property
    def ahead(self) -> str:
        return f"{self.name}_ahead"
