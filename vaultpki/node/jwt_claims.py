"""Looks at the claims of this node's JWT: Vault logs in whomever they name, which may be another node.

The signature is not checked here; Vault does that. Nothing of the token but names of nodes is ever shown.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from vaultpki.values import hosts, names

# Of claims about something else.
_OTHERS: Final = frozenset({"iss", "aud", "jti"})
_MOST_DEPTH: Final = 8


def other_node(token: str, node: str) -> str | None:
    """Return whom the token names in place of `node`; None if one of its claims is this node.

    cluster.yaml says which claim counts, and a node does not know it. Empty if no claim looks like the name of a node.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(f"{body}{'=' * (-len(body) % 4)}"))
    except (ValueError, IndexError, RecursionError):
        # Vault says what is wrong with it.
        return None
    found = list(_texts(claims, "", _MOST_DEPTH))
    # Names that differ in case alone are one node to Vault.
    if any(text.lower() == node.lower() for _, text in found):
        return None
    likely = [(claim, text) for claim, text in found if names.fits(text, hosts.node_name)]
    named = [text for claim, text in likely if "node" in claim.lower()] or [text for _, text in likely]
    return ", ".join(dict.fromkeys(named[:3]))


def _texts(value: Any, claim: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yield every text of the claims that may name a node, with the path of its claim."""
    if isinstance(value, str):
        yield claim, value
    elif isinstance(value, dict) and depth:
        for name, below in value.items():
            if claim or name not in _OTHERS:
                yield from _texts(below, f"{claim}/{name}", depth - 1)
