"""Says where tokens of the cluster are checked by a key set that somebody publishes outside of it; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vaultpki.kube.token_flags import OIDC_DISCOVERY, TokenFlags
from vaultpki.redact import first_few, printable

JWKS: Final = "jwks"
"""As `--checked jwks`: a person's word that the key set is published, and that those who check tokens have read it."""


PUBLISH: Final = "publish the key set that is written by `vaultpki ca jwks -o jwks.json`"
"""How a key set gets every key."""


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    """A key set outside: its URL, or that of the discovery document that names it, and what this machine saw there.

    `lacking` are the nodes of which it lacks a key. `unseen` is why it could not be read; "" if it was.
    """

    url: str
    lacking: tuple[str, ...] = ()
    unseen: str = ""

    @property
    def sentence(self) -> str:
        """What was seen there, as a part of a sentence."""
        if self.unseen:
            return f"{printable(self.url)} (not seen from here: {printable(self.unseen)})"
        if self.lacking:
            return f"{printable(self.url)}, which lacks keys of {first_few(self.lacking)}"
        return f"{printable(self.url)}, which has every key"


def outside(flags: Iterable[TokenFlags], own: Collection[str]) -> tuple[str, ...]:
    """Return the URLs of key sets, or of the discovery documents that name them, that no API server answers.

    `own` are the names and addresses of API servers.
    """
    found = set()
    for each in flags:
        if each.jwks_uri and _elsewhere(each.jwks_uri, own):
            found.add(each.jwks_uri)
        elif _elsewhere(each.issuer, own):
            found.add(f"{each.issuer.rstrip('/')}{OIDC_DISCOVERY}")
    return tuple(sorted(found))


def _elsewhere(url: str, own: Collection[str]) -> bool:
    """Return whether others may look there; an issuer that is no https URL can be looked up by nobody."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname) and parts.hostname not in own


def lacking(keys: Mapping[str, Collection[tuple[str, ...]]], published: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the nodes, of those in `keys`, of which a key is not published."""
    return tuple(sorted(name for name, each in keys.items() if not set(each) <= set(published)))
