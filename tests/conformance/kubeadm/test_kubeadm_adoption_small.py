"""The smallest real cluster of kubeadm, one control plane and one worker, is taken over: there, back, and to the end.

One cluster for the whole module, and the tests continue each other. Root runs `adopt node` on each machine; the test of
three control planes has agents that do it. What the steps wait for is shortened, since no client is connected here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import yaml

from helpers.kube import (
    adopted_disks,
    containerd,
    held_on_disks,
    kubeadm_cluster,
    kubeadm_given,
    kubeadm_nodes,
    kubeadm_own_cas,
)
from helpers.kube.api_watch import ApiWatch
from helpers.kube.components import Programs
from helpers.kube.kubeadm_cluster import IGNORED_IN_UPGRADE
from helpers.kube.kubeadm_given import TOKEN, Given
from helpers.vault import servers

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2700)]

NODES = ("cp-1", "w-1")
MANAGER = "/etc/kubernetes/manifests/kube-controller-manager.yaml"
# What somebody reads who joins or upgrades, and must be the same after a way back.
OBJECTS = ("-n kube-public get cm cluster-info", "-n kube-system get cm kubeadm-config kubelet-config")
# What is said before anything begins, see vaultpki/rotation/adoption_outages.py. One after the other they take 75 s.
MOST_AWAY_SECONDS = 45
# By docs/signer.md: nodes of this name join by a token alone, without an agent.
BY_TOKEN, SIGNER = (
    "j-1",
    """\
signer: {ttl: 7d}
pools:
- {name: joined, roles: [worker], node_names: "j-*", join: token, networks: [198.51.100.0/24]}
""",
)
CHECKS = f"--ignore-preflight-errors={','.join(IGNORED_IN_UPGRADE)}"


@dataclass(slots=True)
class Small:
    """The cluster, what lay on its machines as kubeadm left it, and what its objects held."""

    given: Given
    watch: ApiWatch
    disks: dict[str, adopted_disks.Files] = field(default_factory=dict)
    objects: list[dict[str, str]] = field(default_factory=list)

    def changed(self) -> dict[str, list[str]]:
        """The files of each machine that are not as kubeadm left them."""
        return {
            name: adopted_disks.changed(self.disks[name], adopted_disks.files(self.given.nodes[name])) for name in NODES
        }

    def held(self) -> list[dict[str, str]]:
        """Return the objects, without what signs cluster-info for a bootstrap token, which an adoption deletes."""
        found = [json.loads(self.given.kubectl(f"{words} -o json")) for words in OBJECTS]
        data = [item["data"] for each in found for item in each.get("items", [each])]
        return [{name: text for name, text in each.items() if not name.startswith("jws-")} for each in data]

    def reaches(self, state: str, *, back: bool = False) -> None:
        """It takes the next step, on every machine, and the API is away for no longer than was said."""
        begin = time.time()
        assert self.given.reach(back=back) == state
        if state != "prepared":
            self.given.turns()
        away = self.watch.since(begin)
        print(f"{state}: the API was away for {', '.join(f'{each:.1f}' for each in away) or 0} s")
        assert max(away, default=0.0) <= MOST_AWAY_SECONDS, away

    def works(self) -> None:
        """Kubelets report, and are reached for logs."""
        self.given.await_ready(*NODES)
        for name in NODES:
            self.given.await_logs(name)


@pytest.fixture(scope="module")
def small(before: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """The cluster as kubeadm leaves it; further machines wait for their join."""
    folder = tmp_path_factory.mktemp("small")
    names = {
        "cp-1": kubeadm_given.PLANE,
        "w-1": kubeadm_given.WORKER,
        "w-2": kubeadm_given.WORKER,
        "cp-2": kubeadm_given.PLANE,
        BY_TOKEN: kubeadm_given.WORKER,
    }
    with (
        servers.running("bao", folder / "server", None) as server,
        kubeadm_given.standing(server, before, folder / "kube", names) as given,
    ):
        given.init()
        given.person()
        given.join("w-1")
        given.await_ready(*NODES)
        one = Small(given, ApiWatch(given.nodes["cp-1"].machine))
        one.disks = {name: adopted_disks.files(given.nodes[name]) for name in NODES}
        one.objects = one.held()
        with one.watch.running():
            yield one


def begin(one: Given) -> None:
    one.describe()
    for name in NODES:
        one.enrol(name)
    one.adopt("start", "--yes")
    one.settle()


def test_machines_enrol_and_the_controller_manager_alone_is_restarted(small: Small) -> None:
    begin(small.given)
    assert small.given.state == "prepared"
    assert small.changed() == {"cp-1": [MANAGER], "w-1": []}
    assert "nothing is left to do for prepared" in small.given.node("cp-1", "--dry-run")
    small.works()


def test_from_published_it_goes_back(small: Small) -> None:
    small.reaches("published")
    small.works()
    small.reaches("prepared", back=True)
    assert small.changed()["w-1"] == []


@pytest.mark.parametrize("state", ["published", "switched", "closed", "retired"])
def test_it_goes_on(small: Small, state: str) -> None:
    small.reaches(state)
    small.works()


@pytest.mark.parametrize("state", ["re-trusting", "returning"])
def test_it_goes_back_from_retired(small: Small, state: str) -> None:
    small.reaches(state, back=True)
    small.works()


def test_given_up_it_is_kubeadms_byte_for_byte(small: Small) -> None:
    one = small.given
    assert one.reach(back=True) == "prepared"
    one.give_up()
    assert one.state == ""
    assert small.changed() == {"cp-1": [], "w-1": []}
    one.person()
    assert small.held() == small.objects
    small.works()


def test_kubeadm_works_on_the_returned_cluster(small: Small) -> None:
    one = small.given
    said = one.made.run("kubeadm certs renew all", "cp-1")
    assert "Done renewing certificates" in said, said
    one.made.run(f"kubeadm token create {TOKEN}", "cp-1")
    assert "This node has joined the cluster" in one.join("w-2")
    one.await_ready(*NODES, "w-2")
    one.made.run(f"kubeadm upgrade plan {CHECKS}", "cp-1")


def test_another_adoption_begins(small: Small) -> None:
    """A machine that went home enrols anew; what kubeadm has renewed meanwhile is taken as its own."""
    one = small.given
    one.kubectl("drain w-2 --ignore-daemonsets && kubectl --kubeconfig admin.conf delete node w-2")
    one.made.run("kubeadm reset -f --ignore-preflight-errors=SystemVerification", "w-2")
    # Nobody ends its pods any more: the controller manager forgets them after a while, and until then they count.
    of_w_2 = "-l k8s-app=kube-proxy --field-selector=spec.nodeName=w-2"
    one.kubectl(f"-n kube-system wait --for=delete pods {of_w_2} --timeout={kubeadm_given.SECONDS:.0f}s", expect=None)
    # Its certificate of the old CA is gone with it, and would be waited for.
    one.kubectl("delete csr --all")
    for name in NODES:
        one.leave(name)
    begin(one)
    for state in ("published", "switched", "closed", "retired"):
        small.reaches(state)


def test_it_goes_to_the_end(small: Small) -> None:
    one = small.given
    assert one.reach() == "done"
    one.turns()
    assert one.adopt("continue", "--yes", expect=[0])["over"]
    for name in NODES:
        assert held_on_disks.ca_keys(one.nodes[name]) == []
    one.forget()
    assert one.adopt("status", expect=[0])["over"]
    one.issue()
    one.made.run("cp -p operator/* . 2>/dev/null || true")
    small.works()


def test_kubeadm_upgrades_the_adopted_cluster(small: Small, programs: Programs) -> None:
    one = small.given
    archives = kubeadm_nodes.images(programs, one.folder)
    for node in one.nodes.values():
        containerd.load(node.machine, kubeadm_nodes.needed(node, archives))
        node.install(programs, "kubeadm")
    one.made.programs = programs
    one.made.run(f"vaultpki kubeadm config cp-1 --upgrade --kubernetes-version {programs.version} -o upgrade")
    kubeadm_cluster.adapt(one.folder / "upgrade", programs.version)
    one.made.run("scp -p operator/admin.conf root@cp-1:/etc/kubernetes/")
    for name, mode in (("cp-1", "--join"), ("w-1", "")):
        # kubeadm writes rotateCertificates: true whatever kubelet-config says, so each node gets the kubelet's patches.
        one.made.run(f"vaultpki kubeadm config {name} {mode} -o patches-{name}")
        one.made.run(f"scp -p patches-{name}/patches/*.yaml root@{name}:/etc/kubernetes/kubeadm/patches/")
    for name, command in (("cp-1", "apply"), ("w-1", "node")):
        one.made.run(f"scp -p upgrade/kubeadm.yaml root@{name}:/etc/kubernetes/kubeadm/upgrade.yaml")
        yes = " --yes" if command == "apply" else ""
        one.made.run(f"kubeadm upgrade {command} --config /etc/kubernetes/kubeadm/upgrade.yaml{yes}", name)
        one.nodes[name].install(programs, "kubelet", "kubectl")
        one.nodes[name].run("systemctl", "restart", "kubelet")
    manifest = one.nodes["cp-1"].seen(MANAGER).read_text()
    assert "--root-ca-file=/etc/kubernetes/pki/ca-chain.crt" in manifest
    assert re.search(r"--cluster-signing-cert-file=$", manifest, re.MULTILINE)
    settings = one.nodes["w-1"].seen("/var/lib/kubelet/config.yaml").read_text()
    assert yaml.safe_load(settings)["rotateCertificates"] is False
    small.works()
    versions = one.kubectl("get nodes -o jsonpath={.items[*].status.nodeInfo.kubeletVersion}").split()
    assert versions == [programs.version] * len(NODES)


@pytest.mark.parametrize("name", ["w-2", "cp-2"])
def test_a_node_joins_the_adopted_cluster_by_the_page(small: Small, name: str) -> None:
    one = small.given
    one.nodes[name].install(one.made.programs, "kubelet", "kubectl")
    one.add(name)
    one.enrol(name)
    if name == "cp-2":
        keys = " ".join(f"root@cp-1:/etc/kubernetes/pki/sa.{end}" for end in ("key", "pub"))
        one.made.run(
            f"scp -3p {keys} root@cp-2:/etc/kubernetes/pki/ && scp -p operator/admin.conf root@cp-2:/etc/kubernetes/"
        )
    mode = "--join" if name == "cp-2" else ""
    one.made.run(f"vaultpki kubeadm config {name} {mode} -o joins-{name}")
    kubeadm_cluster.adapt(one.folder / f"joins-{name}", one.made.programs.version)
    one.nodes[name].run("rm", "-rf", "/etc/kubernetes/kubeadm")
    one.made.run(f"scp -rp joins-{name} root@{name}:/etc/kubernetes/kubeadm")
    one.made.run(f"kubeadm join --config {kubeadm_own_cas.CONFIGURATION}", name)
    one.await_ready(*NODES, name)
    one.await_logs(name)
    assert held_on_disks.ca_keys(one.nodes[name]) == []


def test_a_machine_joins_the_adopted_cluster_by_a_token(small: Small) -> None:
    """The controller manager signs no more, and a signer has Vault sign what the new kubelet asks for."""
    one, plane = small.given, small.given.nodes["cp-1"]
    with (one.folder / "cluster.yaml").open("a") as file:
        file.write(SIGNER)
    one.made.run("vaultpki apply --yes")
    # Nodes without an agent have no pair for their kubelet, and need the root from cluster-info.
    assert one.adopt("continue", "--yes", expect=[0])["over"]
    one.issue()
    one.kubectl("apply -f operator/manifests")
    one.made.run("vaultpki enroll --signer cp-1 -o signer.json && scp -p signer.json root@cp-1:")
    # A tmpfs here, in which anybody may write; and another user could not read the tester's Python.
    one.made.run("chmod 755 /var/lib && vaultpki join signer.json --user root", "cp-1")
    plane.machine.start("signer", plane.tools / "vaultpki", "signer", "-c", "/var/lib/vaultpki-signer/signer.yaml")
    one.nodes[BY_TOKEN].install(one.made.programs, "kubelet", "kubectl")
    token = one.made.run("kubeadm token create --ttl 1h", "cp-1").split()[-1]
    assert "This node has joined the cluster" in one.join(BY_TOKEN, token)
    one.await_ready(*NODES, BY_TOKEN)
    assert not one.nodes[BY_TOKEN].seen("/etc/vaultpki/agent.yaml").exists()
