"""Plain words for what is on a server: an object's key and fields, and what only the server itself knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from vaultpki.values import dataclass

UNKNOWN: Final = "(known after apply)"
"""What stands in the place of a value that is not known yet."""

Fields = dict[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """What only the server knows: accessors of the auth mounts by their last part, the root's SHA-256, role ids.

    `addresses` and `ca_pem` are where nodes find Vault, `namespace` is the one that the cluster lies in there, if any.
    `bounds_dates`, `bounds_addresses` and `binds_tokens` are the server's capabilities of these names. `ca_lives` is
    for how many seconds each CA that is there was made.
    """

    addresses: tuple[str, ...] = ()
    ca_pem: str | None = None
    namespace: str = ""
    accessors: Mapping[str, str] = field(default_factory=dict)
    root_sha256: str = UNKNOWN
    role_ids: Mapping[str, str] = field(default_factory=dict)
    bounds_dates: bool = False
    bounds_addresses: bool = False
    binds_tokens: bool = False
    ca_lives: Mapping[str, int] = field(default_factory=dict)

    def accessor(self, mount: str) -> str:
        return self.accessors.get(mount, UNKNOWN)
