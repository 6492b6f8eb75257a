"""Finds out which numbers the service-account keys of each node may have, by their record and by policies; pure."""

from __future__ import annotations

from collections.abc import Mapping

from vaultpki.certificates import SERVICE_ACCOUNT, key_nodes, signing_rows
from vaultpki.model import Cluster
from vaultpki.pki.service_account import key_name
from vaultpki.records.server_facts import Fields, Key
from vaultpki.records.service_account import KeyRecord


def sign_path(cluster: Cluster) -> str:
    """Return the path at which nodes have their service-account keys certified."""
    return f"{cluster.mount(SERVICE_ACCOUNT)}/sign/{SERVICE_ACCOUNT}"


def node_policy(cluster: Cluster, node: str) -> Key:
    """Return the key of a listed node's policy."""
    return "policy", f"{cluster.prefix}/node/{node}"


def other_types(cluster: Cluster, record: KeyRecord | None) -> dict[str, str]:
    """Return the types of keys that count and that Vault would not certify again by cluster.yaml, by node.

    The role of these keys takes one type. A key that is in use keeps the type that it was made with.
    """
    from vaultpki.pki import x509

    wanted = {row.key or cluster.key for row in signing_rows(cluster)}
    found = {}
    for name, keys in record.nodes.items() if record is not None else ():
        for number, pem in keys.certificates.items():
            kind = next((facts.key for facts in x509.readable(pem)), None)
            if record is not None and number in keys.accepted(record.state) and kind is not None and kind not in wanted:
                found[name] = kind.value
    return found


def given_numbers(cluster: Cluster, rules: Fields | None, node: str) -> tuple[int, ...]:
    """Return the numbers that a node's policy allows for its keys, as the server has it."""
    rule = (rules or {}).get(sign_path(cluster))
    parameters = rule.get("allowed_parameters") if isinstance(rule, Mapping) else None
    names = parameters.get("common_name") if isinstance(parameters, Mapping) else None
    found = [key_name(name) for name in (names if isinstance(names, list) else ()) if isinstance(name, str)]
    return tuple(sorted(key.number for key in found if key is not None and key.node == node))


def key_numbers(
    cluster: Cluster, record: KeyRecord | None, objects: Mapping[Key, Fields]
) -> dict[str, tuple[int, ...]]:
    """Return the numbers that the keys of each node may have, of each node that has other ones than 1 alone.

    `objects` are those of the server with the policies of nodes. Where the record is lost or does not know a node, the
    policy counts: no number becomes lower.
    """
    numbers = {}
    for name in key_nodes(cluster):
        given = given_numbers(cluster, objects.get(node_policy(cluster, name)), name)
        if record is None:
            numbers[name] = given or (1,)
        elif name in record.nodes:
            numbers[name] = record.numbers(name)
        else:
            numbers[name] = (max([*record.numbers(name), *given]),)
    return {name: found for name, found in numbers.items() if found != (1,)}
