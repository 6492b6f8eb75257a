"""How it is told where something stands that is replaced in steps."""

from __future__ import annotations

from datetime import UTC, datetime

from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedure.standing import MOST_LINES, gate_lines

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)


def test_who_sees_the_first_of_many_is_told_what_lists_all_of_them() -> None:
    many = tuple(Waiting(f"w-{number}", "it has not passed") for number in range(MOST_LINES + 3))
    assert [*gate_lines(Gate(many), NOW)][-1] == "  and 3 more; `vaultpki ca status --json` lists them"
    # An adoption is told elsewhere.
    whole = "vaultpki adopt status -f prod.yaml --json"
    said = [*gate_lines(Gate(excused=many), NOW, whole)]
    assert len(said) == MOST_LINES + 2 and said[-1] == f"  and 3 more; `{whole}` lists them"
