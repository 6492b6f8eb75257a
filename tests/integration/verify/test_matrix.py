"""`verify` on real files, real TLS and the real `openssl`: the good ones pass, and each bad one is found and named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID

from helpers.node.handmade_files import LIFE, NOW, HandmadeFiles, authority, key_usage, made, put
from helpers.vault.applied_cluster import vaultpki
from vaultpki import certificates
from vaultpki.certificates import ISSUING_CAS, TABLE, bundle
from vaultpki.cli.verify import verify_command
from vaultpki.errors import ArgumentError, Attention, SpecError, ToolMissing
from vaultpki.model import Usage
from vaultpki.verify import folders, handshake
from vaultpki.verify.bundles_on_disk import bundle_checks
from vaultpki.verify.matrix import Check, to_json, verify
from vaultpki.verify.on_disk import pair_checks

# Root without its right to read everything, and anybody else as they are.
NO_OVERRIDE = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> HandmadeFiles:
    return made(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def good(template: HandmadeFiles) -> tuple[Check, ...]:
    """Every check of the good files."""
    return template.verify()


@pytest.fixture
def files(template: HandmadeFiles, tmp_path: Path) -> HandmadeFiles:
    """A copy of the good files that a test may spoil."""
    folder = tmp_path / "files"
    shutil.copytree(template.folder, folder)
    return replace(template, folder=folder, file=folder / "cluster.yaml")


def failed(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if not check.ok]


def details(checks: Sequence[Check], kind: str, *, source: str = "", target: str = "") -> str:
    chosen = (each for each in failed(checks) if each.kind == kind)
    return "\n".join(
        f"{each.target}: {each.detail}" for each in chosen if source in each.source and target in each.target
    )


def test_a_good_cluster_passes_every_check(good: tuple[Check, ...]) -> None:
    assert failed(good) == []
    assert {check.kind for check in good} == {"file", "chain", "handshake"}
    answer = to_json(good)
    assert answer["ok"] is True
    assert set(answer["checks"][0]) == {"name", "kind", "from", "to", "expect", "got", "ok", "detail"}


def test_the_matrix_is_the_tables(good: tuple[Check, ...]) -> None:
    """Who is let in by whom, spelt out here once by hand and compared with what really happened."""
    clients_of = {
        "kubernetes": {"admin", "super-admin", "kube-scheduler", "kube-controller-manager", "kube-proxy"}
        | {"kube-apiserver-kubelet", "kubelet-client"},
        "etcd": {"kube-apiserver-etcd", "etcd-server", "etcd-peer", "etcd-healthcheck-client"},
    }
    trusts = {"kube-apiserver": "kubernetes", "kubelet": "kubernetes", "etcd-server": "etcd", "etcd-peer": "etcd"}
    seen: dict[tuple[str, str], set[str]] = {}
    for check in good:
        if check.kind == "handshake" and " to " in check.name and not check.name.startswith("a client"):
            client, server = check.name.split(" to ")
            seen.setdefault((client, server), set()).add(check.got)
    # Certificates of service-account keys: test_token_key_files.py.
    everyone = {row.name for row in TABLE if row.usage.tls}
    assert set(seen) == {(client, server) for client in everyone for server in trusts}
    assert seen == {
        (client, server): {"accept" if client in clients_of[ca] else "refuse"}
        for client in everyone
        for server, ca in trusts.items()
    }


def test_refusals_are_the_servers_and_for_the_right_reason(good: tuple[Check, ...]) -> None:
    refused: dict[str, set[str]] = {}
    for check in good:
        if check.kind == "handshake" and check.got == "refuse":
            refused.setdefault(check.name, set()).add(check.detail)
    assert refused["kube-apiserver to kube-apiserver"] == {"the server refuses: unsuitable certificate purpose"}
    assert refused["kubelet-client to etcd-server"] == {"the server refuses: unable to get local issuer certificate"}
    assert refused["front-proxy-client to kube-apiserver"] == {
        "the server refuses: unable to get local issuer certificate"
    }
    wrong = refused["a client to kubelet as vaultpki-wrong-name.invalid"]
    assert all("the client refuses: Hostname mismatch" in detail for detail in wrong)


def test_every_pair_is_tried_for_both_purposes_and_under_every_ca(
    template: HandmadeFiles, good: tuple[Check, ...]
) -> None:
    checks = [check for check in good if check.kind == "chain"]
    for holder in folders.find(template.cluster, template.folder):
        for certificate in holder.certificates:
            mine = {each.target: each.got for each in checks if each.source == f"{holder.name}/{certificate.name}"}
            usage = certificate.usage
            assert mine["the root, as a server"] == ("accept" if usage.server else "refuse")
            assert mine["the root, as a client"] == ("accept" if usage.client else "refuse")
            assert {ca for ca in ISSUING_CAS if mine[bundle(ca)] == "accept"} == {certificate.ca}
            if usage.server:
                for name in (*certificate.subject.dns, *certificate.subject.ips):
                    assert mine[f"the root, as {name}"] == "accept"
                assert mine["the root, as vaultpki-wrong-name.invalid"] == "refuse"


def test_wrong_usage_is_found_by_every_kind_of_check(files: HandmadeFiles) -> None:
    want = files.want("worker-1", "kubelet")
    files.lay(files.pki("worker-1"), replace(want, usage=Usage.BOTH))
    checks = files.verify()
    assert "extended key usage is clientAuth and serverAuth, should be serverAuth" in details(checks, "file")
    assert "the root, as a client" in details(checks, "chain", source="worker-1/kubelet")
    # Its CA is the kubelet's own, so no server lets it in even now: only the separate CAs see to that.
    assert details(checks, "handshake", source="worker-1/kubelet") == ""


def test_a_server_pair_that_may_be_a_client_is_let_in_and_reported(files: HandmadeFiles) -> None:
    want = files.want("cp-1", "kube-apiserver")
    files.lay(files.pki("cp-1"), replace(want, usage=Usage.BOTH))
    found = [each for each in failed(files.verify()) if each.kind == "handshake"]
    assert ("cp-1/kube-apiserver", "refuse", "accept") in {(each.source, each.expect, each.got) for each in found}


def test_a_client_of_another_ca_is_refused_and_reported(files: HandmadeFiles) -> None:
    want = files.want("cp-1", "kube-apiserver-etcd")
    files.lay(files.pki("cp-1"), replace(want, ca="kubernetes"))
    checks = files.verify()
    assert "not the certificate followed by its issuing CA from etcd-ca.crt" in details(checks, "file")
    assert "etcd-ca.crt: " in details(checks, "chain", source="cp-1/kube-apiserver-etcd")
    assert "cp-1/etcd-server: the server refuses: unable to get local issuer" in details(checks, "handshake")


def test_a_swapped_key_is_found(files: HandmadeFiles) -> None:
    pki = files.pki("cp-1")
    put(pki / "kube-scheduler.key", (pki / "controller-manager.key").read_bytes(), 0o600)
    checks = files.verify()
    assert "kube-scheduler.key: is not the key of kube-scheduler.crt" in details(checks, "file")
    assert "kube-scheduler.pem: is not kube-scheduler.key followed by" in details(checks, "file")
    assert "key values mismatch" in details(checks, "handshake", source="cp-1/kube-scheduler")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("kubelet.key", 0o640),
        ("kubelet.pem", 0o644),
        ("kubelet.crt", 0o600),
        ("kubelet.conf", 0o644),
        ("kubelet-ca.crt", 0o666),
        ("kubernetes-ca-chain.crt", 0o640),
    ],
)
def test_a_wrong_mode_is_found(files: HandmadeFiles, name: str, mode: int) -> None:
    (files.pki("worker-1") / name).chmod(mode)
    (only,) = failed(files.verify_node("worker-1"))
    assert (only.source, only.target) == ("worker-1", name)
    assert only.detail.startswith(f"mode is {mode:04o}, should be 0")


def test_a_mode_the_nodes_agent_was_told_is_no_fault(files: HandmadeFiles) -> None:
    for name in ("kubelet.key", "kubelet.pem"):
        (files.pki("worker-1") / name).chmod(0o640)
    found = [
        replace(holder, modes={"kubelet": 0o640}) if holder.name == "worker-1" else holder
        for holder in folders.find(files.cluster, files.folder)
    ]
    assert failed(verify(found, now=NOW)) == []


@pytest.mark.parametrize("name", ["kubelet.crt", "kubelet.key", "kubelet.pem", "kubelet.conf", "kubelet-ca.crt"])
@pytest.mark.parametrize("how", ["missing", "empty", "a folder", "a fifo", "garbage", "a device", "endless", "outside"])
def test_a_file_that_is_none_is_found(files: HandmadeFiles, name: str, how: str) -> None:
    path = files.pki("worker-1") / name
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a fifo":
        os.mkfifo(path)
    elif how == "a device":
        path.symlink_to("/dev/zero")
    elif how == "endless":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif how == "outside":
        outside = files.folder / "elsewhere"
        shutil.copy(files.pki("cp-1") / "kube-scheduler.crt", outside)
        path.symlink_to(outside)
    elif how != "missing":
        put(path, b"" if how == "empty" else b"\xff\0garbage" * 100, 0o644 if name.endswith(".crt") else 0o600)
    assert f"{name}: " in details(files.verify_node("worker-1"), "file", source="worker-1")


def test_links_within_the_folder_are_followed(files: HandmadeFiles) -> None:
    """As those of the store are, and a folder that is named by a link."""
    pki = files.pki("worker-1")
    (pki / "inner").mkdir()
    for path in [path for path in pki.iterdir() if path.is_file()]:
        path.rename(pki / "inner" / path.name)
        path.symlink_to(f"inner/{path.name}")
    named = files.folder / "worker-1"
    named.symlink_to(pki)
    found = folders.find(files.cluster, named)
    assert [holder.name for holder in found] == ["worker-1"] and failed(verify(found, now=NOW)) == []


def test_a_folder_of_nodes_that_leads_elsewhere_is_one_failed_check(files: HandmadeFiles, tmp_path: Path) -> None:
    nodes = files.folder / "nodes"
    files.pki("w-7").parent.rename(tmp_path / "w-7")
    (nodes / "w-7").symlink_to(tmp_path / "w-7")
    files.pki("worker-1").rename(tmp_path / "pki")
    files.pki("worker-1").symlink_to(tmp_path / "pki")
    ran = vaultpki("verify", "-f", files.file, "--dir", nodes, "--json", expect=3)
    wrong = [check for check in json.loads(ran.stdout)["checks"] if not check["ok"]]
    assert [(check["from"], check["kind"], check["got"]) for check in wrong] == [
        ("w-7", "file", "refuse"),
        ("worker-1", "file", "refuse"),
    ]
    assert {check["detail"] for check in wrong} == {f"is a link that leads out of {nodes}"}


def test_an_agent_yaml_that_is_none_is_one_failed_check(files: HandmadeFiles) -> None:
    file = files.pki("worker-1").parent / "agent.yaml"
    file.write_text("version: 1\ncluster: [")
    (wrong,) = failed(files.verify())
    assert (wrong.source, wrong.name, wrong.target) == ("worker-1", "agent.yaml", str(file))
    assert wrong.detail.startswith(f"{file}:3: this is not YAML")
    file.unlink()
    file.symlink_to("/etc/shadow")
    (wrong,) = failed(files.verify())
    assert wrong.detail == f"{file}: is a symbolic link: put the file itself there"


def test_a_folder_of_too_many_entries_is_refused(files: HandmadeFiles, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(folders.MOST_ENTRIES + 1):
        (many / str(number)).touch()
    with pytest.raises(ArgumentError, match="holds more than 10000 entries: name one node's folder with --dir"):
        folders.find(files.cluster, many)


def test_what_this_user_may_not_read_is_not_checked_and_no_fault(files: HandmadeFiles) -> None:
    """The keys and kubeconfigs of one node, and all of another; what can be read is checked all the same."""
    ours = ["kubelet", "kubelet-client", "kube-proxy"]
    secret = [f"{name}.{end}" for name in ours for end in ("key", "pem")] + ["kubelet.conf", "kube-proxy.conf"]
    for name in secret:
        (files.pki("worker-1") / name).chmod(0)
    files.pki("w-7").chmod(0)
    nodes = files.folder / "nodes"
    told = vaultpki("verify", "-f", files.file, "--dir", nodes, "--json", expect=3, behind=NO_OVERRIDE)
    answer = json.loads(told.stdout)
    wrong = [check for check in answer["checks"] if not check["ok"]]
    assert answer["ok"] is False and {check["got"] for check in wrong} == {"unchecked"}, wrong
    assert {check["detail"] for check in wrong} == {"cannot be read as this user; run as root"}
    unread = {check["to"] for check in wrong if check["kind"] == "file"}
    assert unread == {*secret, str(files.pki("w-7"))}
    pairs = {f"worker-1/{name}" for name in ours}
    handshakes = [check for check in wrong if check["kind"] == "handshake"]
    assert handshakes and all(pairs & {check["from"], check["to"]} for check in handshakes)
    assert told.stderr == (
        f"vaultpki: {len(wrong)} of {len(answer['checks'])} checks could not be made as this user; run as root\n"
    )
    shown = vaultpki("verify", "-f", files.file, "--dir", nodes, expect=3, behind=NO_OVERRIDE).stdout.splitlines()
    assert len(shown) == 3 and shown[-1].endswith("; all else as it should be."), shown
    assert any(line.startswith("not checked: ") and "kubelet.key" in line for line in shown), shown
    # What is wrong besides is told as before.
    put(files.pki("worker-1") / "kubelet-ca.crt", b"garbage", 0o644)
    both = vaultpki("verify", "-f", files.file, "--dir", nodes, expect=3, behind=NO_OVERRIDE).stderr
    assert "checks failed, and " in both and "could not be made as this user; correct what they name" in both


def test_expired_and_not_yet_valid_are_found_at_the_time_asked_for(files: HandmadeFiles) -> None:
    late = files.verify(now=NOW + LIFE[1] + timedelta(hours=1))
    assert "kubelet.crt: has expired" in details(late, "file")
    assert "certificate has expired" in details(late, "chain", source="worker-1/kubelet")
    early = files.verify(now=NOW - timedelta(minutes=30))
    assert "kubelet.crt: is not valid yet" in details(early, "file")
    assert "certificate is not yet valid" in details(early, "chain", source="worker-1/kubelet")


def test_an_expired_pair_is_refused_live(files: HandmadeFiles) -> None:
    want = files.want("cp-1", "kube-scheduler")
    files.lay(files.pki("cp-1"), want, life=(-timedelta(minutes=50), -timedelta(minutes=1)))
    live = details(files.verify(), "handshake", source="cp-1/kube-scheduler")
    assert "the server refuses: certificate has expired" in live


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dns": ("worker-1", "kubernetes")}, 'DNS SAN is "worker-1", "kubernetes", should be "worker-1"'),
        ({"ips": ("10.0.0.21",)}, 'IP SAN is "10.0.0.21", should be "10.0.0.21", "fd00::21"'),
        ({"organization": ("system:nodes", "system:masters")}, 'O is "system:nodes", "system:masters", should be'),
        ({"common_name": "system:node:cp-1"}, 'CN is "system:node:cp-1", should be "system:node:worker-1"'),
    ],
)
def test_other_names_are_found(files: HandmadeFiles, change: dict[str, object], problem: str) -> None:
    want = files.want("worker-1", "kubelet")
    files.lay(files.pki("worker-1"), replace(want, subject=replace(want.subject, **change)))  # type: ignore[arg-type]
    assert problem in details(files.verify_node("worker-1"), "file", source="worker-1")


def test_a_name_that_is_lacking_fails_live_too(files: HandmadeFiles) -> None:
    want = files.want("worker-1", "kubelet")
    files.lay(files.pki("worker-1"), replace(want, subject=replace(want.subject, ips=("10.0.0.21",))))
    checks = files.verify()
    assert "the root, as fd00::21: " in details(checks, "chain", source="worker-1/kubelet")
    assert "IP address mismatch" in details(checks, "handshake", target="worker-1/kubelet")


def test_a_leaf_that_is_a_ca_or_signs_or_lives_too_long_is_found(files: HandmadeFiles) -> None:
    pki, want = files.pki("w-7"), files.want("w-7", "kubelet-client")
    files.lay(pki, want, ca=True)
    assert "kubelet-client.crt: is a CA" in details(files.verify_node("w-7"), "file").replace("key usage", "")
    files.lay(pki, want, usage=key_usage("digital_signature", "key_cert_sign"))
    assert "key usage is not digitalSignature" in details(files.verify_node("w-7"), "file")
    files.lay(pki, want, life=(-timedelta(minutes=5), timedelta(days=400)))
    assert "is valid for longer than requested" in details(files.verify_node("w-7"), "file")


def test_the_root_in_a_bundle_that_servers_check_clients_by_is_found(files: HandmadeFiles) -> None:
    put(files.pki("cp-1") / "etcd-ca.crt", files.issuing["etcd"].pem + files.root.pem, 0o644)
    checks = files.verify()
    assert "etcd-ca.crt: holds the root CA" in details(checks, "file")
    # And what that does: a kubelet's own certificate opens etcd's data.
    let_in = {(each.source, each.got) for each in failed(checks) if each.kind == "handshake" and "etcd" in each.target}
    assert ("worker-1/kubelet-client", "accept") in let_in


def test_another_ca_in_a_bundle_is_found(files: HandmadeFiles) -> None:
    put(files.pki("cp-1") / "etcd-ca.crt", files.issuing["etcd"].pem + files.issuing["kubelet"].pem, 0o644)
    # The kubelet CA's leaves are for servers only, so it is the chain that tells.
    put(files.pki("worker-1") / "etcd-ca.crt", files.issuing["etcd"].pem + files.issuing["kubelet"].pem, 0o644)
    assert ("worker-1/kubelet", "etcd-ca.crt", "accept") in {
        (each.source, each.target, each.got) for each in failed(files.verify()) if each.kind == "chain"
    }
    put(files.pki("cp-1") / "etcd-ca.crt", files.issuing["etcd"].pem + files.issuing["kubernetes"].pem, 0o644)
    checks = files.verify()
    assert ("cp-1/kube-scheduler", "cp-1/etcd-server") in {(each.source, each.target) for each in failed(checks)}


STRANGE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (
            "kubernetes",
            {},
            "CN=prod kubernetes CA, which is not an issuing CA of etcd: its name is not CN=prod etcd CA alone",
        ),
        ("etcd", {"path_length": None}, "its path length is not 0"),
        (
            "etcd",
            {"further": [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]},
            "extended key usage",
        ),
        ("etcd", {"further": [(x509.NameConstraints([x509.DNSName("x")], None), False)]}, "it has name constraints"),
        ("etcd", {"further": [(STRANGE, True)]}, "a critical extension that no CA of ours has (1.2.3.4)"),
    ],
    ids=["another domain's", "a path without an end", "an EKU", "name constraints", "a critical extension"],
)
@pytest.mark.parametrize("file", ["etcd-ca.crt", "etcd-ca-chain.crt"])
def test_a_ca_that_is_none_of_its_domain_is_found_in_a_bundle(
    files: HandmadeFiles, file: str, name: str, options: dict[str, Any], problem: str
) -> None:
    planted = authority(name, files.root, **options)
    path = files.pki("cp-1") / file
    put(path, path.read_bytes() + planted.pem, 0o644)
    found = {each.target: each.detail for each in failed(tuple(bundles_of(files, "cp-1")))}
    assert found.keys() == {file} and problem in found[file]


def test_a_ca_of_the_right_name_that_the_root_did_not_sign_is_found_in_a_bundle(files: HandmadeFiles) -> None:
    planted = authority("etcd", authority("root"))
    for file in ("etcd-ca.crt", "etcd-ca-chain.crt"):
        path = files.pki("cp-1") / file
        put(path, path.read_bytes() + planted.pem, 0o644)
    found = {each.target: each.detail for each in failed(tuple(bundles_of(files, "cp-1")))}
    assert found == dict.fromkeys(
        ("etcd-ca.crt", "etcd-ca-chain.crt"), "holds an issuing CA that its root did not sign"
    )


def bundles_of(files: HandmadeFiles, node: str) -> Iterator[Check]:
    (holder,) = (each for each in folders.find(files.cluster, files.folder) if each.name == node)
    return bundle_checks(holder, {row.name: row for row in certificates.rows(files.cluster)}, NOW)


@pytest.mark.parametrize("kind", ["UniversalString", "BMPString", "T61String", "IA5String"])
def test_a_name_in_an_encoding_that_go_reads_otherwise_is_found(files: HandmadeFiles, kind: str) -> None:
    files.lay(files.pki("cp-1"), files.want("cp-1", "etcd-server"), encoding=_ASN1Type[kind])
    assert "has names that are not in the table" in pair_of(files, "cp-1", "etcd-server")


def test_a_critical_extension_that_nobody_asked_for_is_found(files: HandmadeFiles) -> None:
    files.lay(files.pki("cp-1"), files.want("cp-1", "etcd-server"), further=[(STRANGE, True)])
    assert "has a critical extension that was not requested" in pair_of(files, "cp-1", "etcd-server")


def pair_of(files: HandmadeFiles, node: str, name: str) -> str:
    (holder,) = (each for each in folders.find(files.cluster, files.folder) if each.name == node)
    row = certificates.row_named(files.cluster, name)
    _, checks = pair_checks(holder, row, files.want(node, name), NOW)
    return details(checks, "file")


def test_a_server_without_a_san_passes_by_its_cn_for_nobody(files: HandmadeFiles) -> None:
    """`openssl verify` would take the CN, which is the node's name here."""
    want = files.want("cp-1", "etcd-server")
    assert want.subject.common_name == "cp-1" and "cp-1" in want.subject.dns
    files.lay(files.pki("cp-1"), replace(want, subject=replace(want.subject, dns=(), ips=())))
    checks = files.verify()
    assert "the root, as cp-1: has no DNS SAN" in details(checks, "chain", source="cp-1/etcd-server")
    live = [each for each in failed(checks) if each.kind == "handshake" and each.target == "cp-1/etcd-server"]
    assert {each.got for each in live if each.name.endswith("as cp-1")} == {"refuse"}


def test_a_node_with_another_root_is_found(files: HandmadeFiles, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = made(tmp_path / "other")
    shutil.rmtree(files.pki("w-7"))
    shutil.copytree(other.pki("w-7"), files.pki("w-7"))
    checks = files.verify()
    assert "has another root CA than" in details(checks, "chain", source="w-7")
    assert "cp-1/kube-apiserver: " in details(checks, "handshake", source="w-7/kubelet-client")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("kubelet-client.key", "kubelet.key", "does not name kubelet-client.crt and kubelet-client.key"),
        ("kubernetes-ca.crt", "etcd-ca.crt", "does not name a bundle of the CA kubernetes"),
        ('"/etc/kubernetes/pki/kubernetes-ca.crt"', '"kubernetes-ca.crt"', "files of one folder by absolute paths"),
        ("https://", "http://", "is not an https URL"),
        ("    server:", "    insecure-skip-tls-verify: true\n    server:", "holds insecure-skip-tls-verify"),
        ("current-context: ", "current-context: x", "current context is not its user on its cluster"),
        ("users:", "nobody:", "is not a kubeconfig"),
        ("kind: Config", "kind: [" * 2000, "is not a kubeconfig"),
    ],
)
def test_a_spoilt_kubeconfig_is_found(files: HandmadeFiles, old: str, new: str, problem: str) -> None:
    path = files.pki("worker-1") / "kubelet.conf"
    text = path.read_text()
    assert old in text
    put(path, text.replace(old, new).encode(), 0o600)
    assert problem in details(files.verify_node("worker-1"), "file", target="kubelet.conf")


def test_a_row_of_the_users_own_is_tried_without_new_code(files: HandmadeFiles) -> None:
    server = next(row for row in TABLE if row.name == "kubelet")
    mine = replace(
        server, name="metrics", source="metrics", common_name="metrics", organization=(), dns=("metrics",), ips=()
    )
    mine = replace(mine, stem="metrics", built_in=False, document=False)
    scraper = replace(mine, name="scraper", usage=Usage.CLIENT, source="scraper", target="metrics", dns=(), ca="etcd")
    cluster = replace(files.cluster, rows=(mine, replace(scraper, common_name="scraper", stem="scraper")))
    files = replace(files, cluster=cluster)
    node = cluster.nodes[1]
    for row in cluster.rows:
        files.lay(files.pki(node.name), certificates.resolve(row, cluster, node))
    for row in cluster.rows:
        files.lay(files.pki("w-7"), certificates.resolve(row, cluster, cluster.pools[0]))
    checks = files.verify()
    assert failed(checks) == []
    got = {(each.source, each.target): each.got for each in checks if each.kind == "handshake"}
    assert got["worker-1/scraper", "worker-1/metrics"] == "accept"
    assert got["worker-1/kubelet-client", "worker-1/metrics"] == "refuse"
    assert got["worker-1/metrics", "worker-1/metrics"] == "refuse"


def test_a_missing_openssl_is_told_with_the_package(template: HandmadeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolMissing, match="apt-get install openssl"):
        template.verify()


def test_a_side_that_says_nothing_ends_the_handshake(template: HandmadeFiles) -> None:
    pki = template.pki("cp-1")
    server = handshake.context(server=True, pair=(pki / "kube-apiserver.crt", pki / "kube-apiserver.key"), trusted=())
    client = handshake.context(server=False, pair=None, trusted=[pki / "kubernetes-ca.crt"], names=True)
    assert handshake.shake(server, client, "kubernetes") == ""
    assert handshake.shake(server, client, "") == "the client cannot connect to the name ''"
    deaf = handshake.context(server=True, pair=None, trusted=())
    assert handshake.shake(deaf, client, "kubernetes").startswith("the server refuses: ")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (".", ["cp-1", "w-7", "worker-1", "operator"]),
        ("nodes", ["cp-1", "w-7", "worker-1"]),
        ("nodes/w-7/pki", ["w-7"]),
        ("nodes/cp-1/pki", ["cp-1"]),
        ("operator", ["operator"]),
    ],
)
def test_folders_and_whose_they_are(template: HandmadeFiles, path: str, names: list[str]) -> None:
    found = folders.find(template.cluster, template.folder / path)
    assert [holder.name for holder in found] == names


def test_a_folder_of_another_name_is_known_by_what_lies_in_it(files: HandmadeFiles, tmp_path: Path) -> None:
    for node in ("cp-1", "worker-1", "w-7"):
        moved = tmp_path / f"moved-{node}"
        files.pki(node).rename(moved)
        (holder,) = folders.find(files.cluster, moved)
        assert holder.name == node
        assert failed(verify([holder], now=NOW)) == []


def test_folders_that_are_nobodys(files: HandmadeFiles, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="holds no certificate files of prod"):
        folders.find(files.cluster, tmp_path)
    with pytest.raises(ArgumentError, match="No such file"):
        folders.find(files.cluster, tmp_path / "nothing")
    stranger = tmp_path / "strangers" / "stranger"
    stranger.mkdir(parents=True)
    shutil.copy(files.pki("cp-1") / "kube-scheduler.crt", stranger)
    with pytest.raises(SpecError, match="belongs to no node of prod"):
        folders.find(files.cluster, stranger.parent)


def test_the_command_tells_people_and_programs(files: HandmadeFiles) -> None:
    arguments = ["-f", str(files.file), "--dir", str(files.folder / "nodes")]
    good = CliRunner().invoke(verify_command, arguments)
    assert good.exit_code == 0, good.output
    assert good.output.count("\n") == 1
    assert "checks of 3 holders" in good.output
    assert "all as they should be" in good.output
    (files.pki("worker-1") / "kubelet.key").chmod(0o644)
    bad = CliRunner().invoke(verify_command, arguments)
    assert isinstance(bad.exception, Attention)
    assert bad.exception.exit_code == 3
    assert "worker-1/kubelet" in bad.output
    assert "mode is 0644, should be 0600" in bad.output
    program = CliRunner().invoke(verify_command, [*arguments, "--json"])
    answer = json.loads(program.output)
    assert answer["ok"] is False
    assert [each["to"] for each in answer["checks"] if not each["ok"]] == ["kubelet.key"]


def test_nothing_is_left_behind_and_no_key_is_told(
    files: HandmadeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = {path: path.stat().st_mtime_ns for path in files.folder.rglob("*")}
    told = json.dumps(to_json(files.verify()))
    assert "PRIVATE" not in told
    assert list(temporary.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in files.folder.rglob("*")} == before
