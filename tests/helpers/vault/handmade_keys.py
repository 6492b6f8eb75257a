"""A record of service-account keys made by hand, with the root token, from what nodes report."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.handmade_rotation import tell_nodes
from vaultpki.identity import access
from vaultpki.model import Certificate, Node, Pool
from vaultpki.records import node_report, service_account
from vaultpki.records.node_report import NodeReport, TokenKeysReport
from vaultpki.records.server_facts import ServerFacts
from vaultpki.records.service_account import KEYS_RECORD, KeyRecord, KeyState, NodeKeys

SPEC = """\
service_account_keys: true
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""


@dataclass(slots=True)
class HandmadeKeys:
    """The record of a cluster's keys; `record` is what it says."""

    cluster: AppliedCluster
    record: KeyRecord

    @classmethod
    def of(cls, cluster: AppliedCluster, *nodes: str) -> HandmadeKeys:
        """Every one of these nodes is in the record with the key that it reports, and may start."""
        made = cls(cluster, KeyRecord(KeyState.STEADY, 1, datetime.now(UTC).replace(microsecond=0)))
        made.write(nodes={node: NodeKeys(1, 1, True, {1: made.own(node)[1]}) for node in nodes})
        return made

    def admit(self, node: str) -> None:
        """Write the next revision, with this node and the key that it reports beside the others."""
        self.write(nodes={**self.record.nodes, node: NodeKeys(1, 1, True, {1: self.own(node)[1]})})

    def write(self, state: KeyState | None = None, **changes: Any) -> None:
        """Write the next revision, with the numbers of all keys that were ever given."""
        self.record = replace(self.record, state=state or self.record.state, **changes)
        highest = {name: max(self.record.highest.get(name, 0), keys.new) for name, keys in self.record.nodes.items()}
        self.record = replace(
            self.record, revision=self.record.revision + 1, highest={**self.record.highest, **highest}
        )
        self.put(service_account.to_json(self.record))

    def put(self, value: object) -> None:
        """Write anything in its place, as a writer of records can."""
        path = f"{self.cluster.prefix}/config/data/{KEYS_RECORD}"
        assert self.cluster.server.api("POST", path, {"data": value}).status == 200
        tell_nodes(self.cluster)

    def taken_in(self) -> dict[str, NodeKeys]:
        """The nodes of the record with the certificates that they report of the numbers that it gives them."""
        return {
            name: replace(keys, certificates={n: pem for n, pem in self.own(name).items() if n in keys.numbers})
            for name, keys in self.record.nodes.items()
        }

    def own(self, node: str) -> dict[int, str]:
        return dict(reported(self.cluster, node).own)


@dataclass(frozen=True, slots=True)
class KeysAsApplied:
    """What `apply` has made for the keys of a cluster, to be put back after a test."""

    cluster: AppliedCluster
    bodies: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, cluster: AppliedCluster) -> KeysAsApplied:
        role = f"{cluster.prefix}/service-account/roles/service-account"
        policies = [f"sys/policies/acl/{cluster.prefix}/node/{node.name}" for node in cluster.model.nodes]
        return cls(cluster, {path: cluster.read(path) for path in (role, *policies)})

    def put_back(self) -> None:
        """Neither a record nor a report is left."""
        api, store = self.cluster.server.api, f"{self.cluster.prefix}/config/metadata"
        reports = [self.cluster.report_path(node.name, data="metadata") for node in self.cluster.model.nodes]
        for path in (f"{store}/{KEYS_RECORD}", *reports):
            assert api("DELETE", path).status == 204
        for path, body in self.bodies.items():
            assert api("POST", path, body).status in (200, 204)
        tell_nodes(self.cluster)


def told(cluster: AppliedCluster, node: str) -> NodeReport:
    """The report of a node."""
    found = node_report.read(cluster.read(cluster.report_path(node))["data"])
    assert found is not None
    return found


def reported(cluster: AppliedCluster, node: str) -> TokenKeysReport:
    """What a node reports of its service-account keys."""
    keys = told(cluster, node).token_keys
    assert keys is not None
    return keys


def give_number(cluster: AppliedCluster, number: int) -> None:
    """Let nodes ask for a certificate with this number too, as the operator's command does."""
    server, model = cluster.server, cluster.model
    path = f"{cluster.prefix}/service-account/roles/service-account"
    role = cluster.read(path)
    names = [*role["allowed_domains"], *(each.replace(":1", f":{number}") for each in role["allowed_domains"])]
    assert server.api("POST", path, {**role, "allowed_domains": names}).status in (200, 204)
    facts = ServerFacts(key_numbers={node.name: (1, number) for node in model.nodes})
    held: dict[Node | Pool, tuple[Certificate, ...]] = {
        node: access.node_certificates(model, node) for node in model.nodes
    }
    rules = access.policies(model, facts, held)
    for name in (f"{cluster.prefix}/node/{node.name}" for node in model.nodes):
        text = json.dumps({"path": rules[name]})
        assert server.api("PUT", f"sys/policies/acl/{name}", {"policy": text}).status in (200, 204)
