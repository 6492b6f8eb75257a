"""Each refusal of cluster.yaml shows the file, the line, the field and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import BASE, W, check_refused
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError

CN53 = "a" * 53


def node(**keys: str) -> str:
    own = {"name": "x", "roles": "[worker]", "addresses": "[10.0.0.9]", **keys}
    return BASE + "- {" + ", ".join(f"{k}: {v}" for k, v in own.items() if v) + "}\n"


def api(text: str) -> str:
    return BASE + f"api_server:\n  {text}\n"


def pool(**keys: str) -> str:
    own = {"name": "p", "roles": "[worker]", "node_names": '"p-*"', **keys}
    return BASE + "pools:\n- {" + ", ".join(f"{k}: {v}" for k, v in own.items() if v) + "}\n"


REFUSED: dict[str, tuple[str, int | None, str | None, str]] = {
    # YAML itself
    "empty": ("", 1, "", "empty"),
    "only comments": ("# nothing\n# here\n", 1, "", "empty"),
    "only a document start": ("---\n", 1, "", "empty"),
    "list": ("- a\n", 1, "", "key: value"),
    "word": ("prod\n", 1, "", "key: value"),
    "syntax": ("cluster: prod\nnodes: [\n", 3, "", "not YAML"),
    "tab": ("cluster: prod\nca:\n\troot_ttl: 10y\n", 3, "", "the line begins with a tab: indent it with spaces"),
    "tab below spaces": ("ca:\n  key: ec-p256\n\troot_ttl: 10y\n", 3, "", "the line begins with a tab"),
    "quote left open": ('version: 1\ncluster: "prod\nca: {}\n', 4, "", ", in what begins in line 2)"),
    "bracket left open": ("cluster: prod\nnodes: [a}\n", 2, "", "expected ',' or ']'"),
    "escape out of range": ('cluster: "\\UFFFFFFFF"\n', 1, "", "not YAML"),
    "control character": ("cluster: prod\n# \x1b[2J\n", 2, "", "control character"),
    "NUL": ("cluster: prod\nprefix: a\0b\n", 2, "", "control character"),
    "two documents": (BASE + "---\ncluster: b\n", 5, "", "second document"),
    "duplicate key": (BASE + "cluster: other\n", 5, "cluster", "first in line 1"),
    "duplicate key, deep": (BASE + "ca:\n  key: ec-p256\n  key: ec-p384\n", 7, "ca.key", "twice"),
    "duplicate key in a list": (BASE + "- {name: a, name: b}\n", 5, "nodes[2].name", "twice"),
    "duplicate key, other quotes": (BASE + '"cluster": x\n', 5, "cluster", "twice"),
    "anchor": (BASE + "ca: &x {key: ec-p256}\n", 5, "ca", "anchor"),
    "alias": ("cluster: prod\nca: *x\n", 2, "ca", "alias"),
    "merge": (BASE + "ca:\n  <<: {key: ec-p256}\n", 6, "ca", "merge key"),
    "python tag": ("cluster: !!python/object/apply:os.system [id]\n", 1, "cluster", "tag"),
    "binary tag": ("cluster: !!binary cHJvZA==\n", 1, "cluster", "tag"),
    "str tag": ("cluster: !!str 10\n", 1, "cluster", "tag"),
    "deep": ("cluster: " + "[" * 40 + "]" * 40, 1, None, "32 levels"),
    "very deep": ("a: " + "{a: " * 100_000, 1, None, "32 levels"),
    "key is a list": ("cluster: prod\n? [a]\n: b\n", 2, "", "plain word"),
    # keys and types
    "unknown key": (BASE + "nodez: []\n", 5, "nodez", "did you mean nodes?"),
    "unknown key, nothing near": (BASE + "ca: {zzz: 1}\n", 5, "ca.zzz", "root_ttl, issuing_ttl, key"),
    "unknown key in a node": (node(colour="red"), 5, "nodes[2].colour", "name, roles, addresses"),
    "missing cluster": ("nodes: []\n", 1, "cluster", "is missing"),
    "missing name": (node(name=""), 5, "nodes[2].name", "is missing"),
    "number for text": ("cluster: 10\n", 1, "cluster", "quotes"),
    "octal": ("cluster: 012\n", 1, "cluster", "quotes"),
    "sexagesimal": ("cluster: 1:30\n", 1, "cluster", "quotes"),
    "no": ("cluster: no\n", 1, "cluster", "yes or no in YAML"),
    "on": ("cluster: on\n", 1, "cluster", "quotes"),
    "date": ("cluster: 2024-01-01\n", 1, "cluster", "a date"),
    "float": ("cluster: 1.5\n", 1, "cluster", "quotes"),
    "null": ("cluster: ~\n", 1, "cluster", "no value"),
    "nothing": ("cluster:\n", 1, "cluster", "no value"),
    "list for text": ("cluster: [prod]\n", 1, "cluster", "this is a list"),
    "mapping for text": ("cluster: {a: b}\n", 1, "cluster", "this is a mapping"),
    "text for list": (node(roles="worker"), 5, "nodes[2].roles", "list"),
    "nodes empty": ("cluster: prod\nnodes:\n", 2, "nodes", "list"),
    "node as text": ("cluster: prod\nnodes:\n- cp-1\n", 3, "nodes[0]", "name, roles, addresses"),
    "text for mapping": (BASE + "ca: yes\n", 5, "ca", "root_ttl"),
    "flag in quotes": (BASE + 'allow_short_ttl: "true"\n', 5, "allow_short_ttl", "without quotes"),
    "flag yes": (BASE + "allow_short_ttl: yes\n", 5, "allow_short_ttl", "not true or false"),
    "newer version": (BASE + "version: 2\nnews: 1\n", 5, "version", "newer vaultpki"),
    "newest version": ("news: 1\nversion: 99999999999999999999\n", 2, "version", "newer vaultpki"),
    "version 0": (BASE + "version: 0\n", 5, "version", "write 1"),
    "version as text": (BASE + 'version: "1"\n', 5, "version", "without quotes"),
    "version true": (BASE + "version: true\n", 5, "version", "write the number 1"),
    # names
    "upper-case cluster": ("cluster: Prod\n", 1, "cluster", "changes: write prod"),
    "long cluster": (f"cluster: {'a' * 41}\n", 1, "cluster", "at most 40"),
    "cluster with a dot": ("cluster: a.b\n", 1, "cluster", "lower-case letters"),
    "cluster with newline": ('cluster: "a\\n"\n', 1, "cluster", "'a\\n'"),
    "cluster with escape": ('cluster: "\\e[31mred"\n', 1, "cluster", "\\x1b[31mred"),
    "cluster non-ASCII": ("cluster: prod\u0660\n", 1, "cluster", "lower-case letters"),
    "prefix of Vault": (BASE + "prefix: sys/x\n", 5, "prefix", "Vault's own"),
    "prefix auth": (BASE + "prefix: auth\n", 5, "prefix", "Vault's own"),
    "prefix with slash": (BASE + "prefix: /a\n", 5, "prefix", "empty part"),
    "prefix with end": (BASE + "prefix: a/\n", 5, "prefix", "empty part"),
    "prefix up": (BASE + "prefix: a/../sys\n", 5, "prefix", "'..'"),
    "prefix upper": (BASE + "prefix: a/B\n", 5, "prefix", "write b"),
    "prefix long": (BASE + f"prefix: {'/'.join(['a' * 60] * 3)}\n", 5, "prefix", "at most 128"),
    "prefix glob": (BASE + 'prefix: "a/*"\n', 5, "prefix", "'*'"),
    "upper-case node": (node(name="CP-9"), 5, "nodes[2].name", "write cp-9"),
    "node name longer than a file's": (node(name=".".join(["c" * 50] * 4)), 5, "nodes[2].name", "at most 200"),
    "node underscore": (node(name="a_b"), 5, "nodes[2].name", "underscore"),
    "node is an address": (node(name="10.0.0.9"), 5, "nodes[2].name", "DNS name"),
    "node with comma": (node(name='"a,b"'), 5, "nodes[2].name", "comma"),
    "node with slash": (node(name='"a/../b"'), 5, "nodes[2].name", "slash"),
    "node with newline": (node(name='"a\\nb"'), 5, "nodes[2].name", "control character"),
    "node with NUL": (node(name='"a\\0b"'), 5, "nodes[2].name", "'a\\x00b'"),
    "node is kubernetes": (node(name="kubernetes.default.svc"), 5, "nodes[2].name", "rename"),
    "node is localhost": (node(name="localhost"), 5, "nodes[2].name", "rename"),
    "two of one name": (node(name="w-1"), 5, "nodes[2].name", "nodes[1] in line 4"),
    "CN too long": (node(name=CN53), 5, "nodes[2].name", "at most 52"),
    "unknown role": (node(roles="[master]"), 5, "nodes[2].roles[0]", "control-plane, etcd, worker"),
    "misspelt role": (node(roles="[workr]"), 5, "nodes[2].roles[0]", "did you mean worker?"),
    "no roles": (node(roles="[]"), 5, "nodes[2].roles", "at least 1"),
    "role twice": (node(roles="[worker, worker]"), 5, "nodes[2].roles[1]", "twice"),
    # addresses
    "no address": (node(addresses="[]"), 5, "nodes[2].addresses", "at least 1"),
    "not an address": (node(addresses="[abc]"), 5, "nodes[2].addresses[0]", "such as 10.0.0.11"),
    "address as number": (node(addresses="[10.0]"), 5, "nodes[2].addresses[0]", "number in YAML"),
    "leading zero": (node(addresses="[10.0.0.011]"), 5, "nodes[2].addresses[0]", "not an IP address"),
    "address with prefix": (node(addresses="[10.0.0.1/24]"), 5, "nodes[2].addresses[0]", "without a prefix length"),
    "zone": (node(addresses='["fe80::1%eth0"]'), 5, "nodes[2].addresses[0]", "zone"),
    "unspecified": (node(addresses="[0.0.0.0]"), 5, "nodes[2].addresses[0]", "unspecified or broadcast"),
    "broadcast": (node(addresses="[255.255.255.255]"), 5, "nodes[2].addresses[0]", "unspecified or broadcast"),
    "multicast": (node(addresses="[224.0.0.1]"), 5, "nodes[2].addresses[0]", "multicast"),
    "loopback": (node(addresses="[127.0.0.2]"), 5, "nodes[2].addresses[0]", "loopback"),
    "loopback v6": (node(addresses='["::1"]'), 5, "nodes[2].addresses[0]", "loopback"),
    "mapped": (node(addresses='["::ffff:10.0.0.9"]'), 5, "nodes[2].addresses[0]", "write 10.0.0.9"),
    "twice in a node": (node(addresses="[fd00::1, 'fd00:0::1']"), 5, "nodes[2].addresses[1]", "twice"),
    "on two nodes": (node(addresses="[10.0.0.21]"), 5, "nodes[2].addresses[0]", "nodes[1].addresses[0] in line 4"),
    "twice in the API": (api("addresses: [10.0.0.5, 10.0.0.5]"), 6, "api_server.addresses[1]", "twice"),
    "API's on a worker": (api("addresses: [10.0.0.21]"), 4, "nodes[1].addresses[0]", "api_server.addresses"),
    "API's name on a worker": (api("names: [w-1]"), 4, "nodes[1].name", "api_server.names"),
    "service address on a node": (node(addresses="[10.96.0.1]"), 5, "nodes[2].addresses[0]", "service"),
    "outside the family": (node(addresses="[fd00::9]"), 5, "nodes[2].addresses", "add an IPv4 address"),
    "cidr": (api("service_cidr: abc"), 6, "api_server.service_cidr", "not a network"),
    "cidr host bits": (api("service_cidr: 10.96.0.1/12"), 6, "api_server.service_cidr", "write 10.96.0.0/12"),
    "domain that leaves no room": (
        api(f"dns_domain: {'.'.join(['a' * 57] * 4)}"),
        6,
        "api_server.dns_domain",
        "for cp-1: 'kubernetes.default.svc.",
    ),
    "cidr mask": (api("service_cidr: 10.96.0.0/255.240.0.0"), 6, "api_server.service_cidr", "write 10.96.0.0/12"),
    "cidr zone": (api('service_cidr: "fd00::%1/112"'), 6, "api_server.service_cidr", "zone"),
    "cidr /31": (api("service_cidr: 10.96.0.0/31"), 6, "api_server.service_cidr", "too small"),
    "cidr /32": (api("service_cidr: 10.96.0.0"), 6, "api_server.service_cidr", "too small"),
    "cidr v6 /127": (api('service_cidr: "fd00::/127"'), 6, "api_server.service_cidr", "too small"),
    "cidr everything": (api("service_cidr: 0.0.0.0/0"), 6, "api_server.service_cidr", "private range"),
    "cidr twice": (api("service_cidr: [10.96.0.0/12, 10.96.0.0/12]"), 6, "api_server.service_cidr[1]", "twice"),
    "cidr one family": (api("service_cidr: [10.96.0.0/16, 10.97.0.0/16]"), 6, "api_server.service_cidr", "IPv6"),
    "three cidrs": (
        api("service_cidr: [10.96.0.0/16, 10.97.0.0/16, 'fd00::/108']"),
        6,
        "api_server.service_cidr",
        "at most 2",
    ),
    # the API server
    "wildcard": (api('names: ["*.example.com"]'), 6, "api_server.names[0]", "wildcard"),
    "comma": (api('names: ["a.com,b.com"]'), 6, "api_server.names[0]", "comma"),
    "newline": (api('names: ["a.com\\n"]'), 6, "api_server.names[0]", "control character"),
    "non-ASCII": (api("names: [käse.de]"), 6, "api_server.names[0]", "punycode"),
    "underscore": (api("names: [a_b.com]"), 6, "api_server.names[0]", "underscore"),
    "trailing dot": (api("names: [a.com.]"), 6, "api_server.names[0]", "remove the dot"),
    "long name": (api(f"names: [{'.'.join(['a' * 60] * 5)}]"), 6, "api_server.names[0]", "at most 253"),
    "long label": (api(f"names: [{'a' * 64}.com]"), 6, "api_server.names[0]", "more than 63"),
    "address as name": (api("names: [10.0.0.5]"), 6, "api_server.names[0]", "under addresses"),
    "near-address as name": (api("names: [10.0.0.256]"), 6, "api_server.names[0]", "read as an IP address"),
    "upper-case name": (api("names: [API.example.com]"), 6, "api_server.names[0]", "lower case"),
    "empty label": (api("names: [a..com]"), 6, "api_server.names[0]", "not a DNS name"),
    "empty name": (api('names: [""]'), 6, "api_server.names[0]", "empty"),
    "URL as name": (api('names: ["https://a.com"]'), 6, "api_server.names[0]", "colon"),
    "domain": (api('dns_domain: "cluster.local."'), 6, "api_server.dns_domain", "remove the dot"),
    "endpoint http": (api("endpoint: http://cp-1:6443"), 6, "api_server.endpoint", "https://"),
    "endpoint bare": (api("endpoint: cp-1:6443"), 6, "api_server.endpoint", "https://"),
    "endpoint path": (api("endpoint: https://cp-1:6443/"), 6, "api_server.endpoint", "nothing behind"),
    "endpoint port": (api("endpoint: https://cp-1:99999"), 6, "api_server.endpoint", "65535"),
    "endpoint user": (api("endpoint: https://u:hunter2@cp-1"), 6, "api_server.endpoint", "user or password"),
    "endpoint host": (api("endpoint: https://a_b:6443"), 6, "api_server.endpoint", "underscore"),
    "endpoint empty": (api("endpoint: https://"), 6, "api_server.endpoint", "empty"),
    "endpoint untrusted": (api("endpoint: https://lb.example.com"), 6, "api_server.endpoint", "api_server.names"),
    "endpoint untrusted IP": (api("endpoint: https://10.9.9.9"), 6, "api_server.endpoint", "api_server.addresses"),
    "no endpoint": (f"cluster: prod\nnodes:\n{W}\n", 1, "api_server.endpoint", "https://HOST:6443"),
    # Vault
    "vault http": (BASE + "vault: {addresses: [http://v:8200]}\n", 5, "vault.addresses[0]", "--allow-http"),
    "vault path": (BASE + "vault: {addresses: [https://v/ui]}\n", 5, "vault.addresses[0]", "nothing behind"),
    "vault password": (BASE + "vault: {addresses: [https://a:hunter2@v]}\n", 5, "vault.addresses[0]", "password"),
    "vault scheme": (BASE + "vault: {addresses: [v:8200]}\n", 5, "vault.addresses[0]", "https://"),
    "vault none": (BASE + "vault: {addresses: []}\n", 5, "vault.addresses", "at least 1"),
    "namespace, empty": (BASE + 'vault: {namespace: ""}\n', 5, "vault.namespace", "such as team1/prod"),
    "namespace, two slashes": (BASE + "vault: {namespace: team1//prod}\n", 5, "vault.namespace", "one slash between"),
    "namespace, climbing": (BASE + "vault: {namespace: team1/../prod}\n", 5, "vault.namespace", "one slash between"),
    "namespace, blank": (BASE + "vault: {namespace: team 1}\n", 5, "vault.namespace", "one slash between"),
    "namespace, escape": (BASE + 'vault: {namespace: "a\\r\\nX-Vault-Token: b"}\n', 5, "vault.namespace", "one slash"),
    "namespace, Vault's own": (BASE + "vault: {namespace: team1/sys}\n", 5, "vault.namespace", "has the part sys"),
    "namespace, root within": (BASE + "vault: {namespace: root/team1}\n", 5, "vault.namespace", "has the part root"),
    "namespace, long": (BASE + f"vault: {{namespace: {'a/' * 300}}}\n", 5, "vault.namespace", "not a namespace"),
    "root_sha256, short": (BASE + "ca: {root_sha256: 4f1c}\n", 5, "ca.root_sha256", "write its 64 hex digits"),
    "root_sha256, of SHA-1": (BASE + f"ca: {{root_sha256: {'4f' * 20}}}\n", 5, "ca.root_sha256", "64 hex digits"),
    "root_sha256, no hex": (BASE + f"ca: {{root_sha256: {'4g' * 32}}}\n", 5, "ca.root_sha256", "64 hex digits"),
    "no ca_file": (BASE + "vault: {ca_file: nowhere.pem}\n", 5, "vault.ca_file", "no such file"),
    # pools
    "pool pattern bare": (pool(node_names="p-1"), 6, "pools[0].node_names", "such as w-*"),
    "pool pattern all": (pool(node_names='"*"'), 6, "pools[0].node_names", "such as w-*"),
    "pool pattern middle": (pool(node_names='"p-*-x"'), 6, "pools[0].node_names", "such as w-*"),
    "pool pattern two": (pool(node_names='"p-**"'), 6, "pools[0].node_names", "such as w-*"),
    "pool pattern comma": (pool(node_names='"a,b*"'), 6, "pools[0].node_names", "such as w-*"),
    "pool role": (pool(roles="[control-plane]"), 6, "pools[0].roles[0]", "write [worker]"),
    "pool roles": (pool(roles="[worker, etcd]"), 6, "pools[0].roles[1]", "write [worker]"),
    "pool name": (pool(name="P"), 6, "pools[0].name", "write p"),
    "pool takes a node": (pool(node_names='"w-*"'), 6, "pools[0].node_names", "w-1"),
    "pool CN": (pool(node_names=f'"{CN53}*"'), 6, "pools[0].node_names", "at most 52"),
    "two pools of one name": (
        pool() + '- {name: p, roles: [worker], node_names: "q-*"}\n',
        7,
        "pools[1].name",
        "another pool is called p",
    ),
    "pools overlap": (
        pool() + '- {name: q, roles: [worker], node_names: "p-a*"}\n',
        7,
        "pools[1].node_names",
        "same names",
    ),
    "role name of a pool": (pool(name="client"), 6, "pools[0].name", "kubelet-client"),
    # lives
    "no unit": (BASE + "defaults: {ttl: 30}\n", 5, "defaults.ttl", "no unit: write 30s"),
    "no unit in quotes": (BASE + 'defaults: {ttl: "30"}\n', 5, "defaults.ttl", "no unit"),
    "zero": (BASE + "defaults: {ttl: 0s}\n", 5, "defaults.ttl", "at least 1s"),
    "negative": (BASE + "defaults: {ttl: -3d}\n", 5, "defaults.ttl", "negative"),
    "huge": (BASE + "ca: {root_ttl: 101y}\n", 5, "ca.root_ttl", "at most 100y"),
    "fraction": (BASE + "defaults: {ttl: 1.5h}\n", 5, "defaults.ttl", "whole numbers"),
    "words": (BASE + "defaults: {ttl: 3 days}\n", 5, "defaults.ttl", "such as 30d"),
    "issuing as root": (BASE + "ca: {root_ttl: 5y}\n", 5, "ca.root_ttl", "shorter than root_ttl"),
    "issuing beyond root": (BASE + "ca: {issuing_ttl: 20y}\n", 5, "ca.issuing_ttl", "shorter than root_ttl"),
    "short CA": (BASE + "ca: {issuing_ttl: 5s}\n", 5, "ca.issuing_ttl", "at least 1m"),
    "ed25519 CA": (BASE + "ca: {key: ed25519}\n", 5, "ca.key", "cannot verify"),
    "unknown key type": (BASE + "ca: {key: rsa-1024}\n", 5, "ca.key", "rsa-"),
    "default beyond CA": (BASE + "defaults: {ttl: 6y}\n", 5, "defaults.ttl", "ca.issuing_ttl"),
    "CA below default": (BASE + "ca: {issuing_ttl: 20d}\n", 5, "ca.issuing_ttl", "ca.issuing_ttl"),
    "leaf beyond CA": (
        BASE + "certificates:\n  kubelet:\n    ttl: 6y\n",
        7,
        "certificates.kubelet.ttl",
        "its CA only 5y",
    ),
    "leaf as CA": (BASE + "certificates: {kubelet: {ttl: 5y}}\n", 5, "certificates.kubelet.ttl", "shorter"),
    "default short": (BASE + "defaults: {ttl: 20m}\n", 5, "defaults.ttl", "allow_short_ttl"),
    "leaf short": (
        BASE + "certificates: {admin: {ttl: 29m}}\n",
        5,
        "certificates.admin.ttl",
        "every 5m: write at least 30m",
    ),
    "server short": (BASE + "certificates: {kubelet: {ttl: 5m}}\n", 5, "certificates.kubelet.ttl", "at least 15m"),
    "too short ever": (BASE + "allow_short_ttl: true\ndefaults: {ttl: 29s}\n", 6, "defaults.ttl", "at least 30s"),
    "short elsewhere": (
        BASE + "defaults: {allow_short_ttl: true}\ncertificates: {admin: {ttl: 1m}}\n",
        6,
        "certificates.admin.ttl",
        "short",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    check_refused(tmp_path, *REFUSED[case])


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        pytest.param(b"#" * (4 * 1024 * 1024 + 1), "larger than 4096 KiB", id="too large, and empty otherwise"),
        pytest.param(b"\xff\xfec\0", "not UTF-8", id="UTF-16"),
        pytest.param(b"cluster: prod\n# \xff", "not UTF-8", id="Latin-1"),
    ],
)
def test_bytes_refused(content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=hint) as caught:
        load_cluster(path)
    assert caught.value.file == str(path)
    assert caught.value.line in (None, content.count(b"\n") + 1)


def test_no_file_and_folder_and_bad_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_cluster(tmp_path / "cluster.yaml")
    with pytest.raises(SpecError, match="folder"):
        load_cluster(tmp_path)
    with pytest.raises(SpecError, match="path is not usable") as caught:
        load_cluster(tmp_path / "a\0b\n")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"hello", "no whole PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\n", "no whole PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n", "does not decode"),
        (b"-----BEGIN EC PRIVATE KEY-----\nMAo=\n-----END EC PRIVATE KEY-----\n", "private key"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_ca_file_refused(content: bytes, hint: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(content)
    path = tmp_path / "cluster.yaml"
    path.write_text(BASE + "vault: {ca_file: ca.pem}\n")
    with pytest.raises(SpecError, match=hint) as caught:
        load_cluster(path)
    assert (caught.value.line, caught.value.field) == (5, "vault.ca_file")
    assert "MAo=" not in str(caught.value)
