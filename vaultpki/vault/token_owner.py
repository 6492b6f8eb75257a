"""Asks the server whose token a command has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaultpki.errors import BadAnswer, Denied, Refused
from vaultpki.redact import HIDDEN, hide
from vaultpki.vault.answers import Json

if TYPE_CHECKING:
    from vaultpki.vault.client import Vault


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """Whose token it is, in the server's own words; never the token. `entity` is an id, empty if there is none."""

    name: str
    policies: tuple[str, ...]
    entity: str = ""
    accessor: str = ""


def look_up(vault: Vault) -> TokenOwner | None:
    """Return whose token it is; None if the token may not look at itself, or the answer is none."""
    # https://developer.hashicorp.com/vault/api-docs/auth/token#lookup-a-token-self
    try:
        found: Json = vault.api.auth.token.lookup_self().data
    except (Denied, Refused, BadAnswer):
        return None

    def said(value: object) -> str:
        # Its field `id` is the token itself. A server that is not honest may repeat it elsewhere.
        text = value if isinstance(value, str) else ""
        return hide(text.replace(vault.settings.token, HIDDEN) if vault.settings.token else text)

    policies = [each for field in ("policies", "identity_policies") for each in _list(found.get(field))]
    return TokenOwner(
        said(found.get("display_name")),
        tuple(dict.fromkeys(map(said, policies))),
        said(found.get("entity_id")),
        said(found.get("accessor")),
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
