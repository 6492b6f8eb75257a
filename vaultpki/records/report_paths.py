"""Names the places of nodes' reports in the KV store; pure.

Each kind of identity has a place of its own, which only the policy of that identity opens: a name is proof within its
own kind alone.
"""

from __future__ import annotations

import re
from typing import Final, Literal

NodeKind = Literal["listed", "pooled", "jwt"]

REPORT_FOLDER: Final = "reports"
"""The folder of all reports."""

# In a namespace the id ends with that of the namespace.
_ENTITY: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:\.[0-9A-Za-z]{1,32})?")


def folder(kind: NodeKind, pool: str = "") -> str:
    """Return the folder of a kind's reports, or of one pool's."""
    return f"{REPORT_FOLDER}/{kind}/{pool}" if pool else f"{REPORT_FOLDER}/{kind}"


def listed(node: str) -> str:
    """Return the place of a listed node's report."""
    return f"{folder('listed')}/{node}"


def pooled(pool: str, node: str) -> str:
    """Return the place of the report of a pool's node that logs in by its AppRole."""
    return f"{folder('pooled', pool)}/{node}"


def by_token(pool: str, entity: str) -> str:
    """Return the place of the report of a node that logs in by an issuer's token; `entity` is the id of its entity.

    Not its name: that is a claim of the token, and Vault would read `j-*` in a policy's path as a glob.
    """
    return f"{folder('jwt', pool)}/{entity}"


def former(node: str) -> str:
    """Return the place where the first release reported; such a report lies there until its node is removed."""
    return f"{REPORT_FOLDER}/{node}"


def is_entity(text: object) -> bool:
    """Return whether a text has the form of an entity's id."""
    return isinstance(text, str) and _ENTITY.fullmatch(text) is not None
