"""When a second live credential of a node is one too many, by its age and by what the node reports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vaultpki.findings import late
from vaultpki.identity.credentials import SecretId
from vaultpki.records.node_report import NodeReport

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
OWN, FORMER, OTHER, THIRD = "own", "former", "other", "third"
KNOWS = {"in_use": (OWN, FORMER)}

# The live ones with their ages in minutes, what the node reports and how many minutes ago, and the verdict.
CASES: dict[str, tuple[Mapping[str, float], Mapping[str, Any], float, bool]] = {
    "one": ({OWN: 9000}, {"in_use": (OWN,)}, 1, False),
    "one was just replaced": ({OWN: 4, FORMER: 9000}, KNOWS, 1, False),
    "a stranger's, after ten minutes": ({OWN: 9000, OTHER: 11}, {"in_use": (OWN,)}, 60, True),
    "a stranger's, before": ({OWN: 9000, OTHER: 9}, {"in_use": (OWN,)}, 60, False),
    "an answer was lost": ({OWN: 9000, OTHER: 11}, {"in_use": (OWN,), "lost": 1}, 1, False),
    "a stranger's beside a lost answer": ({OWN: 90, OTHER: 11, THIRD: 60}, {"in_use": (OWN,), "lost": 1}, 1, True),
    "a lost answer while one is replaced": ({OWN: 4, FORMER: 90, OTHER: 60}, {**KNOWS, "lost": 1}, 1, False),
    "a thief names his in the report": ({OWN: 9000, FORMER: 90}, KNOWS, 1, True),
    "the agent died after it made one": ({OWN: 9000, FORMER: 90000}, KNOWS, 9000, False),
    "it does not stay, and runs each day": ({OWN: 1500, FORMER: 9000}, {**KNOWS, "poll": 0}, 60, False),
    "it does not stay, and ran since": ({OWN: 4500, FORMER: 9000}, {**KNOWS, "poll": 0}, 60, True),
    "it was enrolled again": ({OTHER: 2, THIRD: 600}, KNOWS, 3000, False),
    "it does not know its own": ({OTHER: 30, THIRD: 600}, {}, 1, False),
    "it does not know its own, and they stay": ({OTHER: 90, THIRD: 600}, {}, 1, True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_second_live_credential(case: str) -> None:
    ages, said, ago, verdict = CASES[case]
    live = [SecretId(name, NOW - timedelta(minutes=age), 604800) for name, age in ages.items()]
    report = NodeReport(NOW - timedelta(minutes=ago), "0.3.0", **{"poll": 300, "look": 3600, **said})
    assert late.copied(live, report, NOW) is verdict
