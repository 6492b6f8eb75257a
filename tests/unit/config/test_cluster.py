"""What cluster.yaml gives when it is right, the schema and the starter beside the declarations, and durations."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from helpers import published_schema
from vaultpki.assets import starter
from vaultpki.certificates import NODE_ADDRESSES, TABLE
from vaultpki.cli.init import init_command
from vaultpki.cli.spec import schema_command
from vaultpki.config.cluster import load_cluster
from vaultpki.config.cluster_schema import CLUSTER, schema
from vaultpki.config.fields import Kind, ListOf, MapOf, Record
from vaultpki.errors import SpecError, StoreError
from vaultpki.model import (
    ApiServer,
    Authority,
    Cluster,
    KeyType,
    MoveTarget,
    Node,
    NodeRole,
    Override,
    Pool,
    Usage,
    VaultAddress,
    at_new,
)
from vaultpki.values.durations import format_duration, parse_duration

PEM = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVqgAwIBAgIU\n-----END CERTIFICATE-----\n"
NODES = "nodes: [{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}]\n"

FULL = """\
version: 1
cluster: prod
prefix: teams/a/prod
vault:
  addresses: ["https://vault.example.com:8200", "https://[FD00::0:8]:8200", "http://127.0.0.1:8200"]
  ca_file: ca.pem
api_server:
  endpoint: https://api.example.com:6443
  names: [api.example.com]
  addresses: [10.0.0.10]
  service_cidr: [10.96.0.0/12, "fd00:1::/112"]
  dns_domain: k8s.example
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11, "FD00:0::11"]}
- {name: worker-1.example.com, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: auto, roles: [worker], node_names: "w-*"}
ca: {root_ttl: 20y, issuing_ttl: 10y, key: rsa-3072}
defaults: {ttl: 1d12h, key: ed25519, allow_short_ttl: true}
allow_short_ttl: false
certificates:
  kube-apiserver: {ttl: 7d, key: ec-p384, extra_names: ["{node}.internal"], extra_addresses: [192.0.2.1], file: api}
  admin: {ttl: 30s, allow_short_ttl: true}
  app:
    kind: both
    common_name: app.{domain}
    ca: kubelet
    roles: [worker]
    organization: [team-a]
    names: ["{node}", app.example.com]
    addresses: ["{node_addresses}", 127.0.0.1]
    ttl: 2d
    key: rsa-2048
    from: app
    to: others
  watcher: {kind: client, common_name: watcher, ca: kubernetes, roles: [worker], kubeconfig: watcher.conf, file: w}
templates:
  audit: {file: audit.yaml, template: a.tmpl, roles: [control-plane]}
"""

ACCEPTED = {
    "full": FULL,
    "least": "cluster: p\n" + NODES,
    "digits in quotes": 'cluster: "10"\n' + NODES,
    "no nodes yet": "cluster: p\napi_server: {endpoint: 'https://api', names: [api]}\n",
    "json": '{"cluster": "p", "api_server": {"endpoint": "https://127.0.0.1:6443"}}',
    "BOM and CRLF": "\ufeffcluster: p\r\n" + NODES,
    "API on the control plane's own address": "cluster: p\napi_server: {addresses: [10.0.0.11]}\n" + NODES,
    "longest node name": f"cluster: p\n{NODES[:-2]}, {{name: {'a' * 52}, roles: [worker], addresses: [10.0.0.12]}}]\n",
    "long name without a node CN": f"cluster: p\n{NODES[:-2]}, "
    f"{{name: {'a' * 63}, roles: [etcd], addresses: [10.0.0.2]}}]\n",
    "IPv6 only": "cluster: p\napi_server: {service_cidr: 'fd00:1::/112'}\n" + NODES.replace("10.0.0.11", "'fd00::1'"),
    "endpoint by service name": "cluster: p\napi_server: {endpoint: 'https://kubernetes.default.svc'}\n" + NODES,
    "endpoint by node name": "cluster: p\napi_server: {endpoint: 'https://cp-1:6443'}\n" + NODES,
    "endpoint by extra name": "cluster: p\napi_server: {endpoint: 'https://a.b'}\n"
    "certificates: {kube-apiserver: {extra_names: [a.b]}}\n" + NODES,
    "node's own identity": "cluster: p\ncertificates: {agent: {kind: client, common_name: 'system:node:{node}', "
    "ca: kubernetes, roles: [worker], organization: ['system:nodes']}}\n" + NODES,
    "short by choice": "cluster: p\nallow_short_ttl: true\ndefaults: {ttl: 30s}\nca: {issuing_ttl: 9h}\n" + NODES,
    "servers of one's own on the CA of the API server": "cluster: p\ncertificates:\n"
    "  kube-apiserver: {extra_names: [localhost], extra_addresses: ['::1']}\n"
    "  mine: {kind: server, common_name: a, ca: kubernetes, roles: [control-plane], names: [cp-1, '{node}']}\n"
    "  both: {kind: server, common_name: b, ca: kubernetes, roles: [control-plane, worker], names: ['{node}'],\n"
    "    addresses: ['{node_addresses}', 127.0.0.1]}\n"
    "  web: {kind: server, common_name: c, ca: kubernetes, roles: [worker], names: [localhost, web.a, '{node}.a'],\n"
    "    addresses: [127.0.0.1, '::1', 10.0.0.50]}\n" + NODES,
    "swapped files": "cluster: p\ncertificates: {etcd-server: {file: etcd-peer}, etcd-peer: {file: etcdserver}}\n"
    + NODES,
}


def load(text: str, folder: Path, **options: bool) -> Cluster:
    (folder / "ca.pem").write_text("Vault's CA, in words\n" + PEM)
    (folder / "a.tmpl").write_text("{{ node }}\n")
    (folder / "cluster.yaml").write_bytes(text.encode())
    return load_cluster(folder / "cluster.yaml", **options)


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted_by_loader_and_schema(case: str, tmp_path: Path) -> None:
    load(ACCEPTED[case], tmp_path)
    assert not published_schema.faults(ACCEPTED[case])


def test_full(tmp_path: Path) -> None:
    cluster = load(FULL, tmp_path)
    worker = frozenset({NodeRole.WORKER})
    control_plane = frozenset({NodeRole.CONTROL_PLANE})
    assert cluster.name == "prod"
    assert cluster.prefix == "teams/a/prod"
    assert cluster.vault == VaultAddress(
        ("https://vault.example.com:8200", "https://[fd00::8]:8200", "http://127.0.0.1:8200"), PEM
    )
    assert cluster.api_server == ApiServer(
        "https://api.example.com:6443",
        ("api.example.com",),
        ("10.0.0.10",),
        ("10.96.0.0/12", "fd00:1::/112"),
        "k8s.example",
    )
    assert cluster.nodes == (
        Node("cp-1", control_plane | {NodeRole.ETCD}, ("10.0.0.11", "fd00::11")),
        Node("worker-1.example.com", worker, ("10.0.0.21",)),
    )
    assert cluster.pools == (Pool("auto", worker, "w-*"),)
    assert cluster.authority == Authority(20 * 365 * 86400, 10 * 365 * 86400, KeyType.RSA_3072)
    assert (cluster.ttl, cluster.key) == (36 * 3600, KeyType.ED25519)
    assert cluster.overrides == {
        "kube-apiserver": Override(7 * 86400, KeyType.EC_P384, ("{node}.internal",), ("192.0.2.1",), "api"),
        "admin": Override(ttl=30),
    }
    app, watcher = cluster.rows
    assert (app.name, app.usage, app.source, app.target) == ("app", Usage.BOTH, "app", "others")
    assert (app.common_name, app.organization, app.ca) == ("app.k8s.example", ("team-a",), "kubelet")
    assert (app.dns, app.ips) == (("{node}", "app.example.com"), (NODE_ADDRESSES, "127.0.0.1"))
    assert (app.stem, app.kubeconfig, app.ttl, app.key, app.built_in) == ("app", None, 172800, KeyType.RSA_2048, False)
    assert (watcher.stem, watcher.kubeconfig, watcher.node_roles, watcher.reload) == ("w", "watcher.conf", worker, 300)
    (template,) = cluster.templates
    assert (template.file, template.text, template.roles) == ("audit.yaml", "{{ node }}\n", control_plane)


def test_defaults(tmp_path: Path) -> None:
    cluster = load("cluster: p\n" + NODES, tmp_path)
    assert cluster.prefix == "vaultpki/p"
    assert cluster.vault == VaultAddress()
    assert cluster.api_server == ApiServer("https://10.0.0.11:6443")
    assert cluster.authority == Authority(parse_duration("10y"), parse_duration("5y"), KeyType.EC_P256)
    assert (cluster.ttl, cluster.key) == (parse_duration("30d"), KeyType.EC_P256)
    assert (cluster.overrides, cluster.rows, cluster.pools, cluster.templates) == ({}, (), (), ())


def test_endpoint_defaults_to_the_first_address(tmp_path: Path) -> None:
    cluster = load("cluster: p\napi_server: {addresses: ['fd00::5', 10.0.0.5]}\n" + NODES, tmp_path)
    assert cluster.api_server.endpoint == "https://[fd00::5]:6443"


def test_plain_http_when_allowed(tmp_path: Path) -> None:
    text = "cluster: p\nvault: {addresses: ['http://vault:8200']}\n" + NODES
    assert load(text, tmp_path, allow_http=True).vault.addresses == ("http://vault:8200",)
    with pytest.raises(SpecError, match="plain http"):
        load(text, tmp_path)


def test_python_and_c_parser_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_c = load(FULL, tmp_path)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert load(FULL, tmp_path) == with_c


def test_a_thousand_nodes_load_soon(tmp_path: Path) -> None:
    more = "".join(
        f"- {{name: n{i}, roles: [worker], addresses: [10.1.{i // 250}.{i % 250 + 1}]}}\n" for i in range(1000)
    )
    began = time.process_time()
    cluster = load("cluster: p\napi_server: {endpoint: 'https://127.0.0.1'}\nnodes:\n" + more, tmp_path)
    assert len(cluster.nodes) == 1000
    assert time.process_time() - began < 3


# The schema and the starter beside the declarations the loader uses.


def walk(kind: Kind, made: dict[str, Any]) -> Iterator[tuple[Record, dict[str, Any]]]:
    if isinstance(kind, Record):
        yield kind, made
        for key, declared in kind.fields.items():
            yield from walk(declared.kind, made["properties"][key])
    elif isinstance(kind, ListOf):
        yield from walk(kind.item, made["anyOf"][0] if kind.single else made["items"])
    elif isinstance(kind, MapOf):
        (value,) = made["patternProperties"].values()
        yield from walk(kind.value, value)
        for name, each in kind.named.items():
            yield from walk(each, made["properties"][name])


def test_schema_says_what_the_loader_reads() -> None:
    made: Any = schema()
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    seen = 0
    for record, part in walk(CLUSTER, made):
        seen += 1
        assert list(part["properties"]) == list(record.fields)
        assert part["additionalProperties"] is False
        assert part.get("required", []) == [key for key, declared in record.fields.items() if declared.required]
        assert all(part["properties"][key]["description"] for key in record.fields)
    assert seen == 14 + len(TABLE)
    assert list(made["properties"]["certificates"]["properties"]) == [row.name for row in TABLE]


@pytest.mark.parametrize(
    "text",
    [
        "nodes: []",
        "cluster: 10",
        "cluster: Prod",
        "{cluster: p, nodez: []}",
        "{cluster: p, version: 2}",
        "{cluster: p, ca: {key: ed25519}}",
        "{cluster: p, defaults: {ttl: 30}}",
        "{cluster: p, defaults: {ttl: '30'}}",
        "{cluster: p, defaults: {ttl: ''}}",
        "{cluster: p, nodes: [{name: a, roles: [worker], addresses: [10.0.0.1], colour: red}]}",
        "{cluster: p, nodes: [{name: a, roles: [], addresses: [10.0.0.1]}]}",
        "{cluster: p, certificates: {admin: {extra_names: [a]}}}",
        "{cluster: p, certificates: {app: {kind: client}}}",
        "{cluster: p, certificates: {App: {kind: client, common_name: a, ca: etcd, roles: [worker]}}}",
        "{cluster: p, pools: [{name: p, roles: [etcd], node_names: 'p-*'}]}",
    ],
)
def test_schema_and_loader_refuse_alike(text: str, tmp_path: Path) -> None:
    assert published_schema.faults(text)
    with pytest.raises(SpecError):
        load(text, tmp_path)


@pytest.mark.parametrize(
    ("written", "namespace"),
    [
        ("team1", "team1"),
        ("team1/prod", "team1/prod"),
        ("/team1/prod/", "team1/prod"),
        ("root", "root"),
        ("root/", "root"),
        ("Team_1.a-b/ROOT", "Team_1.a-b/ROOT"),
    ],
)
def test_a_namespace_in_its_normal_form(tmp_path: Path, written: str, namespace: str) -> None:
    cluster = load(f"cluster: prod\nvault: {{namespace: {written}}}\n{NODES}", tmp_path)
    assert (cluster.vault.namespace, cluster.vault.addresses, cluster.vault.ca_pem) == (namespace, (), None)


def test_the_new_server_of_a_move(tmp_path: Path) -> None:
    (tmp_path / "new-ca.crt").write_text(PEM)
    vault = "vault: {addresses: ['https://old.example.com:8200'], namespace: team1}\n"
    move = "move: {addresses: ['https://new.example.com:8200'], ca_file: new-ca.crt, namespace: root, prefix: pki/p}\n"
    cluster = load(f"cluster: prod\n{vault}{move}{NODES}", tmp_path)
    assert cluster.move == MoveTarget(("https://new.example.com:8200",), "pki/p", PEM, None)
    there = at_new(cluster)
    # The namespace of the operator's environment is the old server's.
    assert there.vault == VaultAddress(("https://new.example.com:8200",), PEM, "root")
    assert (there.prefix, there.move, there.nodes) == ("pki/p", None, cluster.nodes)
    assert (cluster.vault.namespace, cluster.prefix) == ("team1", "vaultpki/prod")
    near = load(f"cluster: prod\nmove: {{addresses: ['https://new.example.com:8200']}}\n{NODES}", tmp_path)
    assert near.move == MoveTarget(("https://new.example.com:8200",), "vaultpki/prod")
    with pytest.raises(SpecError, match="names no new server"):
        at_new(load(f"cluster: prod\n{NODES}", tmp_path))


@pytest.mark.parametrize(
    ("here", "there", "apart"),
    [
        ("", "", False),
        ("namespace: root", "", False),
        ("", "prefix: vaultpki/prod", False),
        ("", "prefix: vaultpki/other", True),
        ("namespace: team1", "", True),
        ("namespace: team1", "namespace: team1", False),
        ("", "namespace: team1", True),
    ],
)
def test_a_cluster_does_not_move_to_where_it_is(tmp_path: Path, here: str, there: str, apart: bool) -> None:
    servers = "addresses: ['https://a.example.com:8200', 'https://b.example.com:8200']"
    text = f"cluster: prod\nvault: {{{servers}, {here}}}\n"
    text += f"move: {{addresses: ['https://b.example.com:8200'], {there}}}\n{NODES}"
    if apart:
        assert load(text, tmp_path).move is not None
        return
    with pytest.raises(SpecError, match="the server that the cluster has"):
        load(text, tmp_path)


@pytest.mark.parametrize("written", ["4f" * 32, "4F" * 32, ":".join(["4F"] * 32), ":".join(["4f"] * 32)])
def test_the_roots_sha256_in_its_normal_form(tmp_path: Path, written: str) -> None:
    cluster = load(f"cluster: prod\nca: {{root_sha256: '{written}'}}\n{NODES}", tmp_path)
    assert cluster.authority.root_sha256 == "4f" * 32


def test_starter_loads_and_uncommented_too(tmp_path: Path) -> None:
    cluster = load(starter(), tmp_path)
    assert (cluster.name, cluster.vault.namespace, cluster.authority.root_sha256) == ("prod", None, None)
    # For a new cluster; one that exists does not get them by itself.
    assert cluster.service_account_keys and not load(f"cluster: prod\n{NODES}", tmp_path).service_account_keys
    (tmp_path / "vault-ca.crt").write_text(PEM)
    (tmp_path / "new-ca.crt").write_text(PEM)
    (tmp_path / "issuer-ca.crt").write_text(PEM)
    (tmp_path / "old-ca.crt").write_text(PEM)
    (tmp_path / "audit.yaml.tmpl").write_text("x\n")
    # As it says itself: these two characters, and nothing else.
    whole = re.sub(r"^#:", "", starter(), flags=re.MULTILINE)
    full = load(whole, tmp_path)
    assert full.vault.namespace == "team1/prod" and len(full.authority.root_sha256 or "") == 64
    assert (len(full.pools), len(full.rows), len(full.templates), len(full.overrides)) == (2, 2, 1, 1)
    for record, _ in walk(CLUSTER, schema()):
        for key in record.fields:
            assert re.search(rf"(?m)[\s{{]{key}:", whole), key


BLOCKS = re.findall(r"(?m)(?:^#:.*\n)+", starter())


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.sub(r"\W.*", "", block[2:].strip(), flags=re.DOTALL))
def test_each_block_of_the_starter_can_be_uncommented(tmp_path: Path, block: str) -> None:
    for name in ("vault-ca.crt", "new-ca.crt", "issuer-ca.crt", "old-ca.crt"):
        (tmp_path / name).write_text(PEM)
    (tmp_path / "audit.yaml.tmpl").write_text("x\n")
    assert "remove these two characters in all lines of a block" in starter() and starter().count(block) == 1
    used = block.replace("#:", "")
    load(starter().replace(block, used), tmp_path)
    key = used.split(":")[0].strip()
    assert key in yaml.safe_load(starter().replace(block, used)) or key == "root_sha256"


def test_public_keys_of_the_starter_stand_in_place_of_a_url(tmp_path: Path) -> None:
    (tmp_path / "keys.pem").write_text(PEM.replace("CERTIFICATE", "PUBLIC KEY"))
    (pools,) = [block for block in BLOCKS if "public_keys_file" in block]
    used = re.sub(r"(?m)^ +jwks_\w+:.*\n", "", pools.replace("#:", "")).replace(
        "# public_keys_file", "public_keys_file"
    )
    assert load(starter().replace(pools, used), tmp_path).pools[1].jwt is not None


def test_starter_shows_the_defaults(tmp_path: Path) -> None:
    said = yaml.safe_load(starter())
    for section in ("ca", "defaults"):
        record = CLUSTER.fields[section].kind
        assert isinstance(record, Record)
        assert said[section] == {
            key: declared.default for key, declared in record.fields.items() if declared.default is not None
        }


def test_init_writes_once_and_prints(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    run = CliRunner().invoke(init_command, ["-o", str(path)])
    assert run.exit_code == 0
    assert path.read_text() == starter()
    path.write_text("mine")
    again = CliRunner().invoke(init_command, ["-o", str(path)])
    assert isinstance(again.exception, StoreError)
    assert "--force" in str(again.exception)
    assert path.read_text() == "mine"
    assert CliRunner().invoke(init_command, ["-o", str(path), "--force"]).exit_code == 0
    assert path.read_text() == starter()
    assert CliRunner().invoke(init_command, ["-o", "-"]).output == starter()
    nowhere = CliRunner().invoke(init_command, ["-o", str(tmp_path / "no" / "where")])
    assert isinstance(nowhere.exception, StoreError)


def test_schema_command_prints_json() -> None:
    import json

    assert json.loads(CliRunner().invoke(schema_command).output) == schema()


# Durations.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("12h", 43200),
        ("30d", 2592000),
        ("2w", 1209600),
        ("10y", 315360000),
        ("1h30m", 5400),
        ("100y", 3153600000),
        ("07d", 604800),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "1s"), (60, "1m"), (90, "90s"), (150, "2m30s"), (5400, "1h30m"), (43200, "12h"), (2592000, "30d"),
        (315360000, "10y"),
    ],
)  # fmt: skip
def test_formatted(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    "text", ["", "d", "30", "0d", "-1d", "1.5h", "1h1h", "30m1h", " 1h", "1h\n", "1D", "101y", "٣d", "9" * 5000 + "d"]
)
def test_bad_durations(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_duration(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
