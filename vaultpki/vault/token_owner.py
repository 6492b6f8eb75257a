"""Whose token a command has, as the server tells it; pure."""

from __future__ import annotations

from dataclasses import dataclass

from vaultpki.redact import HIDDEN, hide
from vaultpki.vault.answers import Json


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """Whose token it is, in the server's own words; never the token. `entity` is an id, empty if there is none."""

    name: str
    policies: tuple[str, ...]
    entity: str = ""
    accessor: str = ""


def token_owner(found: Json, token: str) -> TokenOwner:
    """Return whose token it is, by what the server's look-up of it has `found`."""

    def said(value: object) -> str:
        # Its field `id` is the token itself. A server that is not honest may repeat it elsewhere.
        text = value if isinstance(value, str) else ""
        return hide(text.replace(token, HIDDEN) if token else text)

    policies = [each for field in ("policies", "identity_policies") for each in _list(found.get(field))]
    return TokenOwner(
        said(found.get("display_name")),
        tuple(dict.fromkeys(map(said, policies))),
        said(found.get("entity_id")),
        said(found.get("accessor")),
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
