"""What `verify` finds in a kubeconfig that is not what cluster.yaml and the agent make of it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from helpers.example_cluster import load
from helpers.outside_signers import chain, pem
from vaultpki import assets
from vaultpki.certificates import TABLE, resolve, row_named
from vaultpki.issue.bundles_and_kubeconfigs import Site, kubeconfig
from vaultpki.issue.signing import FileOwner
from vaultpki.layout import DIRECTORY
from vaultpki.model import Certificate
from vaultpki.places import PKI, KubeconfigFile, Layout
from vaultpki.verify.folders import find_holders
from vaultpki.verify.kubeconfig_files import kubeconfig_checks
from vaultpki.verify.on_disk import Holder, PairOnDisk

SPEC = """\
cluster: prod
layout: {layout}
api_server: {{endpoint: "https://api.example.com:6443", names: [api.example.com]}}
nodes:
- {{name: cp-1, roles: [control-plane, worker, etcd], addresses: [10.0.0.11]}}
"""
AGENT = f"""\
cluster: prod
node: cp-1
vault: {{addresses: ["https://127.0.0.1:8200"]}}
root_sha256: "{"4f" * 32}"
auth: {{method: approle, role_id: 9a0e-1}}
directory: /srv/pki
"""
SERVER = "https://api.example.com:6443"


def holder_of(folder: Path, layout: Layout, pair: str) -> tuple[Holder, Certificate]:
    """The holder of a folder with this pair's .crt, an empty file, and that certificate."""
    cluster = load(folder, SPEC.format(layout=layout.value))
    name = "operator" if pair == "admin" else "cp-1"
    pki = folder / "nodes" / "cp-1" / "pki" if name == "cp-1" else folder / "operator"
    pki.mkdir(parents=True)
    row = row_named(cluster, pair)
    want = resolve(row, cluster, None if name == "operator" else cluster.nodes[0])
    at = pki if want.folder == PKI else pki / want.folder
    at.mkdir(exist_ok=True)
    (at / f"{want.stem}.crt").touch()
    (holder,) = find_holders(cluster, folder)
    return holder, want


def found(holder: Holder, want: Certificate, data: bytes) -> str:
    path = holder.at(want.kubeconfig_folder) / str(want.kubeconfig)
    path.write_bytes(data)
    path.chmod(0o600)
    (row,) = (row for row in TABLE if row.name == want.name)
    (check,) = kubeconfig_checks(PairOnDisk(holder, want, row, None))
    assert (check.target, check.ok) == (want.kubeconfig, not check.detail)
    return check.detail


def written(holder: Holder, want: Certificate, directory: str, server: str = SERVER, *, chain: bool = False) -> bytes:
    """What the agent, or `issue`, writes."""
    site = Site("prod", server, holder.layout, {PKI: directory}, FileOwner())
    return kubeconfig(site, want, chain=chain).data


NODES: Mapping[str, tuple[str, str, str]] = {
    "another server": ("api.example.com", "elsewhere.example", f'elsewhere.example:6443", should be "{SERVER}"'),
    "another port": ("6443", "6444", f'server is "https://api.example.com:6444", should be "{SERVER}"'),
    "another certificate": ("kube-scheduler.crt", "admin.crt", 'client-certificate is "/etc/kubernetes/pki/admin.crt"'),
    "a key elsewhere": ("/etc/kubernetes/pki/kube-scheduler.key", "/srv/x.key", 'client-key is "/srv/x.key", should'),
    "another CA": ("kubernetes-ca.crt", "etcd-ca.crt", 'certificate-authority is "/etc/kubernetes/pki/etcd-ca.crt"'),
    "the bundle with the root": ("kubernetes-ca.crt", "kubernetes-ca-chain.crt", "certificate-authority is "),
    "a CA elsewhere": ("/etc/kubernetes/pki/kubernetes-ca.crt", "/srv/ca.crt", 'certificate-authority is "/srv/ca.crt'),
    "a relative path": ("/etc/kubernetes/pki/kube-scheduler.crt", "kube-scheduler.crt", "client-certificate is "),
    "no server": ("    server:", "    servers:", "server is missing"),
    "no verification": ("    server:", "    insecure-skip-tls-verify: true\n    server:", "holds insecure-skip-tls-"),
    "another name": ("    server:", "    tls-server-name: x\n    server:", "holds tls-server-name, which"),
    "a proxy": ("    server:", "    proxy-url: http://x\n    server:", "holds proxy-url"),
    "a token": ("    client-key:", "    token: x\n    client-key:", "holds token"),
    "another user": ("current-context: ", "current-context: x", 'current context is "another one"'),
    "a comment": ("kind: Config", "kind: Config # ours", "is not in the form that the agent writes"),
    "two users": ("users:\n", "users:\n- name: x\n", "is not a kubeconfig with one cluster"),
    "no document": ("kind: Config", "kind: [", "is not a kubeconfig with one cluster"),
}


@pytest.mark.parametrize("what", NODES)
def test_what_differs_in_a_nodes_kubeconfig_is_named(tmp_path: Path, what: str) -> None:
    old, new, words = NODES[what]
    holder, want = holder_of(tmp_path, Layout.DOCUMENT, "kube-scheduler")
    right = written(holder, want, DIRECTORY)
    assert found(holder, want, right) == "" and old.encode() in right
    assert words in found(holder, want, right.replace(old.encode(), new.encode()))


def test_files_may_lie_where_they_are_or_come_from_the_usual_place(tmp_path: Path) -> None:
    holder, want = holder_of(tmp_path, Layout.DOCUMENT, "kube-scheduler")
    assert found(holder, want, written(holder, want, str(holder.folder))) == ""
    elsewhere = f'names files in "/srv/pki", should be in "{holder.folder}"'
    assert found(holder, want, written(holder, want, "/srv/pki")) == elsewhere


def test_an_agent_yaml_beside_the_files_says_where_they_are(tmp_path: Path) -> None:
    holder, want = holder_of(tmp_path, Layout.DOCUMENT, "kube-scheduler")
    (holder.folder.parent / "agent.yaml").write_text(AGENT)
    (holder,) = find_holders(load(tmp_path, SPEC.format(layout="document")), tmp_path)
    assert holder.found == ()
    assert found(holder, want, written(holder, want, "/srv/pki")) == ""
    elsewhere = f'names files in "{DIRECTORY}", should be in "/srv/pki"'
    assert found(holder, want, written(holder, want, DIRECTORY)) == elsewhere


def test_plain_kubeconfigs_name_the_api_server_of_their_own_node(tmp_path: Path) -> None:
    """kubeadm's: during an upgrade these must not be newer than the kube-apiserver that they ask."""
    holder, want = holder_of(tmp_path, Layout.KUBEADM, "kube-scheduler")
    assert want.kubeconfig_file is not KubeconfigFile.LINKED
    (paths,) = holder.named[-1:]
    made = {
        server: kubeconfig(Site("prod", server, Layout.KUBEADM, paths, FileOwner()), want).data
        for server in (SERVER, "https://10.0.0.11:6443")
    }
    assert found(holder, want, made["https://10.0.0.11:6443"]) == ""
    assert found(holder, want, made[SERVER]) == f'server is "{SERVER}", should be "https://10.0.0.11:6443"'
    linked = replace(want, kubeconfig_file=KubeconfigFile.LINKED)
    text = kubeconfig(Site("prod", SERVER, Layout.KUBEADM, paths, FileOwner()), linked).data
    assert found(holder, linked, text) == ""


def test_an_operators_may_be_written_by_kubectl_and_name_either_bundle(tmp_path: Path) -> None:
    holder, want = holder_of(tmp_path, Layout.DOCUMENT, "admin")
    for with_root in (False, True):
        right = yaml.safe_load(written(holder, want, str(holder.folder), chain=with_root))
        right["contexts"][0]["context"]["namespace"] = "kube-system"
        assert found(holder, want, yaml.safe_dump(right).encode()) == ""
    elsewhere = f'names files in "{DIRECTORY}", should be in "{holder.folder}"'
    assert found(holder, want, written(holder, want, DIRECTORY)) == elsewhere


@cache
def cas() -> dict[str, bytes]:
    return {name: pem(data) for name, data in chain().items()}


EMBEDDED: Mapping[str, tuple[str, str]] = {
    "certificate-authority-data": ("own", "certificate-authority-data is not that of the files beside it"),
    "client-certificate-data": ("lower", "client-certificate-data is not that of the files beside it"),
    "client-key-data": ("lower", "client-key-data is not that of the files beside it"),
}


@pytest.mark.parametrize("key", EMBEDDED)
def test_a_kubeconfig_that_holds_the_pair(tmp_path: Path, key: str) -> None:
    holder, want = holder_of(tmp_path, Layout.KUBEADM, "admin")
    assert holder.embedded
    crt, secret, both = b"crt", b"secret", cas()["own"] + cas()["root"]
    holder.bundle(want.ca, chain=True).write_bytes(both)
    for name, data in (("admin.crt", crt), ("admin.key", secret)):
        (holder.folder / name).write_bytes(data)

    def made(server: str = SERVER, ca: bytes = both) -> str:
        return assets.embedded_kubeconfig(
            cluster="prod",
            server=server,
            ca_pem=ca,
            user=want.subject.common_name,
            certificate_pem=crt,
            key_pem=secret,
        )

    assert found(holder, want, made().encode()) == ""
    # kubeadm compares the first CA, so their order is free.
    assert found(holder, want, made(ca=cas()["root"] + cas()["own"]).encode()) == ""
    assert (
        found(holder, want, made("https://elsewhere:6443").encode())
        == f'server is "https://elsewhere:6443", should be "{SERVER}"'
    )
    other, words = EMBEDDED[key]
    document = yaml.safe_load(made())
    part = document["clusters"][0]["cluster"] if "authority" in key else document["users"][0]["user"]
    for wrong in (b64encode(cas()[other]).decode(), "", "no base64", 7):
        part[key] = wrong
        assert found(holder, want, yaml.safe_dump(document).encode()) == words
    part[key], part["exec"] = part[key], {"command": "sh"}
    assert found(holder, want, yaml.safe_dump(document).encode()).split("; ")[-1].startswith("holds exec, which")
