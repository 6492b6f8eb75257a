"""Writes and reads what lets one node log in at the server to which its cluster moves, in the old server's KV store.

The node checks it as it checks a join file, and believes it nothing about that server: the hand-over names that one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from vaultpki.records.move import CREDENTIALS
from vaultpki.records.report_paths import NodeKind
from vaultpki.values import hosts, names
from vaultpki.values.json_object import TIME, Integer, JsonMember, Object, word

_ADVICE: Final = "run `vaultpki move status`"


@dataclass(frozen=True, slots=True)
class Handed:
    """The role id of a node at the new server, and a token that wraps a secret id of it until it `expires`.

    `number` is that of the hand-over. `pool` is None for a listed node.
    """

    number: int
    node: str
    pool: str | None
    role_id: str
    wrap_token: str = field(repr=False)
    expires: datetime


_HANDED: Final = Object(
    Handed,
    {
        "number": Integer(1, 999_999),
        "node": word(hosts.node_name),
        "pool": JsonMember(word(names.pool_name), null=True),
        "role_id": word(names.token),
        "wrap_token": word(names.token),
        "expires": TIME,
    },
    "a credential of vaultpki",
    _ADVICE,
    version=True,
)

credential_json = _HANDED.write


def read_credential(value: object, *, where: str) -> Handed:
    """Return it; raise SpecError with record and field if no vaultpki writes it like this."""
    return _HANDED.read(value, where)


def credential_path(node: str, pool: str | None) -> str:
    """Return where it lies in the config store; only the policy of this node opens it."""
    kind: NodeKind = "pooled" if pool else "listed"
    return f"{CREDENTIALS}/{kind}/{pool}/{node}" if pool else f"{CREDENTIALS}/{kind}/{node}"
