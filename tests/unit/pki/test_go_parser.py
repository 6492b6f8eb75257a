"""What Go refuses to parse is found by its reason, and what it takes is not; Go is asked in tests/conformance."""

from __future__ import annotations

import pytest

from helpers import go_refusals
from helpers.outside_signers import facts
from vaultpki.pki.foreign_cas import not_a_ca
from vaultpki.pki.go_parser import unread_by_go


@pytest.mark.parametrize("what", go_refusals.REFUSED)
def test_what_go_refuses_is_found(what: str) -> None:
    odd = go_refusals.REFUSED[what]
    ca = facts(odd.made())
    found = unread_by_go(ca)
    assert found.startswith(odd.says) and found.endswith(", which no component of Kubernetes reads")
    # Nor is it taken into a bundle as a foreign CA, or imported with its key.
    assert not_a_ca(ca) == f"it has {found}"


def test_all_that_go_refuses_is_told() -> None:
    made = go_refusals.names(go_refusals.VISIBLE, b"Corp", kind=go_refusals.UUID)
    assert unread_by_go(facts(made())) == (
        "a name that is a VisibleString and an object identifier with a number of more than 31 bits, which no "
        "component of Kubernetes reads"
    )


@pytest.mark.parametrize("what", go_refusals.READ)
def test_what_go_takes_is_taken(what: str) -> None:
    assert unread_by_go(facts(go_refusals.READ[what].made())) == ""
