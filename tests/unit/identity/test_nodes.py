"""What is said of an identity that does not belong to a node."""

from __future__ import annotations

import pytest

from vaultpki.identity.nodes import Unfit


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
