"""`verify` on real files, real TLS and the real `openssl`: the good ones pass, and each bad one is found and named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.node.handmade_files import LIFE, NOW, HandmadeFiles, made, put
from helpers.vault.applied_cluster import vaultpki
from vaultpki import certificates
from vaultpki.certificates import ISSUING_CAS, TABLE, bundle, laid_out
from vaultpki.cli.verify import verify_command
from vaultpki.errors import ArgumentError, Attention, SpecError, ToolMissing
from vaultpki.model import Usage
from vaultpki.places import Layout
from vaultpki.verify import folders, handshake
from vaultpki.verify.matrix import Check, to_json, verify

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
    return template.copied(tmp_path / "files")


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
    everyone = {row.name for row in laid_out(Layout.DOCUMENT)}
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
    for holder in folders.find_holders(template.cluster, template.folder):
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


def test_faults_of_pairs_are_found_by_every_kind_of_check_that_sees_them(files: HandmadeFiles) -> None:
    cp, worker = files.pki("cp-1"), files.pki("worker-1")
    kubelet, server, client, expired, nameless = (
        files.want("worker-1" if name == "kubelet" else "cp-1", name)
        for name in ("kubelet", "kube-apiserver", "kube-apiserver-etcd", "kube-controller-manager", "etcd-server")
    )
    # Another usage, and a name that is lacking.
    files.lay(worker, replace(kubelet, usage=Usage.BOTH, subject=replace(kubelet.subject, ips=("10.0.0.21",))))
    files.lay(cp, replace(server, usage=Usage.BOTH))
    files.lay(cp, replace(client, ca="kubernetes"))
    files.lay(cp, expired, life=(-timedelta(minutes=50), -timedelta(minutes=1)))
    put(cp / "kube-scheduler.key", (cp / "controller-manager.key").read_bytes(), 0o600)
    # `openssl verify` would take the CN, which is the node's name here.
    assert nameless.subject.common_name == "cp-1" and "cp-1" in nameless.subject.dns
    files.lay(cp, replace(nameless, subject=replace(nameless.subject, dns=(), ips=())))
    checks = files.verify()

    by_file, live = details(checks, "file"), [each for each in failed(checks) if each.kind == "handshake"]
    assert "extended key usage is clientAuth and serverAuth, should be serverAuth" in by_file
    assert 'IP SAN is "10.0.0.21", should be "10.0.0.21", "fd00::21"' in by_file
    assert "not the certificate followed by its issuing CA from etcd-ca.crt" in by_file
    assert "kube-scheduler.key: is not the key of kube-scheduler.crt" in by_file
    assert "kube-scheduler.pem: is not kube-scheduler.key followed by" in by_file
    by_chain = details(checks, "chain", source="worker-1/kubelet")
    assert "the root, as a client" in by_chain and "the root, as fd00::21: " in by_chain
    assert "etcd-ca.crt: " in details(checks, "chain", source="cp-1/kube-apiserver-etcd")
    assert "the root, as cp-1: has no DNS SAN" in details(checks, "chain", source="cp-1/etcd-server")
    # The kubelet's CA is its own, so no server lets it in even now: only the separate CAs see to that.
    assert details(checks, "handshake", source="worker-1/kubelet") == ""
    assert "IP address mismatch" in details(checks, "handshake", target="worker-1/kubelet")
    assert ("cp-1/kube-apiserver", "refuse", "accept") in {(each.source, each.expect, each.got) for each in live}
    assert "cp-1/etcd-peer: the server refuses: unable to get local issuer" in details(checks, "handshake")
    assert "the server refuses: certificate has expired" in details(checks, "handshake", source="cp-1/kube-controller")
    assert "key values mismatch" in details(checks, "handshake", source="cp-1/kube-scheduler")
    without = [each for each in live if each.target == "cp-1/etcd-server"]
    assert {each.got for each in without if each.name.endswith("as cp-1")} == {"refuse"}


def test_a_mode_the_nodes_agent_was_told_is_no_fault(files: HandmadeFiles) -> None:
    for name in ("kubelet.key", "kubelet.pem"):
        (files.pki("worker-1") / name).chmod(0o640)
    found = [
        replace(holder, modes={"kubelet": 0o640}) if holder.name == "worker-1" else holder
        for holder in folders.find_holders(files.cluster, files.folder)
    ]
    assert failed(verify(found, now=NOW)) == []


def test_links_within_the_folder_are_followed(files: HandmadeFiles) -> None:
    """As those of the store are, and a folder that is named by a link."""
    pki = files.pki("worker-1")
    (pki / "inner").mkdir()
    for path in [path for path in pki.iterdir() if path.is_file()]:
        path.rename(pki / "inner" / path.name)
        path.symlink_to(f"inner/{path.name}")
    named = files.folder / "worker-1"
    named.symlink_to(pki)
    found = folders.find_holders(files.cluster, named)
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


def test_expired_and_not_yet_valid_are_found_at_the_time_asked_for(template: HandmadeFiles) -> None:
    node = [holder for holder in folders.find_holders(template.cluster, template.folder) if holder.name == "worker-1"]
    for now, by_file, by_chain in (
        (NOW + LIFE[1] + timedelta(hours=1), "has expired", "certificate has expired"),
        (NOW - timedelta(minutes=30), "is not valid yet", "certificate is not yet valid"),
    ):
        checks = verify(node, now=now)
        assert f"kubelet.crt: {by_file}" in details(checks, "file")
        assert by_chain in details(checks, "chain", source="worker-1/kubelet")


def test_a_ca_too_many_in_a_bundle_is_found_by_whom_it_lets_in(files: HandmadeFiles) -> None:
    own, issuing = files.issuing["etcd"].pem, files.issuing
    # The kubelet CA's leaves are for servers only, so it is the chain that tells.
    put(files.pki("worker-1") / "etcd-ca.crt", own + issuing["kubelet"].pem, 0o644)
    put(files.pki("cp-1") / "etcd-ca.crt", own + issuing["kubernetes"].pem, 0o644)
    wrong = failed(files.verify())
    assert ("worker-1/kubelet", "etcd-ca.crt", "accept") in {(e.source, e.target, e.got) for e in wrong}
    assert ("cp-1/kube-scheduler", "cp-1/etcd-server") in {(e.source, e.target) for e in wrong}
    put(files.pki("cp-1") / "etcd-ca.crt", own + files.root.pem, 0o644)
    checks = files.verify()
    assert "etcd-ca.crt: holds the root CA" in details(checks, "file")
    # And what that does: a kubelet's own certificate opens etcd's data.
    let_in = {(each.source, each.got) for each in failed(checks) if each.kind == "handshake" and "etcd" in each.target}
    assert ("worker-1/kubelet-client", "accept") in let_in


def test_a_node_with_another_root_is_found(files: HandmadeFiles, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = made(tmp_path / "other")
    shutil.rmtree(files.pki("w-7"))
    shutil.copytree(other.pki("w-7"), files.pki("w-7"))
    checks = files.verify()
    assert "has another root CA than" in details(checks, "chain", source="w-7")
    assert "cp-1/kube-apiserver: " in details(checks, "handshake", source="w-7/kubelet-client")


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
    found = folders.find_holders(template.cluster, template.folder / path)
    assert [holder.name for holder in found] == names


def test_a_folder_of_another_name_is_known_by_what_lies_in_it(files: HandmadeFiles, tmp_path: Path) -> None:
    for node in ("cp-1", "worker-1", "w-7"):
        moved = tmp_path / f"moved-{node}"
        files.pki(node).rename(moved)
        (holder,) = folders.find_holders(files.cluster, moved)
        assert holder.name == node
        assert failed(verify([holder], now=NOW)) == []


def test_folders_that_are_nobodys(files: HandmadeFiles, tmp_path: Path) -> None:
    many, stranger = tmp_path / "many", tmp_path / "strangers" / "stranger"
    many.mkdir()
    for number in range(folders.MOST_ENTRIES + 1):
        (many / str(number)).touch()
    stranger.mkdir(parents=True)
    shutil.copy(files.pki("cp-1") / "kube-scheduler.crt", stranger)
    (tmp_path / "empty").mkdir()
    for folder, error, said in (
        (tmp_path / "empty", ArgumentError, "holds no certificate files of prod"),
        (tmp_path / "nothing", ArgumentError, "No such file"),
        (many, ArgumentError, "holds more than 10000 entries: name one node's folder with --dir"),
        (stranger.parent, SpecError, "belongs to no node of prod"),
    ):
        with pytest.raises(error, match=said):
            folders.find_holders(files.cluster, folder)


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
