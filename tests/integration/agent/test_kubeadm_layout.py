"""Nodes in kubeadm's layout: every file has kubeadm's name, in the folder that its reader mounts."""

from __future__ import annotations

import json
import re
import shutil
import stat
from base64 import b64decode
from pathlib import Path

import pytest
import yaml

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.node.passes import passed, passed_well
from helpers.node.resident_agent import AT_ONCE, PASS, POLL, resident
from helpers.vault.applied_cluster import ONE_WORKER, AppliedCluster, NodeFolder, Ran, second_issuer, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import as_applied
from helpers.vault.servers import Server, wait_for
from vaultpki.pki import x509

pytestmark = pytest.mark.on_node

SPEC = """\
layout: kubeadm
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, worker], addresses: [10.0.0.12]}
- {name: etcd-1, roles: [etcd], addresses: [10.0.0.13]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
certificates:
  scraper:
    kind: client
    common_name: "scraper:{node}"
    ca: kubernetes
    roles: [control-plane]
    kubeconfig: scraper.conf
templates:
  motd: {file: motd.txt, template: motd.tmpl, roles: [control-plane]}
"""

KUBERNETES = {"ca.crt", "ca-chain.crt", "kubelet-ca.crt", "kubelet-ca-chain.crt"}
BUNDLES = KUBERNETES | {"front-proxy-ca.crt", "front-proxy-ca-chain.crt"}
CONTROL_PLANE = ("apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-client")
ETCD_BUNDLES = {"ca.crt", "ca-chain.crt"}


def files(*stems: str) -> set[str]:
    return {f"{stem}.{ending}" for stem in stems for ending in ("crt", "key", "pem")}


PKI_CP = BUNDLES | files(*CONTROL_PLANE, "controller-manager", "scraper") | {"scraper.conf", "motd.txt"}
ETCD_MEMBER = ETCD_BUNDLES | files("server", "peer", "healthcheck-client")
SCHEDULER = {"ca.crt"} | files("scheduler")
KUBELET = files("kubelet", "kubelet-client")
CP_CONFS = {"kubelet.conf", "controller-manager.conf", "scheduler.conf"}


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC, {"motd.tmpl": "node ${node} in ${directory}\n"})


def equip(cluster: AppliedCluster, node: str, folder: Path, *, pool: str | None = None) -> NodeFolder:
    """A node whose kubelet's folder is beside pki; kubeconfigs lie above it."""
    further = f"layout: kubeadm\nfolders: {{kubelet: {folder}/kubelet}}\n"
    return cluster.equip(node, pool=pool, folder=folder, further=further)


def join(node: NodeFolder, file: Path, *more: str, expect: int = 0) -> Ran:
    arguments = [*enrolled_nodes.joining(node, file), "--kubelet-dir", node.folder / "kubelet", *more]
    return vaultpki(*arguments, expect=expect)


def names(folder: Path) -> set[str]:
    """What a reader finds in a folder."""
    if not folder.exists():
        return set()
    return {path.name for path in folder.iterdir() if path.name != ".vaultpki" and not path.is_dir()}


def folders(node: NodeFolder) -> dict[str, set[str]]:
    inner = {"pki": node.pki, "etcd": node.pki / "etcd", "scheduler": node.pki / "scheduler"}
    found = {name: names(path) for name, path in {**inner, "kubelet": node.folder / "kubelet"}.items()}
    return {name: held for name, held in found.items() if held} | {"above": names(node.folder) - {"agent.yaml"}}


EXPECTED: dict[str, dict[str, set[str]]] = {
    "cp-1": {"pki": PKI_CP, "etcd": ETCD_MEMBER, "scheduler": SCHEDULER, "kubelet": KUBELET, "above": CP_CONFS},
    "cp-2": {"pki": PKI_CP, "etcd": ETCD_BUNDLES, "scheduler": SCHEDULER, "kubelet": KUBELET, "above": CP_CONFS},
    "etcd-1": {"pki": BUNDLES, "etcd": ETCD_MEMBER, "above": set()},
    "w-1": {"pki": BUNDLES, "kubelet": KUBELET, "above": {"kubelet.conf"}},
}


@pytest.fixture(scope="module")
def nodes(cluster: AppliedCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NodeFolder]:
    """One of each, which tests leave as they are."""
    top = tmp_path_factory.mktemp("nodes")
    made = {name: equip(cluster, name, top / name, pool="autoscaled" if name == "w-1" else None) for name in EXPECTED}
    passed_well(*made.values())
    return made


def test_each_node_has_kubeadms_files(cluster: AppliedCluster, nodes: dict[str, NodeFolder]) -> None:
    for name, node in nodes.items():
        assert folders(node) == EXPECTED[name]
        for path in node.folder.rglob("*"):
            if path.is_symlink():
                # A static pod that mounts one folder sees no other: no link may lead out of it.
                hidden = path.parent if path.parent.name == ".vaultpki" else path.parent / ".vaultpki"
                assert hidden in path.resolve().parents, path
        assert not any(path.is_symlink() for path in node.folder.glob("*.conf"))
        before = node.snapshot()
        assert "nothing to do until" in node.run().stdout
        assert node.snapshot() == before
    # Templates know the folder.
    pki = nodes["cp-1"].pki
    assert (pki / "motd.txt").read_text() == f"node cp-1 in {pki}\n"


def test_kubeconfigs_name_files_that_their_readers_see(cluster: AppliedCluster, nodes: dict[str, NodeFolder]) -> None:
    node = nodes["cp-1"]
    kubelet = node.folder / "kubelet"
    for name, folder, stem, ca in (
        ("kubelet.conf", kubelet, "kubelet-client", node.pki),
        ("controller-manager.conf", node.pki, "controller-manager", node.pki),
        ("scheduler.conf", node.pki / "scheduler", "scheduler", node.pki / "scheduler"),
    ):
        file = node.folder / name
        assert stat.S_ISREG(file.lstat().st_mode) and file.stat().st_mode & 0o7777 == 0o600
        config = yaml.safe_load(file.read_text())
        user, entry = config["users"][0]["user"], config["clusters"][0]["cluster"]
        assert user == {"client-certificate": f"{folder}/{stem}.crt", "client-key": f"{folder}/{stem}.key"}
        # Its own kube-apiserver, as kubeadm has it: `kubeadm upgrade` would change any other one.
        assert entry == {"server": "https://10.0.0.11:6443", "certificate-authority": f"{ca}/ca.crt"}
    for bundle, of in (("ca.crt", "kubernetes"), ("scheduler/ca.crt", "kubernetes"), ("etcd/ca.crt", "etcd")):
        (issuing,) = x509.read_certificates((node.pki / bundle).read_bytes())
        assert issuing.subject.common_name == f"{cluster.name} {of} CA"
    (entry,) = yaml.safe_load((nodes["w-1"].folder / "kubelet.conf").read_text())["clusters"]
    assert entry["cluster"]["server"] == "https://api.example.com:6443"


STATIC_PODS = ("--hooks", "static-pods")
MANAGER = [{"static_pod": "kube-controller-manager"}]
CLIENTS = [{"static_pod": "kube-scheduler"}, *MANAGER]


def test_a_join_writes_the_layout_and_its_folders(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    enrolled_nodes.vacate(cluster, "cp-2")
    file = applier.join_file("cp-2", tmp_path / "join.json")
    held = json.loads(file.read_text())
    # An agent that knows no layouts refuses the version with what to do.
    assert (held["version"], held["layout"]) == (2, "kubeadm")
    node = NodeFolder("cp-2", tmp_path / "node")
    join(node, file)
    written = yaml.safe_load(node.config.read_text())
    assert written["layout"] == "kubeadm" and written["version"] == 1
    assert written["folders"] == {"kubelet": str(node.folder / "kubelet"), "kubeconfigs": str(node.folder)}
    assert folders(node)["kubelet"] == KUBELET and "hooks" not in written
    # Repeated, it writes the hooks too.
    join(node, file, *STATIC_PODS)
    expected = {"kubernetes-ca": MANAGER, "etcd-ca": [{"static_pod": "kube-apiserver"}], "kubeconfigs": CLIENTS}
    assert yaml.safe_load(node.config.read_text())["hooks"] == expected


def test_a_join_writes_the_hooks_of_static_pods(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    """Before kubeadm has made the pods, so that nothing is restarted by the first pass. The owner's hooks stay."""
    enrolled_nodes.vacate(cluster, "cp-1")
    node = NodeFolder("cp-1", tmp_path / "node")
    ran = join(node, applier.join_file("cp-1", tmp_path / "join.json"), *STATIC_PODS)
    assert ran.stdout.splitlines()[1:3] == [
        "when kubernetes-ca changes, a hook restarts the static pod kube-controller-manager and waits up to 4m for it",
        "when etcd-ca changes, hooks restart the static pods etcd and kube-apiserver and wait up to 4m for each",
    ]
    assert ran.stderr == ""
    both = [{"static_pod": "etcd"}, {"static_pod": "kube-apiserver"}]
    written = yaml.safe_load(node.config.read_text())
    expected = {"kubernetes-ca": MANAGER, "etcd-ca": both, "kubeconfigs": CLIENTS}
    assert (written["hooks"], written["hook_timeout"]) == (expected, "4m")
    own = 'etcd-ca:\n  - ["true"]\n'
    node.config.write_text(re.sub(r"etcd-ca:\n(  - .*\n)*", own, node.config.read_text()))
    own_hooks = yaml.safe_load(node.config.read_text())["hooks"]
    assert own_hooks["etcd-ca"] == [["true"]]
    ran = join(node, applier.join_file("cp-1", tmp_path / "again.json", replace=True), *STATIC_PODS)
    assert "agent.yaml has hooks of etcd-ca already; they stay\n" in ran.stdout
    assert yaml.safe_load(node.config.read_text())["hooks"] == own_hooks


def test_a_worker_needs_no_hooks(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    enrolled_nodes.vacate(cluster, "w-7")
    node = NodeFolder("w-7", tmp_path / "node")
    ran = join(node, applier.join_file("w-7", tmp_path / "join.json", pool="autoscaled"), *STATIC_PODS)
    assert (
        "this node gets no hooks: it has no static pod that reads a CA or a server only when it starts\n" in ran.stdout
    )
    written = yaml.safe_load(node.config.read_text())
    assert "hooks" not in written and written["hook_timeout"] == "1m"


def test_records_of_another_layout_change_nothing(cluster: AppliedCluster, tmp_path: Path) -> None:
    for kind in ("nodes/cp-2", "cluster"):
        record = cluster.read(f"{cluster.prefix}/config/data/{kind}")["data"]
        assert (record["version"], record["layout"]) == (2, "kubeadm")
    node = cluster.equip("cp-2", folder=tmp_path / "cp-2")
    ran = node.run(expect=1)
    assert "is for the layout kubeadm, and agent.yaml says document" in ran.stderr
    assert not names(node.pki)


def reset(node: NodeFolder) -> None:
    """What `kubeadm reset` removes (kubernetes cmd/kubeadm/app/cmd/phases/reset/cleanupnode.go)."""
    for path in node.folder.glob("*.conf"):
        path.unlink()
    for path in node.pki.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(node.folder / "kubelet")


def test_after_kubeadm_reset_a_plain_run_restores_everything(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = equip(cluster, "cp-1", tmp_path / "cp-1")
    passed(node)
    before = folders(node)
    reset(node)
    passed(node, asks=False)
    assert folders(node) == before


def test_a_resident_agent_restores_everything_after_kubeadm_reset(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = equip(cluster, "cp-1", tmp_path / "cp-1")
    with node.config.open("a") as file:
        file.write(f"poll: {POLL}s\n")
    with resident(node, log=tmp_path / "log") as agent:
        agent.await_issued()
        wait_for(lambda: names(node.folder) >= CP_CONFS, PASS, str)
        before = folders(node)
        reset(node)
        assert folders(node) == {"above": set()}
        wait_for(lambda: folders(node) == before, POLL + PASS, lambda: str(folders(node)))
        assert agent.end() < AT_ONCE


THEIRS = (
    *("pki/ca.key", "pki/ca.crt", "pki/apiserver.crt", "pki/etcd/ca.key", "pki/etcd/server.key"),
    *("kubelet.conf", "scheduler.conf", "kubelet/kubelet.crt", "kubelet/kubelet-client-current.pem"),
)


def test_a_cluster_of_kubeadms_own_is_refused_before_anything_is_used(
    cluster: AppliedCluster, applier: Enroller, tmp_path: Path
) -> None:
    enrolled_nodes.vacate(cluster, "cp-2")
    file = applier.join_file("cp-2", tmp_path / "join.json")
    node = NodeFolder("cp-2", tmp_path / "node")
    for path in THEIRS:
        mine = node.folder / path
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("theirs\n")
        before = node.snapshot()
        ran = join(node, file, expect=1)
        assert f"{mine}: it was made by kubeadm or a kubelet, and the join file does not know the CA" in ran.stderr
        assert node.snapshot() == before
        mine.unlink()
    for name in ("sa.key", "sa.pub"):
        (node.pki / name).write_text("kubeadm's own\n")
    join(node, file)
    assert (node.pki / "sa.key").read_text() == "kubeadm's own\n" and folders(node)["etcd"] == ETCD_BUNDLES


def test_a_first_pass_refuses_it_too(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = equip(cluster, "cp-1", tmp_path / "cp-1")
    node.pki.mkdir()
    (node.pki / "ca.key").write_text("theirs\n")
    ran = node.run(expect=1)
    assert "the join file does not know the CA of their cluster" in ran.stderr
    assert [path.name for path in node.pki.iterdir()] == ["ca.key"]


PLAIN = re.sub(r"certificates:(.|\n)*", "", SPEC)


@pytest.fixture(scope="module")
def plain(shared_clusters: ClusterFactory) -> AppliedCluster:
    """A cluster without certificates of its own, which tests put back."""
    return shared_clusters.applied(PLAIN)


def test_a_kubeconfig_that_a_pod_mounts_is_never_replaced(plain: AppliedCluster, tmp_path: Path) -> None:
    cluster = plain
    node = equip(cluster, "cp-1", tmp_path / "cp-1")
    passed(node)
    before = {name: (node.folder / name).stat().st_ino for name in CP_CONFS}
    cluster.write(PLAIN.replace("10.0.0.11", "10.0.0.99"))
    cluster.apply()
    node.age(100_000)
    ran = node.run()
    assert ran.stderr.count("it is outdated and stays, because a static pod mounts this very file") == 2, ran
    assert "restart the static pod kube-scheduler" in ran.stderr
    after = {name: (node.folder / name).stat().st_ino for name in CP_CONFS}
    assert {name for name in CP_CONFS if after[name] != before[name]} == {"kubelet.conf"}
    assert 'server: "https://10.0.0.99:6443"' in (node.folder / "kubelet.conf").read_text()
    shown = vaultpki("status", "-c", node.config, "--offline", "--json", expect=3)
    reasons = {each["name"]: each["reasons"] for each in json.loads(shown.stdout)["certificates"]}
    odd = {name: why for name, why in reasons.items() if why}
    assert odd == {
        "kube-scheduler": ["kubeconfig-outdated"],
        "kube-controller-manager": ["kubeconfig-outdated"],
    }
    # The remedy of the warning.
    (node.folder / "scheduler.conf").unlink()
    ran = node.run()
    assert ran.stderr.count("it is outdated") == 1 and "10.0.0.99" in (node.folder / "scheduler.conf").read_text()
    cluster.write(PLAIN)
    cluster.apply()


def test_the_signer_of_the_leaves_is_first(plain: AppliedCluster, tmp_path: Path) -> None:
    """kubeadm looks at the first certificate of ca.crt alone; a change of the order alone runs no hook."""
    cluster = plain
    node = equip(cluster, "cp-1", tmp_path / "cp-1")
    with node.config.open("a") as file:
        file.write(f"hooks: {{kubernetes-ca: [[sh, -c, 'echo ran >> {tmp_path}/ran']]}}\n")

    def cas() -> list[list[str]]:
        """What both bundles hold, and who signed the leaves that lie beside them."""
        read = [(node.pki / name).read_bytes() for name in ("ca.crt", "scheduler/ca.crt")]
        signers = [(node.pki / name).read_bytes() for name in ("apiserver.crt", "scheduler/scheduler.crt")]
        found = [[facts.fingerprint for facts in x509.read_certificates(pem)] for pem in (*read, *signers)]
        return [found[0], found[1], found[2][1:], found[3][1:]]

    passed(node)
    (old,) = cas()[0]
    new = second_issuer(cluster)
    passed(node)
    assert cas() == [[old, new], [old, new], [old], [old]]
    count = (tmp_path / "ran").read_text().count("ran")
    assert count == 2
    vaultpki("renew", "-c", node.config, "--all")
    assert cas() == [[new, old], [new, old], [new], [new]]
    assert (tmp_path / "ran").read_text().count("ran") == count
    ran = vaultpki("verify", "-f", cluster.file, "--dir", node.pki, "--json")
    assert json.loads(ran.stdout)["ok"]
    # What kubeadm would reject is found.
    live = (node.pki / "ca.crt").resolve()
    one, two = (facts.pem for facts in x509.read_certificates(live.read_bytes()))
    live.write_text(two + one)
    ran = vaultpki("verify", "-f", cluster.file, "--dir", node.pki, "--json", expect=3)
    wrong = [check for check in json.loads(ran.stdout)["checks"] if not check["ok"]]
    assert [check["to"] for check in wrong] == ["ca.crt"] and "which kubeadm compares" in wrong[0]["detail"]
    assert as_applied(cluster, "kubernetes")


def test_another_layout_needs_every_node_to_join_anew(server: Server, tmp_path: Path, clusters: ClusterFactory) -> None:
    cluster = clusters.applied()
    node = cluster.equip("worker-1")
    passed(node)
    cluster.write("layout: kubeadm\n" + ONE_WORKER)
    for command in (["plan"], ["apply", "--yes"]):
        ran = vaultpki(*command, "-f", cluster.file, env=cluster.environment(), expect=1)
        assert "the nodes have the layout document, and a node gets its layout when it joins" in ran.stderr
        assert "End the credentials of worker-1 (`vaultpki lock`" in ran.stderr
    before = node.snapshot(memory=False)
    vaultpki("lock", "-f", cluster.file, "worker-1", env=cluster.environment("locker"))
    early = vaultpki(
        *("enroll", "-f", cluster.file, "worker-1", "--yes", "-o", tmp_path / "join.json"),
        env=cluster.environment(),
        expect=1,
    )
    assert "in Vault is for another layout; run `vaultpki apply" in early.stderr
    cluster.apply()
    # The node that still has the old layout keeps its files as they are.
    mount = f"auth/{cluster.prefix}/listed/role/worker-1"
    role_id = cluster.read(f"{mount}/role-id")["role_id"]
    node.config.write_text(re.sub("role_id: [^}]*", f"role_id: {role_id}", node.config.read_text()))
    minted = server.api("POST", f"{mount}/secret-id")
    (node.state / "secret-id").write_text(minted.data["secret_id"])
    node.age(100_000)
    ran = node.run(expect=1)
    assert "is for the layout kubeadm, and agent.yaml says document. A node gets its layout when it joins" in ran.stderr
    after = node.snapshot(memory=False)
    assert {name: held for name, held in after.items() if name.startswith("pki")} == {
        name: held for name, held in before.items() if name.startswith("pki")
    }
    # With a live credential the rollback is closed, too.
    cluster.write(ONE_WORKER)
    vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer"), expect=1)


def test_verify_proves_every_node_and_the_operator(plain: AppliedCluster) -> None:
    cluster = plain
    for node, pool in (("cp-1", None), ("cp-2", None), ("etcd-1", None), ("w-1", "autoscaled")):
        passed_well(equip(cluster, node, cluster.folder / "nodes" / node, pool=pool))
    operator = cluster.folder / "operator"
    for name in ("admin", "super-admin"):
        cluster.issue(name, operator)
        config = yaml.safe_load((operator / f"{name}.conf").read_text())
        held = config["users"][0]["user"]
        # As kubeadm writes it: whole in itself, so it can be copied to /etc/kubernetes.
        assert b64decode(held["client-key-data"]) == (operator / f"{name}.key").read_bytes()
        assert b64decode(held["client-certificate-data"]) == (operator / f"{name}.crt").read_bytes()
        cas = x509.read_certificates(b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]))
        first = x509.read_certificates((cluster.folder / "nodes" / "cp-1" / "pki" / "ca.crt").read_bytes())[0]
        assert cas[0] == first and (operator / f"{name}.conf").stat().st_mode & 0o7777 == 0o600
    for folder in (cluster.folder, cluster.folder / "nodes", cluster.folder / "nodes" / "w-1" / "pki"):
        ran = vaultpki("verify", "-f", cluster.file, "--dir", folder, "--json")
        assert json.loads(ran.stdout)["ok"]
    checks = json.loads(vaultpki("verify", "-f", cluster.file, "--dir", cluster.folder, "--json").stdout)["checks"]
    read = {(check["from"], check["to"]) for check in checks if check["kind"] == "file"}
    for file in ("etcd/server.key", "scheduler/ca.crt", "kubelet/kubelet.crt", "scheduler.conf", "kubelet.conf"):
        assert ("cp-1", file) in read, file
    # Another first certificate of ca.crt, a torn pair and a wrong kubeconfig are found.
    node_folder = NodeFolder("cp-1", cluster.folder / "nodes" / "cp-1")
    live = (node_folder.pki / "etcd" / "server.key").resolve()
    live.write_bytes((node_folder.pki / "etcd" / "peer.key").read_bytes())
    (node_folder.folder / "scheduler.conf").write_text("no kubeconfig\n")
    ran = vaultpki("verify", "-f", cluster.file, "--dir", cluster.folder, "--json", expect=3)
    wrong = {check["to"] for check in json.loads(ran.stdout)["checks"] if check["kind"] == "file" and not check["ok"]}
    assert wrong == {"etcd/server.key", "etcd/server.pem", "scheduler.conf"}
    shown = json.loads(vaultpki("status", "--dir", node_folder.pki, "--json", expect=3).stdout)["certificates"]
    states = {each["name"]: each["state"] for each in shown}
    assert states["etcd-server"] == "broken" and states["kube-scheduler"] == "ok" and "kubelet" not in states
    assert set(states) >= {"kube-apiserver", "etcd-peer", "kube-controller-manager"}
