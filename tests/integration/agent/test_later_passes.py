"""What changes on a node with time: damaged files, a changed cluster.yaml, the node's options, a Vault that is away."""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

import pytest

from helpers.node.passes import held, pair, passed, whole
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.certificates import pair_files
from vaultpki.pki import x509

NODES = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: etcd-1, roles: [etcd], addresses: [10.0.0.31]}
"""
OWN = """\
  scraper: {kind: client, common_name: scraper, ca: kubernetes, roles: [worker], kubeconfig: scraper.conf}
"""


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(NODES)


@pytest.fixture(scope="module")
def changing(shared_clusters: ClusterFactory) -> AppliedCluster:
    """One whose cluster.yaml each test writes."""
    return shared_clusters.applied(NODES)


@pytest.fixture
def fresh(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    return cluster.equip("worker-1", folder=tmp_path / "worker-1")


@pytest.fixture
def worker(fresh: NodeFolder) -> NodeFolder:
    assert not passed(fresh).failures
    return fresh


def rewrite(path: Path, data: bytes) -> None:
    """In place, behind the agent's back: the file keeps its inode, and the link its target."""
    with path.open("r+b") as file:
        file.truncate()
        file.write(data)


def files(node: NodeFolder) -> dict[str, tuple[int, int, int, bytes]]:
    return {name: about for name, about in node.snapshot().items() if name.startswith("pki")}


@pytest.mark.on_node
def test_one_run_mends_what_was_removed_garbled_torn_or_swapped(
    cluster: AppliedCluster, worker: NodeFolder, tmp_path: Path
) -> None:
    etcd = cluster.equip("etcd-1", folder=tmp_path / "etcd-1")
    passed(etcd)
    untouched = pair(etcd, "etcd-peer")
    foreign = pair(etcd, "etcd-healthcheck-client")
    stems = {node: [path.stem for path in node.pki.glob("*.key")] for node in (worker, etcd)}
    before = {(node.name, stem): pair(node, stem) for node in stems for stem in stems[node]}
    (worker.pki / "kubelet.key").unlink()
    rewrite(worker.pki / "kubelet-client.crt", before["worker-1", "kubelet-client"][0][:300])
    rewrite(worker.pki / "kube-proxy.key", foreign[1])
    os.truncate(etcd.pki / "etcdserver.pem", 0)
    rewrite(etcd.pki / "etcd-healthcheck-client.crt", b"\0" * 512)
    # Bundles and kubeconfigs too; no certificate is asked for because of them.
    (worker.pki / "kubelet.conf").unlink()
    rewrite(worker.pki / "kubernetes-ca.crt", b"")
    bundle = (etcd.pki / "kubernetes-ca.crt").read_bytes()
    for node in (worker, etcd):
        passed(node, asks=False)
    for node, names in stems.items():
        for stem in names:
            assert whole(node, stem), stem
            crt, key, _ = pair(node, stem)
            old_crt, old_key, _ = before[node.name, stem]
            assert (node, stem) == (etcd, "etcd-peer") or (crt != old_crt and key != old_key), stem
    assert pair(etcd, "etcd-peer") == untouched
    assert (worker.pki / "kubernetes-ca.crt").read_bytes() == bundle
    assert (worker.pki / "kubelet.conf").read_bytes()
    for node in (worker, etcd):
        done = passed(node, asks=False)
        assert done.renewed == () and "bundles" not in {event.name for event in done.events} and not done.failures


def test_an_issuer_that_is_none_of_the_roots_is_named_and_stops_nobody(
    cluster: AppliedCluster, worker: NodeFolder, tmp_path: Path
) -> None:
    api, bundle = cluster.server.api, held(worker, "etcd-ca.crt")
    body = {"common_name": "foreign", "issuer_name": "foreign"}
    made = api("POST", f"{cluster.prefix}/etcd/root/generate/internal", body)
    assert made.status == 200, made
    text = "CN=foreign on the mount of etcd is not trusted: it was not signed by the cluster's root CA; find out"
    try:
        worker.age()
        assert text in worker.run().stderr
        assert held(worker, "etcd-ca.crt") == bundle
        # And a node that has nothing yet gets all of its own.
        other = cluster.equip("etcd-1", folder=tmp_path / "etcd-1")
        done = passed(other)
        assert not done.failures and "etcd-server" in done.renewed
        assert held(other, "etcd-ca.crt") == bundle
    finally:
        assert api("DELETE", f"{cluster.prefix}/etcd/issuer/foreign").status in (200, 204)


@pytest.mark.on_node
def test_a_whole_process_waits_for_watchers_and_leaves_no_old_generation(worker: NodeFolder) -> None:
    (worker.pki / "kubelet.crt").unlink()
    began = time.monotonic()
    ran = worker.run()
    assert ran.stdout == "issued kubelet\n"
    assert ran.stderr.endswith("find out who has changed it\n") and ran.stderr.count("\n") == 1, ran.stderr
    assert time.monotonic() - began > 4
    folders = (path for path in (worker.pki / ".vaultpki").iterdir() if path.is_dir() and not path.is_symlink())
    generations = sorted(path.name.partition(".")[0] for path in folders)
    assert generations == ["bundles", "kube-proxy", "kubelet", "kubelet-client"]


@pytest.mark.on_node
def test_modes_are_mended_without_a_new_certificate(cluster: AppliedCluster, worker: NodeFolder) -> None:
    before = pair(worker, "kubelet")
    (worker.pki / "kubelet.key").chmod(0o400)
    (worker.pki / "kubelet.crt").chmod(0o600)
    (worker.pki / "kubelet.conf").chmod(0o666)
    since = cluster.server.audit_position()
    ran = worker.run()
    # test_open_writers.py has more of it.
    assert "another user owned or could write to kubelet.conf; written anew, as another file" in ran.stderr
    assert cluster.server.requests(since) == []
    assert pair(worker, "kubelet") == before
    found = [(worker.pki / name).stat().st_mode & 0o777 for name in ("kubelet.key", "kubelet.crt", "kubelet.conf")]
    assert found == [0o600, 0o644, 0o600]


@pytest.mark.on_node
def test_owner_and_mode_of_agent_yaml(fresh: NodeFolder) -> None:
    text = fresh.config.read_text()
    fresh.config.write_text(f"{text}owner: nobody-here:nobody-here\n")
    ran = fresh.run(expect=1)
    assert ran.stderr.count("\n") == 1 and "nobody-here" in ran.stderr and "Traceback" not in ran.stderr
    further = 'owner: "65534:65534"\ncertificates: {kubelet: {owner: "0:65534", mode: "0640"}}\n'
    fresh.config.write_text(text + further)
    if os.geteuid() != 0:
        # Only root gives files away.
        assert "run as root, or take `owner` out of agent.yaml" in fresh.run(expect=1).stderr
        return
    passed(fresh)
    found = {path.name: path.stat() for path in fresh.pki.iterdir() if path.is_file()}
    assert {name: (about.st_uid, about.st_gid) for name, about in found.items()} == {
        name: (0, 65534) if name in pair_files("kubelet") else (65534, 65534) for name in found
    }
    modes = {name: about.st_mode & 0o777 for name, about in found.items()}
    assert [modes[name] for name in pair_files("kubelet")] == [0o644, 0o640, 0o640]
    assert [modes[name] for name in pair_files("kube-proxy")] == [0o644, 0o600, 0o600]
    fresh.configure("65534:65534", "0:0")
    before = {path.name: path.stat().st_ino for path in fresh.pki.iterdir() if path.is_file()}
    done = passed(fresh, asks=False)
    # The owner of before knows the keys that were its own, and may have its files open.
    assert sorted(done.renewed) == ["kube-proxy", "kubelet-client"] and not done.failures
    assert {path.stat().st_uid for path in fresh.pki.iterdir()} == {0}
    after = {path.name: path.stat().st_ino for path in fresh.pki.iterdir() if path.is_file()}
    assert {name for name in before if before[name] == after[name]} == set(pair_files("kubelet"))


@pytest.mark.on_node
def test_a_changed_spec_reaches_the_node_once_its_copy_is_old(changing: AppliedCluster, tmp_path: Path) -> None:
    worker = changing.equip("worker-1", folder=tmp_path / "worker-1")
    passed(worker)
    changing.write(NODES + "certificates:\n  kubelet: {ttl: 7d, extra_names: [kubelet.example.com]}\n" + OWN)
    changing.apply()
    untouched, before = pair(worker, "kubelet-client"), pair(worker, "kubelet")
    assert passed(worker, asks=False).renewed == ()
    assert sorted(passed(worker).renewed) == ["kubelet", "scraper"]
    leaf = x509.read_certificates(pair(worker, "kubelet")[0])[0]
    assert sorted(leaf.subject.dns) == ["kubelet.example.com", "worker-1"]
    assert 6.9 < (leaf.not_after - leaf.not_before).days + 1 <= 8
    assert pair(worker, "kubelet")[1] != before[1] and pair(worker, "kubelet-client") == untouched
    assert (worker.pki / "scraper.conf").exists() and whole(worker, "scraper")
    # Other names and another TTL again: one new pair; what the spec has no more goes once somebody says so.
    changing.write(NODES)
    changing.apply()
    assert passed(worker).renewed == ("kubelet",) and whole(worker, "scraper")
    vaultpki("agent", "-c", worker.config, "--once", "--prune")
    left = sorted(path.name for path in worker.pki.rglob("*scraper*") if "generation" not in path.name)
    assert [name for name in left if (worker.pki / name).exists()] == []
    assert not [path for path in worker.pki.iterdir() if path.name.startswith("scraper")]
    passed(worker, asks=False)
    assert not [path for path in worker.pki.rglob("*") if path.name.startswith("scraper")]
    # Another name of a file, and another type of key.
    changing.write(NODES + "certificates:\n  kubelet: {file: serving}\n  kube-proxy: {key: ec-p384}\n")
    changing.apply()
    assert sorted(passed(worker).renewed) == ["kube-proxy", "kubelet"]
    assert sorted(path.name for path in worker.pki.glob("serving*")) == ["serving.crt", "serving.key", "serving.pem"]
    vaultpki("agent", "-c", worker.config, "--once", "--prune")
    assert not list(worker.pki.glob("kubelet.[ckp][re][tym]"))
    assert whole(worker, "serving") and whole(worker, "kube-proxy")
    leaf = x509.read_certificates(pair(worker, "kube-proxy")[0])[0]
    assert leaf.key is not None and leaf.key.value == "ec-p384"


@pytest.mark.on_node
def test_a_template_is_refused_or_copied_and_warned_of(changing: AppliedCluster, tmp_path: Path) -> None:
    """tests/unit/config has all that is refused."""
    template = changing.folder / "extra.tmpl"
    changing.write(f"{NODES}templates:\n  extra: {{file: extra.conf, template: extra.tmpl, roles: [worker]}}\n")
    template.write_text("line one\n${node.upper()}")
    since = changing.server.audit_position()
    ran = vaultpki("apply", "-f", changing.file, "--yes", env=changing.environment(), expect=1)
    assert changing.server.writes(since) == []
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith(f"vaultpki: {changing.file}:"), ran.stderr
    assert all(word in ran.stderr for word in ("extra", "line 2", "${node.upper()}")), ran.stderr
    # Another program's is copied.
    template.write_text("a $node\n{{ node }}\n")
    for ran in (vaultpki("plan", "-f", changing.file, env=changing.environment("viewer")), changing.apply()):
        assert ran.stderr.count("\n") == 1, ran.stderr
        assert ran.stderr.startswith(f"vaultpki: warning: {changing.file}: templates.extra.template: line 2 ")
    worker = changing.equip("worker-1", folder=tmp_path / "worker-1")
    passed(worker)
    assert (worker.pki / "extra.conf").read_text() == "a worker-1\n{{ node }}\n"


@pytest.mark.on_node
def test_who_can_write_the_records_bends_no_file(cluster: AppliedCluster, worker: NodeFolder) -> None:
    """Neither outside the directory, nor over a pair, a bundle or another's certificate; unit/records has every way."""
    before = files(worker)
    bent: dict[str, list[dict[str, object]]] = {
        "cluster": [{"file": file} for file in ("../escaped", "kubelet.key", "x.key")],
        "nodes/worker-1": [{"file": "etcd-ca"}, {"organization": ["system:masters"]}],
    }
    for kind, changes in bent.items():
        path = f"{cluster.prefix}/config/data/{kind}"
        record = cluster.read(path)["data"]
        try:
            for change in changes:
                if kind == "cluster":
                    bad = {**record, "templates": {"bad": {**change, "text": "x", "roles": ["worker"]}}}
                else:
                    first, *others = record["certificates"]
                    bad = {**record, "certificates": [{**first, **change}, *others]}
                assert cluster.server.api("POST", path, {"data": bad}).status == 200
                worker.age()
                ran = worker.run(expect=1)
                # A name that no record has is refused with the record; a template that goes too far fails by itself.
                lines = ran.stderr.splitlines()
                assert len(lines) <= 3 and "Traceback" not in ran.stderr, ran.stderr
                assert "bad" in lines[0] or "contains a value that vaultpki does not write" in lines[0], ran.stderr
                assert "the first certificate here ends" in lines[-1] and files(worker) == before, (change, ran.stderr)
        finally:
            assert cluster.server.api("POST", path, {"data": record}).status == 200


@pytest.mark.on_node
def test_vault_away(cluster: AppliedCluster, worker: NodeFolder, tmp_path: Path) -> None:
    """Files stay; the exit code is 1, and a sentence says when the first certificate ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    worker.configure(cluster.server.address, f"https://127.0.0.1:{port}")
    before = worker.snapshot(memory=False)
    ran = worker.run()
    assert ran.stdout.startswith("nothing to do until"), "a fresh copy needs no Vault"
    assert worker.snapshot(memory=False) == before
    worker.age()
    (worker.pki / "kube-proxy.crt").unlink()
    before = worker.snapshot(memory=False)
    ran = worker.run(expect=1)
    lines = ran.stderr.splitlines()
    assert len(lines) == 2 and "kube-proxy" in lines[0] and str(port) in lines[0], ran.stderr
    ends = min(x509.read_certificates(pair(worker, stem)[0])[0].not_after for stem in ("kubelet", "kubelet-client"))
    assert lines[1] == f"vaultpki: the first certificate here ends at {ends:%Y-%m-%dT%H:%M:%SZ}"
    after = worker.snapshot(memory=False)
    assert {k: v for k, v in after.items() if v[0] != 0} == before
    # The server is back: one run, and all is well.
    worker.configure(f"https://127.0.0.1:{port}", cluster.server.address)
    assert passed(worker, asks=False).renewed == ("kube-proxy",)
    # A first run has nothing.
    first = cluster.equip("worker-1", folder=tmp_path / "first")
    first.configure(cluster.server.address, "https://127.0.0.1:1")
    ran = first.run(expect=1)
    assert ran.stderr.count("\n") == 1 and "127.0.0.1:1" in ran.stderr
    assert [path.name for path in first.pki.iterdir()] == [".vaultpki"]


@pytest.mark.on_node
def test_another_root_than_the_pinned(cluster: AppliedCluster, worker: NodeFolder, tmp_path: Path) -> None:
    pinned = cluster.root_sha256
    worker.configure(pinned, "f" * 64)
    for aged in (False, True):
        if aged:
            worker.age()
        before = worker.snapshot(memory=False)
        ran = worker.run(expect=1)
        assert ran.stderr.count("\n") == 1 and pinned in ran.stderr and "f" * 64 in ran.stderr, ran.stderr
        assert worker.snapshot(memory=False) == before
    fresh = cluster.equip("etcd-1", folder=tmp_path / "etcd-1")
    fresh.configure(pinned, secrets.token_hex(32))
    assert "pinned" in fresh.run(expect=1).stderr
    assert [path.name for path in fresh.pki.iterdir()] == [".vaultpki"]
    assert sorted(path.name for path in fresh.state.iterdir()) == ["agent.json", "secret-id"]


def test_a_secret_id_that_is_none(fresh: NodeFolder) -> None:
    file = fresh.state / "secret-id"
    secret = file.read_text()
    file.write_text("11111111-2222-3333-4444-555555555555")
    for _ in range(2):
        ran = fresh.run(expect=1)
        assert ran.stderr.count("\n") == 1 and "Traceback" not in ran.stderr and secret not in ran.stderr, ran.stderr
        assert not list(fresh.pki.glob("*.crt"))
        file.unlink(missing_ok=True)


def test_bundles_come_before_the_leaves_that_need_them(cluster: AppliedCluster, fresh: NodeFolder) -> None:
    """Where every signing is refused, the new trust lies there all the same, and each failure has its sentence."""
    policy = f"sys/policies/acl/{cluster.prefix}/node/worker-1"
    old = cluster.read(policy)["policy"]
    assert cluster.server.api("PUT", policy, {"policy": old.replace("/sign/", "/sing/")}).status in (200, 204)
    try:
        ran = fresh.run(expect=1)
    finally:
        assert cluster.server.api("PUT", policy, {"policy": old}).status in (200, 204)
    lines = ran.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["kube-proxy", "kubelet-client", "kubelet"], ran.stderr
    assert len(list(fresh.pki.glob("*-ca*.crt"))) == 8
    assert not list(fresh.pki.glob("*.key"))
    assert len(passed(fresh).renewed) == 3
