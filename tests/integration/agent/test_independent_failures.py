"""What goes wrong with one certificate, or on its way, takes neither its own good pair nor another's renewal."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.node.passes import pair, passed, said
from helpers.node.resident_agent import WORKER, leaf, leaves
from helpers.vault.applied_cluster import ONE_WORKER, AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import run
from vaultpki.agent.context import Context
from vaultpki.agent.hook_schedule import run_hooks
from vaultpki.config.agent import load_agent
from vaultpki.disk.folders import Folders
from vaultpki.errors import StoreError
from vaultpki.host import hook_runner
from vaultpki.node import assignment, credential
from vaultpki.node.state import AgentState, StateFile
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES


@pytest.fixture
def node(shared: AppliedCluster, tmp_path: Path) -> NodeFolder:
    made = shared.equip("worker-1", folder=tmp_path / "worker-1")
    passed(made)
    return made


def respecify(cluster: AppliedCluster, text: str = "") -> None:
    cluster.write(ONE_WORKER + text)
    cluster.apply()


def unsigned(cluster: AppliedCluster, *rows: str) -> None:
    """Has Vault sign nothing for these rows until the next apply."""
    for row in rows:
        assert cluster.server.api("DELETE", f"{cluster.prefix}/kubernetes/roles/{row}").status == 204


def kubeconfigs(node: NodeFolder) -> dict[str, str]:
    return {name: (node.pki / name).read_text() for name in ("kube-proxy.conf", "kubelet.conf")}


@pytest.mark.on_node
def test_pairs_with_new_names_go_only_once_their_successors_are_there(clusters: ClusterFactory) -> None:
    """And only by a person's word; no kubeconfig points at the pair of another one meanwhile."""
    cluster = clusters.applied()
    node = cluster.equip("worker-1")
    passed(node)
    before, texts = pair(node, "kube-proxy"), kubeconfigs(node)
    respecify(cluster, "certificates: {kube-proxy: {file: proxy-pair}}\n")
    unsigned(cluster, "kube-proxy")
    assert "kube-proxy" in passed(node).failures
    assert pair(node, "kube-proxy") == before and kubeconfigs(node) == texts
    cluster.apply()
    assert passed(node, "*").renewed
    assert f"{node.pki}/proxy-pair.crt" in kubeconfigs(node)["kube-proxy.conf"]
    assert leaf(node, "proxy-pair") and pair(node, "kube-proxy") == before

    texts = kubeconfigs(node)
    respecify(cluster, "certificates: {kube-proxy: {file: kubelet-client}, kubelet-client: {file: proxy-pair}}\n")
    unsigned(cluster, "kube-proxy", "kubelet-client")
    passed(node)
    assert kubeconfigs(node) == texts
    # Each waits for the place of the other; a person's word gives it up, and it is replaced in one step.
    pairs = {stem: pair(node, stem) for stem in ("proxy-pair", "kubelet-client")}
    prune = run.PassOptions(ON_NODES, settle=False, share=0.0, prune=True)
    assert {"kube-proxy", "kubelet-client"} <= run.run(load_agent(node.config), prune).failures.keys()
    assert {stem: pair(node, stem) for stem in pairs} == pairs and not (node.pki / "kube-proxy.crt").exists()
    cluster.apply()
    assert not run.run(load_agent(node.config), prune).failures
    found = x509.read_certificates((node.pki / "kubelet-client.crt").read_bytes())[0]
    assert found.subject.common_name == "system:kube-proxy"
    assert f"{node.pki}/kubelet-client.crt" in kubeconfigs(node)["kube-proxy.conf"]


def test_a_shorter_grant_than_asked_replaces_no_good_pair(clusters: ClusterFactory) -> None:
    """Nor where a person forces it; what is meant to be shorter is."""
    cluster = clusters.applied()
    node, role = cluster.equip("worker-1"), f"{cluster.prefix}/kubelet/roles/kubelet"
    passed(node)
    for days, force in ((40, ()), (10, ("kubelet",))):
        before = pair(node, "kubelet")
        if not force:
            respecify(cluster, f"certificates: {{kubelet: {{ttl: {days}d}}}}\n")
        assert cluster.server.api("POST", role, cluster.read(role) | {"ttl": "60s", "max_ttl": "60s"}).status < 300
        assert "Vault grants only" in str(passed(node, *force).failures["kubelet"]) and pair(node, "kubelet") == before
        respecify(cluster, "certificates: {kubelet: {ttl: 10d}}\n")
        assert "kubelet" in passed(node, *force).renewed and pair(node, "kubelet") != before


def no_such_owner(node: NodeFolder) -> None:
    with node.config.open("a") as file:
        file.write('certificates: {kube-proxy: {owner: "nobody-here:nobody-here"}}\n')


def folder_for_a_link(node: NodeFolder) -> None:
    link = node.pki / ".vaultpki" / "kube-proxy"
    target = link.resolve()
    link.unlink()
    target.rename(link)


@pytest.mark.on_node
@pytest.mark.parametrize("damage", [no_such_owner, folder_for_a_link])
def test_one_that_cannot_be_laid_down_keeps_no_other(node: NodeFolder, damage: Callable[[NodeFolder], None]) -> None:
    before = leaves(node)
    damage(node)
    done = passed(node, "*")
    assert set(done.failures) >= {"kube-proxy"} and set(done.renewed) == {"kubelet", "kubelet-client"}
    for stem in ("kubelet", "kubelet-client"):
        assert leaf(node, stem) != before[stem]
    assert {item.want.name for item in done.items} == set(WORKER)


@pytest.mark.on_node
def test_a_file_that_somebody_took_keeps_no_certificate_of_others(node: NodeFolder) -> None:
    """A kubeconfig holds none back, and a bundle the leaves of its own CA."""
    taken = node.pki / "kubelet.conf"
    taken.unlink()
    taken.write_text("theirs")
    done = passed(node, "*")
    assert set(done.renewed) == set(WORKER) and taken.read_text() == "theirs"
    assert list(done.failures) == ["kubelet.conf"] and "was not made by vaultpki" in str(done.failures["kubelet.conf"])
    taken.unlink()
    assert not passed(node).failures and f"{node.pki}/kubelet-client.crt" in kubeconfigs(node)["kubelet.conf"]
    taken = node.pki / "kubelet-ca.crt"
    taken.unlink()
    taken.write_text("theirs")
    done = passed(node, "*")
    assert set(done.renewed) == {"kubelet-client", "kube-proxy"}
    assert "was not made by vaultpki" in str(done.failures["kubelet"])


@pytest.mark.on_node
def test_no_secret_id_is_minted_that_cannot_be_kept(shared: AppliedCluster, node: NodeFolder) -> None:
    config = load_agent(node.config)
    vault = credential.login(config)
    path = f"auth/{credential.mount(config)}/role/{config.node}/secret-id"
    before = shared.server.api("LIST", path).data["keys"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file of a credential's size would still fit; but the answer is asked for only where there is room to spare.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match="larger than the limit of this process"):
            credential.roll(config, vault, time.time() + 40 * 86400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert shared.server.api("LIST", path).data["keys"] == before


@pytest.mark.on_node
def test_a_hook_that_worked_is_not_run_again_where_nothing_can_be_remembered(node: NodeFolder, tmp_path: Path) -> None:
    with node.config.open("a") as file:
        file.write(f"hooks: {{kubelet: [[sh, -c, 'echo ran >> {tmp_path}/ran']]}}\n")
    config, found = load_agent(node.config), {"kubelet": "1"}
    spec = assignment.copy(config)
    assert spec is not None
    runner = hook_runner.Runner()
    state = StateFile(config.state)

    def pass_over(folders: Folders) -> AgentState:
        # Each pass begins from what the disk remembers: that nothing ran for this change.
        state.value = AgentState(hooked={"kubelet": "0"})
        run_hooks(Context(config, run.PassOptions(ON_NODES), folders, time.time(), state, runner), found, spec)
        return state.value

    try:
        for _ in range(3):
            with Folders.open(config.paths) as folders:
                pass_over(folders)
            deadline = time.monotonic() + 10
            while runner.busy and time.monotonic() < deadline:
                time.sleep(0.05)
    finally:
        runner.stop()
    assert (tmp_path / "ran").read_text() == "ran\n"
    with Folders.open(config.paths) as folders:
        after = pass_over(folders)
    assert after.hooked == found and not after.owed


@pytest.mark.on_node
def test_what_agent_yaml_says_of_nothing_here_is_told(shared: AppliedCluster, tmp_path: Path) -> None:
    node = shared.equip("worker-1", folder=tmp_path / "worker-1")
    with node.config.open("a") as file:
        file.write("certificates: {kubelet: {mode: '0640'}, kubelett: {mode: '0640'}}\n")
        file.write("hooks: {kubelet: [['true']], etcd-ca: [['true']], kubelet-cleint: [['true']]}\n")
    # Of what is held but does not lie there, since somebody has taken its place, nothing is said.
    node.pki.mkdir()
    (node.pki / "kubelet.crt").write_text("mine\n")
    assert [text.partition(": ")[2] for text in said(passed(node), "config")] == [
        "hooks: kubelet-cleint is not a certificate or bundle of this node; its hooks never run",
        "certificates: kubelett is not a certificate of this node; its owner and mode are not used",
    ]
