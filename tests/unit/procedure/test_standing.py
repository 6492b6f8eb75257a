"""How it is told where something stands that is replaced in steps."""

from __future__ import annotations

from datetime import UTC, datetime

from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedure.standing import MOST_LINES, gate_lines, listed
from vaultpki.redact import stamp

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)


def test_who_sees_the_first_of_many_is_told_what_lists_all_of_them() -> None:
    many = tuple(Waiting(f"w-{number}", f"it has not passed {number}") for number in range(MOST_LINES + 3))
    assert [*gate_lines(Gate(many), NOW)][-1] == "  and 3 more; `vaultpki ca status --json` lists them"
    # An adoption is told elsewhere.
    whole = "vaultpki adopt status -f prod.yaml --json"
    said = [*gate_lines(Gate(excused=many), NOW, whole)]
    assert len(said) == MOST_LINES + 2 and said[-1] == f"  and 3 more; `{whole}` lists them"


def test_what_many_nodes_must_do_is_one_line() -> None:
    asked = [
        Waiting(f"cp-{number}", f"last reported at {stamp(NOW.replace(second=number))}: `vaultpki enroll cp-{number}`")
        for number in (2, 1, 3, 11)
    ]
    assert [*listed("They wait:", [Waiting("w-1", "is locked"), *asked])] == [
        "They wait:",
        f"  {'w-1':27}  is locked",
        "  cp-2, cp-1, cp-3 and 1 more  last reported at 2026-11-26T10:00:01Z: `vaultpki enroll NODE`",
    ]
    assert len([*listed("They wait:", asked[:2])]) == 3
