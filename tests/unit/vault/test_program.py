"""Which command line a message names: the server's own."""

from __future__ import annotations

import pytest

from vaultpki.vault import Answer, Capabilities


@pytest.mark.parametrize(("body", "program"), [({"version": "2.7.2"}, "bao"), ({"enterprise": False}, "vault")])
def test_the_program_is_told_from_what_the_server_says_of_itself(body: dict[str, object], program: str) -> None:
    assert Capabilities.of(Answer(200, body, None)).program == program
