"""Names the issuers on the root's mount that hold the CAs of a root from outside; none of them has a key."""

from __future__ import annotations

import re
from typing import Final

from vaultpki.model import Cluster
from vaultpki.values import pem

_NAME: Final = re.compile(r"above-[0-9a-f]{16}")


def name(text: str) -> str:
    """Return the name of the issuer that holds a CA of the chain other than the anchor; `text` is its PEM."""
    return f"above-{sha256(text)[:16]}"


def is_name(text: str) -> bool:
    """Return whether an issuer has a name of this kind."""
    return _NAME.fullmatch(text) is not None


def sha256(text: str) -> str:
    """Return the SHA-256 of a PEM certificate in lower-case hex; no library is loaded for it."""
    (found,) = pem.fingerprints(text)
    return found


def names(cluster: Cluster) -> dict[str, str]:
    """Return the PEM of each CA of the chain but the anchor, by the name of its issuer; none if the root is ours."""
    outside = cluster.authority.outside
    return {name(text): text for text in outside.others} if outside is not None else {}
