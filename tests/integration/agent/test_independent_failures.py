"""What goes wrong with one certificate, or on its way, takes neither its own good pair nor another's renewal."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from helpers.node.resident_agent import WORKER, leaf, leaves
from helpers.vault.applied_cluster import ONE_WORKER, AppliedCluster, NodeFolder
from vaultpki.agent import run
from vaultpki.agent.context import Context, Outcome
from vaultpki.agent.hook_schedule import follow
from vaultpki.certificates import pair_files
from vaultpki.config.agent import load_agent
from vaultpki.disk.folders import Folders
from vaultpki.errors import StoreError
from vaultpki.host import hook_runner
from vaultpki.node import assignment, credential
from vaultpki.node.state import AgentState, StateFile
from vaultpki.pki import x509


@pytest.fixture
def node(cluster: AppliedCluster) -> NodeFolder:
    node = cluster.equip("worker-1")
    run.run(load_agent(node.config), run.PassOptions(settle=False))
    return node


def passed(node: NodeFolder, *force: str) -> Outcome:
    """A pass in this process, which does not wait for watchers."""
    node.age()
    return run.run(load_agent(node.config), run.PassOptions(settle=False, force=frozenset(force)))


def respecify(cluster: AppliedCluster, text: str) -> None:
    cluster.write(ONE_WORKER + text)
    cluster.apply()


def unsigned(cluster: AppliedCluster, ca: str, row: str) -> None:
    """Has Vault sign nothing for a row until the next apply."""
    assert cluster.server.api("DELETE", f"{cluster.prefix}/{ca}/roles/{row}").status == 204


def pair(node: NodeFolder, stem: str) -> list[bytes]:
    return [(node.pki / name).read_bytes() for name in pair_files(stem)]


def kubeconfig(node: NodeFolder, name: str) -> str:
    return (node.pki / name).read_text()


def test_a_pair_with_a_new_name_goes_only_once_its_successor_is_there(
    cluster: AppliedCluster, node: NodeFolder
) -> None:
    before, text = pair(node, "kube-proxy"), kubeconfig(node, "kube-proxy.conf")
    respecify(cluster, "certificates: {kube-proxy: {file: proxy-pair}}\n")
    unsigned(cluster, "kubernetes", "kube-proxy")
    done = passed(node)
    assert "kube-proxy" in done.failures
    assert pair(node, "kube-proxy") == before and kubeconfig(node, "kube-proxy.conf") == text
    cluster.apply()
    assert passed(node, "*").renewed
    assert f"{node.pki}/proxy-pair.crt" in kubeconfig(node, "kube-proxy.conf")
    assert leaf(node, "proxy-pair") and not (node.pki / "kube-proxy.crt").is_symlink()


@pytest.mark.on_node
def test_no_kubeconfig_points_at_another_ones_pair(cluster: AppliedCluster, node: NodeFolder) -> None:
    texts = {name: kubeconfig(node, name) for name in ("kube-proxy.conf", "kubelet.conf")}
    respecify(cluster, "certificates: {kube-proxy: {file: kubelet-client}, kubelet-client: {file: kube-proxy}}\n")
    for row in ("kube-proxy", "kubelet-client"):
        unsigned(cluster, "kubernetes", row)
    passed(node)
    assert {name: kubeconfig(node, name) for name in texts} == texts
    cluster.apply()
    passed(node, "*")
    found = x509.read_certificates((node.pki / "kubelet-client.crt").read_bytes())[0]
    assert found.subject.common_name == "system:kube-proxy"
    assert f"{node.pki}/kubelet-client.crt" in kubeconfig(node, "kube-proxy.conf")


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
def test_one_that_cannot_be_laid_down_keeps_no_other(node: NodeFolder, damage: object) -> None:
    before = leaves(node)
    assert callable(damage)
    damage(node)
    done = passed(node, "*")
    assert set(done.failures) >= {"kube-proxy"} and set(done.renewed) == {"kubelet", "kubelet-client"}
    for stem in ("kubelet", "kubelet-client"):
        assert leaf(node, stem) != before[stem]
    assert {item.want.name for item in done.items} == set(WORKER)


@pytest.mark.on_node
def test_a_kubeconfig_that_somebody_took_keeps_no_certificate(node: NodeFolder) -> None:
    taken = node.pki / "kubelet.conf"
    taken.unlink()
    taken.write_text("theirs")
    done = passed(node, "*")
    assert set(done.renewed) == set(WORKER) and taken.read_text() == "theirs"
    assert list(done.failures) == ["kubelet.conf"] and "was not made by vaultpki" in str(done.failures["kubelet.conf"])
    taken.unlink()
    assert not passed(node).failures and f"{node.pki}/kubelet-client.crt" in kubeconfig(node, "kubelet.conf")


@pytest.mark.on_node
def test_a_bundle_that_is_not_there_holds_back_its_own_cas_leaves(node: NodeFolder) -> None:
    taken = node.pki / "kubelet-ca.crt"
    taken.unlink()
    taken.write_text("theirs")
    done = passed(node, "*")
    assert set(done.renewed) == {"kubelet-client", "kube-proxy"}
    assert "was not made by vaultpki" in str(done.failures["kubelet"])


@pytest.mark.parametrize("forced", [False, True])
def test_a_shorter_grant_than_asked_replaces_no_good_pair(
    cluster: AppliedCluster, node: NodeFolder, forced: bool
) -> None:
    before = pair(node, "kubelet")
    if not forced:
        respecify(cluster, "certificates: {kubelet: {ttl: 40d}}\n")
    role = f"{cluster.prefix}/kubelet/roles/kubelet"
    assert cluster.server.api("POST", role, cluster.read(role) | {"ttl": "60s", "max_ttl": "60s"}).status < 300
    done = passed(node, *(["kubelet"] if forced else []))
    assert "Vault grants only" in str(done.failures["kubelet"]) and pair(node, "kubelet") == before
    # What is meant to be shorter is.
    respecify(cluster, "certificates: {kubelet: {ttl: 10d}}\n")
    assert "kubelet" in passed(node, *(["kubelet"] if forced else [])).renewed and pair(node, "kubelet") != before


def test_no_secret_id_is_minted_that_cannot_be_kept(cluster: AppliedCluster, node: NodeFolder) -> None:
    config = load_agent(node.config)
    vault = credential.login(config)
    path = f"auth/{credential.mount(config)}/role/{config.node}/secret-id"
    before = cluster.server.api("LIST", path).data["keys"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file of a credential's size would still fit; but the answer is asked for only where there is room to spare.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match="larger than the limit of this process"):
            credential.roll(config, vault, time.time() + 40 * 86400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cluster.server.api("LIST", path).data["keys"] == before


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
        follow(Context(config, run.PassOptions(), folders, time.time(), state, runner), found, spec)
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
def test_what_agent_yaml_says_of_nothing_here_is_told(cluster: AppliedCluster) -> None:
    node = cluster.equip("worker-1")
    with node.config.open("a") as file:
        file.write("certificates: {kubelet: {mode: '0640'}, kubelett: {mode: '0640'}}\n")
        file.write("hooks: {kubelet: [['true']], etcd-ca: [['true']], kubelet-cleint: [['true']]}\n")
    # Of what is held but does not lie there, since somebody has taken its place, nothing is said.
    node.pki.mkdir()
    (node.pki / "kubelet.crt").write_text("mine\n")
    outcome = run.run(load_agent(node.config), run.PassOptions(settle=False))
    assert [event.text.partition(": ")[2] for event in outcome.events if event.name == "config"] == [
        "hooks: kubelet-cleint is not a certificate or bundle of this node; its hooks never run",
        "certificates: kubelett is not a certificate of this node; its owner and mode are not used",
    ]
