"""Whatever stands in the config store, what a node takes of it is what some cluster.yaml could say of this node."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from vaultpki.certificates import laid_out, resolve
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.identity.access import node_certificates
from vaultpki.model import NODE, Certificate, Cluster, Node, NodeRole
from vaultpki.places import Layout
from vaultpki.records import published

_KEPT = tempfile.TemporaryDirectory(prefix="vaultpki-test-")
_FOLDER = Path(_KEPT.name)
_NODE = "w-1"
_ADDRESS = "10.0.0.21"
_BUILT_IN = {row.name: row for row in laid_out(Layout.DOCUMENT)}

STEMS = st.sampled_from(
    ("etcd-ca", "etcd-ca-chain", "ca", "sa", "front-proxy-ca", "bundles", "lock", "kubelet", "kubelet-client", "admin",
     "scheduler", "mine", "mi.ne", "mi_ne", "etcd", "kube-apiserver")
)  # fmt: skip
ENDINGS = st.sampled_from(("", ".crt", ".key", ".pem", ".pub", ".conf", ".yaml", ".KEY"))
FILES = st.builds(lambda stem, ending: stem + ending, STEMS | STEMS.map(str.upper), ENDINGS)
COMMON_NAMES = st.sampled_from(
    ("mine", "kubernetes-admin", "Kubernetes-Admin", "system:node:w-1", "system:node:w-2", "system:kube-proxy", "w-1",
     "system:serviceaccount:a:b", "front-proxy-client", "kube-apiserver")
)  # fmt: skip
GROUPS = st.sampled_from(("mine", "system:masters", "System:Nodes", "system:nodes", "system:monitoring", "system:x"))
NAMES = st.sampled_from(("w-1", "mine.example.com", "7", "kubernetes", "kubernetes.default.svc.cluster.local"))
FIELDS = {
    "name": st.sampled_from((*_BUILT_IN, "service-account", "mine", "theirs")),
    "usage": st.sampled_from(("client", "server", "both", "signing")),
    "common_name": COMMON_NAMES,
    "organization": st.lists(GROUPS, max_size=2),
    "dns": st.lists(NAMES, max_size=3),
    "ips": st.lists(st.sampled_from((_ADDRESS, "127.0.0.1", "::1")), max_size=2),
    "ca": st.sampled_from(("kubernetes", "kubelet", "etcd", "front-proxy", "service-account")),
    "role": st.sampled_from((*_BUILT_IN, "mine", "theirs")),
    "ttl": st.sampled_from((0, 29, 30, 86400, 100 * 365 * 86400 - 3)),
    "key": st.sampled_from(("ec-p256", "rsa-2048", "ed25519")),
    "file": STEMS,
    "kubeconfig": st.just("") | STEMS.map("{}.conf".format),
}
ROLES = st.lists(st.sampled_from([role.value for role in NodeRole]), min_size=1, max_size=3, unique=True)
# A certificate of the cluster's own that could be one, so that what is drawn is not always refused.
MINE = st.sampled_from(("mine", "theirs")).map(
    lambda name: {
        "name": name,
        "usage": "client",
        "common_name": name,
        "organization": [],
        "dns": [],
        "ips": [],
        "ca": "kubernetes",
        "role": name,
        "ttl": 86400,
        "key": "ec-p256",
        "file": name,
        "kubeconfig": "",
        "reload": 0,
    }
)


@st.composite
def told(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster's record and the node's: those that apply writes, with a few fields changed by somebody."""
    roles = draw(ROLES)
    cluster = load(roles=roles, certificates={}, templates={})
    node = cluster.nodes[0]
    own = json.loads(json.dumps(published.node_record(node, node_certificates(cluster, node), "r")))
    own["certificates"] += draw(st.lists(MINE, max_size=2))
    for _ in range(draw(st.integers(0, 3))):
        certificate = draw(st.sampled_from(own["certificates"]))
        field = draw(st.sampled_from(sorted(FIELDS)))
        certificate[field] = draw(FIELDS[field])
    if draw(st.booleans()):
        del own["certificates"][draw(st.integers(0, len(own["certificates"]) - 1))]
    templates = draw(st.dictionaries(st.sampled_from("abc"), st.tuples(FILES, ROLES), max_size=2))
    record = published.cluster_record(cluster, ("https://v",), None, "a" * 64)
    record["templates"] = {
        name: {"file": file, "text": "x", "roles": roles} for name, (file, roles) in templates.items()
    }
    return record, own


def load(*, roles: list[str], certificates: dict[str, Any], templates: dict[str, Any]) -> Cluster:
    """A cluster of this one node."""
    (_FOLDER / "a.tmpl").write_text("x")
    value = {
        "cluster": "p",
        "allow_short_ttl": True,
        "ca": {"root_ttl": "100y", "issuing_ttl": f"{100 * 365 * 86400 - 1}s"},
        "api_server": {"endpoint": "https://api.example.com:6443", "names": ["api.example.com"]},
        "nodes": [{"name": _NODE, "roles": roles, "addresses": [_ADDRESS]}],
        "certificates": certificates,
        "templates": templates,
    }
    path = _FOLDER / "cluster.yaml"
    path.write_text(json.dumps(value))
    return load_cluster(path)


def as_override(certificate: Certificate, cluster: Cluster) -> dict[str, Any]:
    """How cluster.yaml would change the row of the table into this."""
    row = _BUILT_IN[certificate.name]
    usual = resolve(row, cluster, Node(_NODE, row.node_roles, (_ADDRESS,))).subject
    said: dict[str, Any] = {"ttl": f"{certificate.ttl}s", "key": certificate.key.value, "file": certificate.stem}
    if names := [name for name in certificate.subject.dns if name not in usual.dns]:
        said["extra_names"] = names
    if addresses := [address for address in certificate.subject.ips if address not in usual.ips]:
        said["extra_addresses"] = addresses
    return said


def as_row(certificate: Certificate, roles: list[str]) -> dict[str, Any]:
    """How cluster.yaml would describe this certificate of its own."""
    subject = certificate.subject
    identity = "system:node:" + _NODE
    said = {
        "kind": certificate.usage.value,
        "common_name": f"system:node:{NODE}" if subject.common_name == identity else subject.common_name,
        "ca": certificate.ca,
        "roles": roles,
        "organization": list(subject.organization),
        "names": [name.replace(_NODE, NODE) for name in subject.dns],
        "addresses": list(subject.ips),
        "file": certificate.stem,
        "ttl": f"{certificate.ttl}s",
        "key": certificate.key.value,
    }
    return {**said, "kubeconfig": certificate.kubeconfig} if certificate.kubeconfig else said


@given(told())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_what_a_node_takes_is_what_cluster_yaml_could_say(records_told: tuple[dict[str, Any], dict[str, Any]]) -> None:
    record, own = records_told
    try:
        cluster = published.read_cluster(record, where="cluster")
        roles, held = published.read_certificates(own, node=_NODE, prefix="vaultpki/p", where="node")
        published.refuse_file_names(held, cluster.templates, where="node")
    except SpecError:
        event("refused")
        return
    event("taken")
    said = [role.value for role in roles]
    usual = load(roles=said, certificates={}, templates={})
    # Rows that the record leaves out have given their names away, perhaps.
    elsewhere = {name: {"file": f"elsewhere-{index}"} for index, name in enumerate(_BUILT_IN)}
    load(
        roles=said,
        certificates={
            **elsewhere,
            **{each.name: as_override(each, usual) if each.name in _BUILT_IN else as_row(each, said) for each in held},
        },
        templates={
            each.name: {"file": each.file, "template": "a.tmpl", "roles": [role.value for role in each.roles]}
            for each in cluster.templates
        },
    )
