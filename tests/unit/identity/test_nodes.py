"""What is said of an identity that does not belong to a node, and what programs get of a report."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from vaultpki.identity.nodes import Unfit, shown_report
from vaultpki.records import node_report
from vaultpki.records.node_report import NodeReport, Seen, TokenKeysReport
from vaultpki.records.service_account import MOST_IN_UNION


@pytest.mark.parametrize(
    ("unfit", "ends"),
    [
        (Unfit("kubernetes", "pooled", 1), "`vaultpki unenroll kubernetes` ends it"),
        # It would be refused for a listed node, and would lock a node by token out.
        (Unfit("cp-1", "pooled", 1, namesake=True), "`vaultpki apply` ends it"),
        # No command takes such a name.
        (Unfit("Admin", "pooled", 0), "`vaultpki apply` ends it"),
        (Unfit("c-*", "jwt", None), "let its issuer sign no such name"),
    ],
)
def test_the_command_that_ends_it_ends_nothing_else(unfit: Unfit, ends: str) -> None:
    assert unfit.sentence.endswith(ends) and "counts nowhere" in unfit.sentence


def test_programs_get_each_value_of_a_report_whole() -> None:
    pem = "-----BEGIN CERTIFICATE-----\n" + 12 * (64 * "A" + "\n") + "-----END CERTIFICATE-----\n"
    union = frozenset(f"{number:064x}" for number in range(MOST_IN_UNION))
    keys = TokenKeysReport(Seen(4, 4), own={1: pem, 2: pem}, union=union, issuer="https://" + 150 * "x")
    told = node_report.to_json(NodeReport(datetime(2026, 11, 24, tzinfo=UTC), token_keys=keys, failures=(300 * "f",)))
    assert shown_report(json.dumps(told)) == told


def test_programs_get_no_part_of_what_is_longer_than_a_node_writes() -> None:
    told = {"time": 8193 * "x", "pins": [1] * (MOST_IN_UNION + 1), "agent": "0.3.0\x1b[2J"}
    assert shown_report(json.dumps(told)) == {"time": "...", "pins": "...", "agent": "0.3.0?[2J"}
