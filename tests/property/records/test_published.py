"""Whatever cluster.yaml may say, a node takes what it is told of it: its records and its join file read back."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from vaultpki.config.agent import dump_agent, load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.identity.access import node_certificates
from vaultpki.identity.enrol import holder
from vaultpki.model import AgentConfig, Auth, Cluster, Node, Pool
from vaultpki.provision.desired import desired
from vaultpki.records import published
from vaultpki.records.join_file import Join, dump_join, load_join
from vaultpki.records.server_facts import ServerFacts
from vaultpki.values import hosts, names

_KEPT = tempfile.TemporaryDirectory(prefix="vaultpki-test-")
_FOLDER = Path(_KEPT.name)
_ROOT = "a" * 64
_CP = {"name": "cp-1", "roles": ["control-plane", "etcd"], "addresses": ["10.0.0.11"]}

LABELS = st.from_regex(names.LABEL_PATTERN, fullmatch=True)
SHORT = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
DOTTED = st.lists(SHORT | LABELS, min_size=1, max_size=4).map(".".join)
FILES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}|" + names.FILE_PATTERN, fullmatch=True)
STEMS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}|" + names.STEM_PATTERN, fullmatch=True)
KUBECONFIGS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,94}\.conf", fullmatch=True)
PEOPLE = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9 ._:-]{0,30}[A-Za-z0-9])?", fullmatch=True)
COMMON_NAMES = PEOPLE | PEOPLE.map("{}{{node}}".format) | PEOPLE.map("{}.{{domain}}".format) | st.just("{node}")
SAN_NAMES = DOTTED | DOTTED.map("{{node}}.{}".format) | SHORT.map("{}.{{node}}.{{domain}}".format) | st.just("{node}")
ADDRESSES = st.ip_addresses().map(str).filter(lambda text: names.fits(text, hosts.node_address))
ROLES = st.lists(st.sampled_from(("control-plane", "etcd", "worker")), min_size=1, unique=True)
PREFIXES = st.lists(SHORT | LABELS, min_size=1, max_size=3).map("/".join)
VAULTS = st.lists(
    st.from_regex(r"https://[a-z0-9]([a-z0-9_-]{0,8}[a-z0-9])?(\.[a-z]{1,6})?(:[1-9][0-9]{0,3})?", fullmatch=True),
    min_size=1,
    max_size=3,
    unique=True,
)


CLIENTS = st.fixed_dictionaries(
    {"kind": st.just("client"), "common_name": COMMON_NAMES, "ca": st.just("kubernetes"), "roles": ROLES},
    optional={"kubeconfig": KUBECONFIGS, "file": STEMS, "organization": st.lists(PEOPLE, max_size=2, unique=True)},
)
SERVERS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(("server", "both")),
        "common_name": COMMON_NAMES,
        "ca": st.sampled_from(("etcd", "kubelet", "front-proxy")),
        "roles": ROLES,
        "names": st.lists(SAN_NAMES, min_size=1, max_size=3, unique=True),
        "addresses": st.lists(ADDRESSES | st.just("{node_addresses}"), max_size=2, unique=True),
    },
    optional={"file": STEMS},
)
NODES = st.fixed_dictionaries(
    {"name": SHORT | DOTTED | st.from_regex(r"[a-z]{64,200}(\.[a-z]+)?", fullmatch=True), "roles": ROLES}
)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "cluster": SHORT,
    "rows": st.dictionaries(SHORT, CLIENTS | SERVERS, max_size=3),
    "nodes": st.lists(NODES, max_size=2, unique_by=lambda node: node["name"]),
    "templates": st.dictionaries(SHORT, st.tuples(FILES, ROLES), max_size=2),
    "vault": VAULTS,
    "pooled": SHORT,
}
SPECS = st.fixed_dictionaries(PARTS, optional={"prefix": PREFIXES, "domain": DOTTED})


def cluster_of(spec: dict[str, Any]) -> Cluster | None:
    """The cluster, or None where something in the spec contradicts another thing in it."""
    (_FOLDER / "a.tmpl").write_text("${node}\n")
    nodes = [{**node, "addresses": [f"10.0.1.{index}"]} for index, node in enumerate(spec["nodes"], 1)]
    value = {
        "cluster": spec["cluster"],
        "vault": {"addresses": spec["vault"]},
        "nodes": [_CP, *nodes],
        "pools": [{"name": spec["pooled"], "roles": ["worker"], "node_names": "pooled-*"}],
        "certificates": spec["rows"],
        "templates": {
            name: {"file": file, "template": "a.tmpl", "roles": roles}
            for name, (file, roles) in spec["templates"].items()
        },
        **({"prefix": spec["prefix"]} if "prefix" in spec else {}),
        **({"api_server": {"dns_domain": spec["domain"]}} if "domain" in spec else {}),
    }
    path = _FOLDER / "cluster.yaml"
    path.write_text(json.dumps(value))
    try:
        return load_cluster(path)
    except SpecError:
        return None


def spec(**further: Any) -> dict[str, Any]:
    return {"cluster": "p", "rows": {}, "nodes": [], "templates": {}, "vault": ["https://v"], "pooled": "p", **further}


def row(**further: Any) -> dict[str, Any]:
    return {"kind": "client", "common_name": "team", "ca": "kubernetes", "roles": ["worker"], **further}


def joined(cluster: Cluster, node: str, pool: str | None) -> None:
    """The join file of a node and the agent.yaml that a node makes of it read back."""
    join = Join(
        cluster=cluster.name,
        prefix=cluster.prefix,
        node=node,
        pool=pool,
        addresses=cluster.vault.addresses,
        ca_pem=None,
        root_sha256=_ROOT,
        role_id="r",
        wrap_token="t",
        expires=datetime(2026, 5, 1, tzinfo=UTC),
        namespace=cluster.vault.namespace,
    )
    file = _FOLDER / "join.json"
    file.touch(0o600)
    file.write_text(dump_join(join))
    assert load_join(file) == join
    config = AgentConfig(
        cluster=join.cluster,
        prefix=join.prefix,
        node=join.node,
        pool=join.pool,
        addresses=join.addresses,
        ca_file=None,
        root_sha256=_ROOT,
        auth=Auth("approle", role_id="r"),
        directory="/etc/kubernetes/pki",
        state="/var/lib/vaultpki",
        namespace=join.namespace,
        file=str(_FOLDER / "agent.yaml"),
    )
    (_FOLDER / "agent.yaml").write_text(dump_agent(config))
    assert load_agent(_FOLDER / "agent.yaml") == config


def taken(cluster: Cluster, pool: Pool, name: str, record: dict[str, Any]) -> None:
    try:
        holder(cluster, name, pool.name)
    except SpecError:
        # Said before there is a join file: the name is too long for a certificate.
        return
    found = published.read_certificates(record, node=name, prefix=cluster.prefix, where="pool")
    wanted = node_certificates(cluster, Node(name, pool.roles))
    assert found[0] == pool.roles
    assert [(c.name, c.subject.common_name, c.subject.dns) for c in found[1]] == [
        (c.name, c.subject.common_name, c.subject.dns) for c in wanted
    ]
    joined(cluster, name, pool.name)


@given(SPECS)
@example(spec(rows={"a": row(common_name="team a", kubeconfig="Team.conf")}))
@example(spec(templates={"a": ("Audit.yaml", ["worker"])}))
@example(spec(prefix="rr3"))
@example(spec(nodes=[{"name": "a" * 63 + ".b", "roles": ["control-plane"]}]))
@example(spec(nodes=[{"name": ".".join(["a" * 60] * 3), "roles": ["control-plane"]}]))
@example(spec(nodes=[{"name": "123", "roles": ["etcd"]}]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_what_is_accepted_reads_back(spec: dict[str, Any]) -> None:
    cluster = cluster_of(spec)
    event(f"accepted: {cluster is not None}")
    assume(cluster is not None)
    assert cluster is not None
    known = ServerFacts(cluster.vault.addresses, root_sha256=_ROOT, role_ids={node.name: "r" for node in cluster.nodes})
    store = cluster.mount("config")
    made = {
        name.removeprefix(f"{store}/"): json.loads(json.dumps(fields))
        for (kind, name), fields in desired(cluster, known).items()
        if kind == "config" and name.startswith(f"{store}/")
    }
    told = published.read_cluster(made["cluster"], where="cluster")
    assert told == published.ClusterRecord(cluster.name, str(cluster.api_server.endpoint), _ROOT, cluster.templates)
    for node in cluster.nodes:
        read = published.read_certificates(
            made[f"nodes/{node.name}"], node=node.name, prefix=cluster.prefix, where="node"
        )
        assert read == (node.roles, node_certificates(cluster, node))
        joined(cluster, node.name, None)
    for pool in cluster.pools:
        taken(cluster, pool, "pooled-1", made[f"pools/{pool.name}"])
