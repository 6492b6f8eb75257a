"""100,000 agents over a simulated year: they start at once, Vault and the machines are away, CAs are rotated."""

from __future__ import annotations

import pytest

from helpers import pages
from helpers.node.fleet_picture import SPAN, picture
from helpers.node.fleet_year import bad_year, most

AGENTS = 100_000


@pytest.mark.conformance
def test_no_span_has_many_renewals_and_the_page_shows_it() -> None:
    times = bad_year(AGENTS).renewals()
    assert most(times, SPAN) <= AGENTS * 5 // 100
    command = "run `.venv/bin/python tests/setup/renewal-picture docs/renewals.svg`"
    assert (pages.DOCS / "renewals.svg").read_text(encoding="utf-8") == picture(times, AGENTS), command
