"""The cases in which the model of service-account keys is explored, and the rules without which each of them breaks."""

from __future__ import annotations

from collections.abc import Iterator

from models.explore import Try
from models.service_account import Case
from models.service_account_space import key_model
from models.service_account_tables import ALL

CASES = {
    "two": Case(),
    "two, from sa.key": Case(shared=True),
    "two, by turns": Case(turns=True),
    "one from sa.key, and one that joins": Case(shared=True, joins=True, removes=True),
    "two, records unreadable": Case(lost=True),
    "one, and one that joins": Case(joins=True),
    "one, and one that joins with one key": Case(joins=True, single=True),
    "one, and one that joins, records unreadable": Case(joins=True, lost=True),
    "two, one is removed or stolen": Case(removes=True),
    "two, a writer of records": Case(rogue=True),
}
LARGE = {
    "three": Case(nodes=3, late=False),
    "three, from sa.key": Case(nodes=3, shared=True, late=False),
    "two, and one that joins": Case(nodes=3, joins=True, late=False),
}
NEEDED = {
    "two": ("signword", "started", "disk", "used", "echo", "life", "since", "retrust", "last"),
    "two, from sa.key": ("signword", "life", "last"),
    "two, by turns": ("turns",),
    "one from sa.key, and one that joins": ("guest", "grant"),
    "two, records unreadable": ("word",),
    "one, and one that joins": ("counted", "admit", "full", "both", "own"),
    "two, one is removed or stolen": ("linger", "name"),
    "two, a writer of records": ("certified", "listed"),
}
"""The rules without which each of these breaks."""


def tries() -> Iterator[Try]:
    """Yield every exploration but those of `large`; each is given a limit of states."""
    for name, c in CASES.items():
        yield _try(name, "all rules", c)
    for name, rules in NEEDED.items():
        for rule in rules:
            yield _try(name, f"without {rule}", CASES[name]._replace(rules=ALL - {rule}), holds=False)


def large() -> Iterator[Try]:
    """Yield the explorations of three machines, which take minutes."""
    for name, c in LARGE.items():
        yield _try(name, "all rules", c)._replace(title=f"large keys: {name}: all rules")


def _try(name: str, rules: str, c: Case, *, holds: bool = True) -> Try:
    return Try(f"keys: {name}: {rules}", holds, lambda limit: key_model(c, limit))
