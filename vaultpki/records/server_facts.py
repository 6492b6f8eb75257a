"""The types of what is on a server: an object's key and fields, and what only the server itself knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vaultpki.records.rotation import RotationRecord

UNKNOWN: Final = "(known after apply)"
"""The placeholder for a value that is not known yet."""

Fields = dict[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of the server; before it is asked, only where nodes find it.

    `addresses`, `ca_pem` and `namespace` (as in a URL's path, empty for none) are where nodes find Vault. `accessors`
    are those of the auth mounts by the last part of their paths, `role_ids` those of the listed AppRoles by node.
    `openbao` is as in `Capabilities`. `ca_lives` are the seconds for which each existing CA was made. `rotations` are
    the records of CAs by domain, of those that have one. `waiting` are the issuing CAs for which the signer of a root
    from outside has sent nothing yet. `left_out` are the CAs of `ca.root_file` that have expired and are not wanted on
    the root's mount, by the names of their issuers. `imported` are the domains with a mount for an imported CA.
    `mute` are the CAs that sign nothing any more, since the cluster moves to another server. `key_numbers` are the
    numbers that a node's service-account keys may have, of each node that has another one than 1.
    """

    addresses: tuple[str, ...] = ()
    ca_pem: str | None = None
    namespace: str = ""
    accessors: Mapping[str, str] = field(default_factory=dict)
    root_sha256: str = UNKNOWN
    role_ids: Mapping[str, str] = field(default_factory=dict)
    openbao: bool = False
    ca_lives: Mapping[str, int] = field(default_factory=dict)
    rotations: Mapping[str, RotationRecord] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    imported: frozenset[str] = frozenset()
    mute: frozenset[str] = frozenset()
    key_numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def numbers_of(self, node: str) -> tuple[int, ...]:
        """Return the numbers that the service-account keys of a node may have."""
        return self.key_numbers.get(node, (1,))

    def accessor(self, mount: str) -> str:
        return self.accessors.get(mount, UNKNOWN)


def shared(objects: Mapping[Key, Fields], others: Mapping[Key, Fields]) -> dict[Key, Fields]:
    """Return the objects with those of `others` in place of equal ones, so that a large cluster takes less memory."""
    return {key: others[key] if others.get(key) == fields else fields for key, fields in objects.items()}
