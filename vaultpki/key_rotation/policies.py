"""Writes which numbers nodes' service-account keys may have into their policies and into the role of these keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from vaultpki.certificates import SERVICE_ACCOUNT, key_nodes
from vaultpki.errors import StateConflict
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.model import Cluster
from vaultpki.pki.key_numbers import given_numbers, key_numbers, node_policy, sign_path
from vaultpki.records.server_facts import Fields, Key
from vaultpki.records.service_account import KeyRecord
from vaultpki.values import json_object
from vaultpki.vault import Request, Vault

# A name in the role: whose key it is stands in it as a template, as in a node's policy as plain text.
_ROLE_NAME: Final = re.compile(r"(sa:\{\{[^{}]+\}\}):[1-9][0-9]*")


def read_policies(cluster: Cluster, vault: Vault) -> dict[Key, Fields]:
    """Return the policies of the nodes with service-account keys, of those that there are."""
    read = vault.api.sys.read_acl_policy

    def look(name: str) -> tuple[Key, Fields] | None:
        key = node_policy(cluster, name)
        answer = read(key[1])
        found = json_object.parse(str(answer.data.get("policy", "")).encode()) if answer.found else None
        rules = found.get("path") if found is not None else None
        return (key, rules) if isinstance(rules, dict) else None

    return dict(filter(None, vault.map(look, key_nodes(cluster))))


def given(cluster: Cluster, policies: Mapping[Key, Fields]) -> dict[str, tuple[int, ...]]:
    """Return the numbers that the policy of each node allows."""
    return {name: given_numbers(cluster, policies.get(node_policy(cluster, name)), name) for name in key_nodes(cluster)}


def reconcile_numbers(
    cluster: Cluster, vault: Vault, record: KeyRecord | None, policies: Mapping[Key, Fields], notice: ChangeNotice
) -> int:
    """Make policies and role allow the numbers that the record gives each node; return the number of writes.

    Nothing else of them is changed. The role, which binds all nodes, allows first what a policy allows then. Raises
    StateConflict if one of them is missing: apply makes them.
    """
    if record is None:
        return 0
    found = key_numbers(cluster, record, policies)
    wanted = {name: found.get(name, (1,)) for name in key_nodes(cluster)}
    changed = [
        name
        for name in wanted
        if given_numbers(cluster, policies.get(node_policy(cluster, name)), name) != wanted[name]
    ]
    writes = _write_role(cluster, vault, sorted({number for each in wanted.values() for number in each}), notice)
    for name in changed:
        key = node_policy(cluster, name)
        rules = policies.get(key)
        rule = (rules or {}).get(sign_path(cluster))
        if rules is None or not isinstance(rule, dict) or not isinstance(rule.get("allowed_parameters"), dict):
            raise _missing(cluster, f"the policy {key[1]} allows no service-account key")
        names = [f"sa:{name}:{number}" for number in wanted[name]]
        rule = {**rule, "allowed_parameters": {**rule["allowed_parameters"], "common_name": names}}
        notice.begin()
        body = json.dumps({"path": {**rules, sign_path(cluster): rule}}, indent=1)
        vault.api.sys.create_or_update_acl_policy(key[1], body)
    return writes + len(changed)


def _write_role(cluster: Cluster, vault: Vault, numbers: list[int], notice: ChangeNotice) -> int:
    mount = cluster.mount(SERVICE_ACCOUNT)
    answer = vault.api.secrets.pki.read_role(SERVICE_ACCOUNT, mount_point=mount)
    domains = answer.data.get("allowed_domains") if answer.found else None
    names = (
        [_ROLE_NAME.fullmatch(name) for name in domains if isinstance(name, str)] if isinstance(domains, list) else []
    )
    whose = {name[1] for name in names if name is not None}
    if len(whose) != 1 or None in names:
        raise _missing(cluster, f"the role {mount}/roles/{SERVICE_ACCOUNT} is missing or not as apply makes it")
    (owner,) = whose
    wanted = [f"{owner}:{number}" for number in numbers]
    if wanted == domains:
        return 0
    notice.begin()
    # hvac has no method for a part of a role; the whole one would be what the server shows, and it shows more.
    vault.call(Request("PATCH", f"{mount}/roles/{SERVICE_ACCOUNT}", {"allowed_domains": wanted}))
    return 1


def _missing(cluster: Cluster, what: str) -> StateConflict:
    return StateConflict(f"{what}; run `vaultpki apply{cluster.file_option}` first")
