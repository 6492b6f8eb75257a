"""Writes and reads the record of what the signer of certificate requests knows of a cluster; pure.

`apply` writes it. A signer that is stolen can read it and nothing else of cluster.yaml.
"""

from __future__ import annotations

from typing import Final

from vaultpki.csr_roles import SignerFacts
from vaultpki.model import People, Signer, TokenPool
from vaultpki.records.published import Json
from vaultpki.values import hosts, names
from vaultpki.values.json_object import FLAG, Integer, Items, JsonMember, JsonText, Object, word

SIGNER_RECORD: Final = "signer"
"""The path of the record in the cluster's config store."""

_WRONG: Final = "contains a value that vaultpki does not write; apply the cluster again"
_SECONDS: Final = Integer(1)
_TEXTS: Final = Items(JsonText())

_PEOPLE: Final = Object(People, {"ttl": _SECONDS, "names": _TEXTS, "groups": Items(_TEXTS, least=1)}, problem=_WRONG)
_POOL: Final = Object(
    TokenPool,
    {"name": word(names.pool_name), "node_names": word(hosts.node_pattern), "networks": _TEXTS},
    problem=_WRONG,
)
_SIGNER: Final = Object(
    Signer,
    {"ttl": _SECONDS, "approve_serving": JsonMember(FLAG, left_out=True), "people": JsonMember(_PEOPLE, left_out=True)},
    problem=_WRONG,
)
_RECORD: Final = Object(
    SignerFacts,
    {
        "signer": _SIGNER,
        "token_pools": Items(_POOL),
        "nodes": Items(word(hosts.node_name)),
        "common_names": _TEXTS,
        "addresses": _TEXTS,
    },
    "a record of vaultpki",
    "apply the cluster again",
    version=True,
)


def to_json(facts: SignerFacts) -> Json:
    """Return the record as it is stored."""
    return _RECORD.write(facts)


def read(value: object, *, where: str) -> SignerFacts:
    """Return what the record says; raise SpecError with record and field if no vaultpki writes it like this."""
    return _RECORD.read(value, where)
