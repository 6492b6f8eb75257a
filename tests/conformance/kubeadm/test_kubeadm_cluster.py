"""The real kubeadm makes a cluster by the commands of docs/kubeadm.md, on files of agents that joined through OpenBao.

One cluster for the whole module, and the tests continue each other: the page with Kubernetes of the minor version
before, its upgrade to the newest while etcd's CA is rotated, who gets in, renewals under load, resets, a control plane
that joins later. Each control plane has a service-account key of its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from helpers import page_runner
from helpers.kube import held_on_disks, kubeadm_cluster, kubeadm_nodes, kubeadm_planes, kubeadm_use
from helpers.kube.ca_operator import STEP_SECONDS, Operator
from helpers.kube.certificates_in_use import LOOK_SECONDS, MARGIN_SECONDS
from helpers.kube.client_load import Load
from helpers.kube.components import API_PORT, ETCD_PORT, KUBELET_PORT, Programs
from helpers.kube.kubeadm_cluster import IGNORED, IGNORED_IN_UPGRADE, KubeadmCluster
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.pages import Command
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.host import static_pod
from vaultpki.live.token_keys import KEY_SET_CHECK
from vaultpki.records.rotation import State

# The cluster, and its upgrade, take a quarter of an hour each beside other tests, and twice that on a slower machine.
pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2700)]

PLANES = ("cp-1", "cp-2", "cp-3")
POD = "load"
POD_SECONDS = 60.0
# The agent takes the old files away five seconds after the new ones are there, and that is what watchers notice.
SECONDS_FOR_SERVERS = 20
CHECKS = f"--ignore-preflight-errors={','.join(IGNORED_IN_UPGRADE)}"
# What kubeadm writes, and the configuration that it is given to do so.
KUBEADMS_OWN = ("/etc/kubernetes/manifests/", "/etc/kubernetes/tmp/", "/etc/kubernetes/kubeadm/upgrade.yaml")
# In the rotation that an upgrade meets.
SPREAD = 10


@pytest.fixture(scope="module")
def made(before: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeadmCluster]:
    """The cluster as the page makes it. After each of its commands no node has the key of a CA."""
    folder = tmp_path_factory.mktemp("kubeadm")
    with (
        servers.running("bao", folder / "server", None) as server,
        kubeadm_cluster.machines(server, before, folder / "kube") as cluster,
    ):

        def check(command: Command) -> None:
            if command.node is not None:
                refuse_ca_keys(cluster, command.text)

        cluster.make(check)
        yield cluster


def refuse_ca_keys(cluster: KubeadmCluster, after: str) -> None:
    for node in cluster.nodes.values():
        if node.seen("/etc/vaultpki").exists():
            assert held_on_disks.ca_keys(node) == [], f"{node.name} has the key of a CA after: {after}"


def files(node: KubeadmNode) -> dict[str, str]:
    """The SHA-256 of each file that vaultpki or the page put on a node, by path."""
    found = {}
    for top in ("/etc/kubernetes", "/var/lib/kubelet/pki"):
        for path in sorted(node.seen(top).rglob("*")):
            name = f"{top}/{path.relative_to(node.seen(top))}"
            # Of the product, what its links lead to has other names after each renewal.
            own = "/.vaultpki/" in name
            if path.is_file() and not own and not name.startswith(KUBEADMS_OWN):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# The page


def test_the_page_prints_what_it_shows(made: KubeadmCluster) -> None:
    page_runner.refuse_other_output(made.ran, made.folder)


def is_well(node: KubeadmNode) -> bool:
    """Whether nothing needs attention there by its `status`, which asks the server: a busy one may answer too late."""
    return '"ok": true' in node.vaultpki("status", "--json", expect=None).stdout


def test_kubeadm_made_no_certificate_and_no_token(made: KubeadmCluster) -> None:
    """Every certificate and key of kubeadm's names is the agent's, and nobody can join by a token."""
    printed = "\n".join(ran.output for ran in made.ran)
    assert "keyless certificate authority" in printed and 'Generating "' not in printed
    for name, node in made.nodes.items():
        wait_for(functools.partial(is_well, node), 20, functools.partial("{} is not well".format, name), pause=1)
    secrets = made.kubernetes.get("secrets", "-A")["items"]
    assert "bootstrap.kubernetes.io/token" not in [each["type"] for each in secrets]
    # Where kubeadm uploads keys for control planes that join.
    assert "kubeadm-certs" not in [each["metadata"]["name"] for each in secrets]


def test_no_credential_is_left_that_was_for_the_moment(made: KubeadmCluster) -> None:
    for node in made.nodes.values():
        assert not [name for name in files(node) if re.search("admin.conf|bootstrap", name)]


def test_each_api_server_accepts_the_tokens_of_all_and_signs_with_its_own_key(made: KubeadmCluster) -> None:
    judge_tokens(made)


def test_no_private_key_lies_on_two_machines(made: KubeadmCluster) -> None:
    assert held_on_disks.on_two_of(made) == []


def test_control_a_key_that_was_copied_is_found(made: KubeadmCluster) -> None:
    made.run("scp -p operator/admin.conf root@cp-3:/etc/kubernetes/")
    (found,) = held_on_disks.on_two_of(made)
    assert "/etc/kubernetes/admin.conf" in found and "operator" in found
    made.run("rm /etc/kubernetes/admin.conf", "cp-3")


def judge_tokens(cluster: KubeadmCluster) -> None:
    """A token that any API server has issued is accepted at every one, and each signs with a key of its own."""
    key_ids, answers = kubeadm_use.tokens(cluster)
    count = len(cluster.kubernetes.apis)
    assert len(key_ids) == count and len(answers) == count**2
    assert set(answers.values()) == {201}, answers


def test_nothing_signs_certificate_requests(made: KubeadmCluster) -> None:
    manifest = made.nodes["cp-1"].seen("/etc/kubernetes/manifests/kube-controller-manager.yaml").read_text()
    assert re.search(r"--cluster-signing-cert-file=$", manifest, re.MULTILINE)
    assert "--root-ca-file=/etc/kubernetes/pki/ca-chain.crt" in manifest


# The upgrade


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What lay on the nodes before and after, what kubeadm said and wrote without our configuration.

    `hooked` are the nodes whose member of etcd an agent restarted.
    """

    before: dict[str, dict[str, str]]
    after: dict[str, dict[str, str]]
    unconfigured: dict[str, str]
    forgotten: dict[str, tuple[str, str]]
    hooked: list[str]


@pytest.fixture(scope="module")
def upgrade(made: KubeadmCluster, programs: Programs) -> Upgrade:
    """The page's upgrade, while nodes trust two CAs of etcd; then the rotation ends.

    The upgrade makes the restarts that the rotation waits for. On two nodes `kubeadm upgrade node` runs without our
    configuration first, as somebody does who forgets it.
    """
    operator = Operator(made.kubernetes)
    unconfigured: dict[str, str] = {}
    forgotten: dict[str, tuple[str, str]] = {}
    for name, node in made.nodes.items():
        made.kubernetes.run_pod(f"old-on-{name}", node=name, seconds=POD_SECONDS)
        kubeadm_planes.configure(node, "poll: 5m", "poll: 10s")
        node.resident()
    operator.rotate("etcd", spread=SPREAD)
    operator.advance("etcd", State.PUBLISHED)

    def restarts() -> list[str]:
        """The nodes that have both CAs. Without `ca continue` none has the turn to restart anything."""
        return [name for name, reason in operator.waiting().items() if "restart" in reason]

    wait_for(lambda: restarts() == [*PLANES], STEP_SECONDS, lambda: str(operator.waiting()))
    before = {name: files(node) for name, node in made.nodes.items()}

    def forget(command: Command) -> None:
        name = command.node
        if name in ("cp-2", "w-1") and "kubeadm upgrade node" in command.text:
            unconfigured[name] = made.run(f"kubeadm upgrade node {CHECKS}", name)
            kubelet = ("config.yaml", "kubeadm-flags.env")
            settings, flags = (made.nodes[name].seen(f"/var/lib/kubelet/{each}").read_text() for each in kubelet)
            forgotten[name] = settings, flags
            # kubeadm names its copies by the second, and fails where it made another one in the same second.
            made.nodes[name].run("rm", "-r", "/etc/kubernetes/tmp")

    made.upgrade(programs, forget)
    after = {name: files(node) for name, node in made.nodes.items()}
    operator.advance("etcd", State.SWITCHED)
    manifests = {name: made.nodes[name].seen(f"{static_pod.MANIFEST_FOLDER}/etcd.yaml") for name in PLANES}
    hooked = [name for name, each in manifests.items() if static_pod.ANNOTATION in each.read_text()]
    operator.rest("etcd")
    for node in made.nodes.values():
        node.machine.processes["agent"].stop()
    return Upgrade(before, after, unconfigured, forgotten, hooked)


@pytest.fixture(scope="module")
def cluster(made: KubeadmCluster, upgrade: Upgrade) -> KubeadmCluster:
    """The cluster after its upgrade."""
    return made


def test_an_upgrade_leaves_our_files_alone(cluster: KubeadmCluster, upgrade: Upgrade) -> None:
    """Even without our configuration, when kubeadm means to renew certificates."""
    page_runner.refuse_other_output(cluster.ran, cluster.folder)
    assert upgrade.after == upgrade.before
    said = upgrade.unconfigured["cp-2"]
    assert "External CA detected, etcd-server certificate can't be renewed" in said
    assert "[upgrade/kubeconfig] The kubeconfig files for this node were successfully upgraded!" in said
    refuse_ca_keys(cluster, "the upgrade")


def test_everything_is_of_the_new_version(cluster: KubeadmCluster, programs: Programs) -> None:
    kubernetes = cluster.kubernetes
    nodes = kubernetes.get("nodes")["items"]
    kubelets = {node["metadata"]["name"]: node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes}
    assert kubelets == dict.fromkeys(cluster.nodes, programs.version)
    images = set(kubeadm_nodes.image_names(programs).values())
    pods = kubernetes.get("pods", "-n", "kube-system")["items"]
    running = {container["image"] for pod in pods for container in pod["spec"]["containers"]}
    assert running <= images, running - images
    assert len(running) == len(kubeadm_nodes.CONTROL_PLANE) + 2
    for name in PLANES:
        at = f"--server=https://{cluster.nodes[name].address}:{API_PORT}"
        said = kubernetes.kubectl(kubernetes.admin, at, "get", "--raw", "/version").stdout
        assert json.loads(said)["gitVersion"] == programs.version


def test_kubelets_do_not_rotate_their_certificates(cluster: KubeadmCluster, upgrade: Upgrade) -> None:
    """Those of which kubeadm wrote that they do have the flag that says no, until it has our patches."""
    for settings, flags in upgrade.forgotten.values():
        assert "rotateCertificates: true" in settings and "--rotate-certificates=false" in flags
    assert len(upgrade.forgotten) == 2
    for node in cluster.nodes.values():
        settings = node.seen("/var/lib/kubelet/config.yaml").read_text()
        assert "rotateCertificates: false" in settings and "tlsCertFile: /var/lib/kubelet/pki/kubelet.crt" in settings


def test_the_restarts_of_an_upgrade_count_for_a_rotation(
    cluster: KubeadmCluster, upgrade: Upgrade, before: Programs, programs: Programs
) -> None:
    """From one version to itself, kubeadm restarts etcd only where it wrote the manifest without our configuration."""
    assert upgrade.hooked == ([] if before.version != programs.version else ["cp-1", "cp-3"])
    assert Operator(cluster.kubernetes).record("etcd").state is State.DONE


def test_tokens_are_accepted_everywhere_after_an_upgrade(cluster: KubeadmCluster) -> None:
    judge_tokens(cluster)


@pytest.mark.parametrize("node", [*PLANES, "w-1"])
def test_pods_from_before_an_upgrade_go_on(cluster: KubeadmCluster, node: str) -> None:
    kubernetes = cluster.kubernetes
    assert kubernetes.kubectl(kubernetes.admin, "logs", f"old-on-{node}").stdout == "hello\n"
    assert kubernetes.kubectl(kubernetes.admin, "exec", f"old-on-{node}", "--", "echo", "yes").stdout == "yes\n"


# Who gets in


@pytest.mark.parametrize("node", [*PLANES, "w-1"])
def test_a_pod_runs_and_logs_and_exec_work(cluster: KubeadmCluster, node: str) -> None:
    kubernetes = cluster.kubernetes
    kubernetes.run_pod(f"on-{node}", node=node, seconds=POD_SECONDS)
    assert kubernetes.kubectl(kubernetes.admin, "logs", f"on-{node}").stdout == "hello\n"
    assert kubernetes.kubectl(kubernetes.admin, "exec", f"on-{node}", "--", "echo", "yes").stdout == "yes\n"


def test_kube_proxy_logs_in_with_its_service_account(cluster: KubeadmCluster) -> None:
    """It trusts the API server by the bundle that the controller manager gives to pods: with the root in it."""
    kubernetes = cluster.kubernetes
    for item in kubernetes.get("pods", "-n", "kube-system", "-l", "k8s-app=kube-proxy")["items"]:
        said = kubernetes.kubectl(kubernetes.admin, "logs", "-n", "kube-system", item["metadata"]["name"]).stdout
        assert "Caches are synced" in said and not re.search("x509|certificate|Unauthorized", said), said
    bundle = kubernetes.get("configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    assert bundle == cluster.nodes["cp-1"].seen("/etc/kubernetes/pki/ca-chain.crt").read_text()


def answer(cluster: KubeadmCluster, where: KubeadmNode, port: int, path: str, pair: Path | None) -> str:
    """The status of an HTTP answer from outside, or the alert by which the server ended the connection."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pair is not None:
        context.load_cert_chain(pair)
    try:
        opened = cluster.kubernetes.outside.connect(where.address, port)
        with opened, context.wrap_socket(opened) as session:
            session.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return session.recv(100).split(b"\r\n")[0].decode().split(" ")[1]
    except ssl.SSLError as error:
        return str(error.reason)


def test_who_must_not_get_in_is_refused(cluster: KubeadmCluster, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    issued = trustme.CA().issue_cert("stranger")
    stranger.write_bytes(issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes())
    cp_1, w_1 = cluster.nodes["cp-1"], cluster.nodes["w-1"]
    worker = kubeadm_use.file(w_1, kubeadm_use.row("kubelet-client"), 2)
    serving = kubeadm_use.file(w_1, kubeadm_use.row("kubelet"), 2)
    caller = kubeadm_use.file(cp_1, kubeadm_use.row("kube-apiserver-kubelet"), 2)
    etcd = kubeadm_use.file(cp_1, kubeadm_use.row("kube-apiserver-etcd"), 2)
    nodes, secrets, pods, health = "/api/v1/nodes", "/api/v1/secrets", "/pods", "/health"
    # Let in, so that a refusal below is one of the client and not of the path.
    assert answer(cluster, cp_1, API_PORT, nodes, cluster.operator / "admin.pem") == "200"
    assert answer(cluster, cp_1, API_PORT, f"{nodes}/w-1", worker) == "200"
    assert answer(cluster, w_1, KUBELET_PORT, pods, caller) == "200"
    assert answer(cluster, cp_1, ETCD_PORT, health, etcd) == "200"
    for pair, expected in ((stranger, "401"), (serving, "401"), (None, "403"), (worker, "403"), (etcd, "401")):
        assert answer(cluster, cp_1, API_PORT, secrets, pair) == expected, pair
    for pair, expected in ((stranger, "401"), (None, "401"), (worker, "403"), (serving, "401"), (etcd, "401")):
        assert answer(cluster, cp_1, KUBELET_PORT, pods, pair) == expected, pair
    for pair in (stranger, None, worker, serving, caller, cluster.operator / "super-admin.pem"):
        found = answer(cluster, cp_1, ETCD_PORT, health, pair)
        # By a TLS alert: no certificate, or one of a CA that etcd does not know.
        assert "CERTIFICATE" in found or "UNKNOWN_CA" in found, f"etcd answers {found} to {pair}"


@pytest.mark.parametrize("node", [None, "cp-1"])
def test_verify_live_finds_nothing_wrong(cluster: KubeadmCluster, node: str | None) -> None:
    """From outside, and on a control-plane node, where it reaches what listens on loopback."""
    checks = [check for check in kubeadm_use.verify_live(cluster, node)["checks"] if check["kind"] == "live"]
    wrong = [check for check in checks if check["ok"] is False]
    assert not wrong, "\n".join(map(str, wrong))
    token_keys = {check["from"]: check["ok"] for check in checks if check["name"] == KEY_SET_CHECK}
    assert token_keys == {f"{name}/kube-apiserver": True for name in PLANES}
    served = {check["from"].partition(" ")[0] for check in checks if check["name"] == "served certificate"}
    listeners = {f"{on.name}/{row.name}" for on, row in kubeadm_use.held(cluster) if row.name in kubeadm_use.SERVERS}
    loopback = {f"cp-1/{name}" for name in ("kube-controller-manager", "kube-scheduler")}
    assert served == listeners | {"endpoint/kube-apiserver"} | (loopback if node else set())
    flags = {check["from"] for check in checks if check["name"] == "flags"}
    static = {f"{on}/{name}" for on in PLANES for name in ("etcd", *kubeadm_nodes.CONTROL_PLANE)}
    assert flags == static | {f"{name}/kubelet" for name in cluster.nodes}


# Renewals


@pytest.fixture(scope="module")
def renewal(cluster: KubeadmCluster) -> tuple[Load, kubeadm_use.Audit, float, dict[str, float]]:
    """Every pair is renewed once under load: what failed, who came with what, and when each server followed."""
    cluster.kubernetes.run_pod(POD, node="w-1", seconds=POD_SECONDS)
    load, audit = Load(cluster.kubernetes, [POD]), kubeadm_use.Audit(cluster)
    before = kubeadm_use.lying(cluster)
    followed: dict[str, float] = {}
    with load.running():
        time.sleep(5)
        for node in cluster.nodes.values():
            node.vaultpki("renew", "--all")
        renewed = time.time()
        after = kubeadm_use.lying(cluster)
        assert not set(before.values()) & set(after.values())
        for person in ("admin", "super-admin"):
            cluster.run(f"vaultpki issue {person} --dir operator")

        def all_shown() -> bool:
            for holding, pair in kubeadm_use.shown(cluster).items():
                if pair == after[holding]:
                    followed.setdefault(" ".join(holding), time.time() - renewed)
            return len(followed) == len(kubeadm_use.shown(cluster))

        wait_for(all_shown, SECONDS_FOR_SERVERS, lambda: f"only these show new pairs: {followed}", pause=0.5)
        # To the end, though all may have come before: nobody may come with an older one later.
        while time.time() < renewed + LOOK_SECONDS + MARGIN_SECONDS + 5:
            time.sleep(1)
        audit.read()
    audit.read()
    return load, audit, renewed, followed


def test_leaves_are_renewed_under_load_without_a_failed_request(
    renewal: tuple[Load, kubeadm_use.Audit, float, dict[str, float]],
) -> None:
    load, audit, _, _ = renewal
    assert [failure for failure in load.failures if failure.of_tls] == []
    assert len([each for each in load.failures if not each.late]) <= load.worked.total() / 1000, load.failures
    assert len(load.failures) <= load.worked.total() / 100, load.failures
    assert load.lacking() == {}, load.worked
    assert audit.unauthorized == []


def test_clients_came_with_their_new_pairs(
    cluster: KubeadmCluster, renewal: tuple[Load, kubeadm_use.Audit, float, dict[str, float]]
) -> None:
    """Scheduler and controller manager too, in whose pods a kubeconfig is mounted that never changes."""
    _, audit, renewed, _ = renewal
    new = kubeadm_use.lying(cluster)
    latest = renewed + LOOK_SECONDS + MARGIN_SECONDS
    missing = [
        (node.name, row.name)
        for node, row in kubeadm_use.held(cluster)
        if row.kubeconfig and new[node.name, row.name] not in audit.uses
    ]
    assert missing == []
    others = {pair: at for pair, at in audit.uses.items() if at > latest and pair not in new.values()}
    people = {kubeadm_use.sha256(cluster.operator / f"{who}.crt") for who in ("admin", "super-admin")}
    assert not others.keys() - people


# kubeadm's later commands


@pytest.fixture
def administrator(cluster: KubeadmCluster) -> Iterator[None]:
    """The administrator's file where kubeadm looks for it."""
    for name in PLANES:
        cluster.run(f"scp -p operator/admin.conf root@{name}:/etc/kubernetes/")
    yield
    for name in PLANES:
        cluster.run("rm -f /etc/kubernetes/admin.conf", name)


@pytest.mark.usefixtures("administrator")
def test_kubeadm_renews_nothing_and_cannot_read_expirations(cluster: KubeadmCluster) -> None:
    before = files(cluster.nodes["cp-1"])
    said = cluster.run("kubeadm certs check-expiration", "cp-1", expect=1)
    assert "controller-manager.conf does not have an embedded server certificate" in said
    said = cluster.run("kubeadm certs renew all", "cp-1")
    # All but super-admin.conf, which is not there any more.
    assert said.count("can't be renewed") == 10 and "Detected external etcd/ca" in said
    assert files(cluster.nodes["cp-1"]) == before


@pytest.mark.usefixtures("administrator")
@pytest.mark.parametrize("name", ["w-1", "cp-3"])
def test_a_node_joins_again_after_a_reset(cluster: KubeadmCluster, name: str) -> None:
    """kubeadm deletes the node's certificates; its agent brings them back, and makes another service-account key."""
    node, kubernetes = cluster.nodes[name], cluster.kubernetes
    before = files(node)
    cluster.run(f"kubeadm reset -f --ignore-preflight-errors={IGNORED}", name)
    assert not kubeadm_use.file(node, kubeadm_use.row("kubelet")).exists()
    kubernetes.kubectl(kubernetes.admin, "delete", "node", name)
    node.vaultpki("agent", "--once")
    if name in PLANES:
        for other in PLANES:
            if other != name:
                cluster.nodes[other].resident()
        cluster.run(f"vaultpki ca continue --replaced {name} --wait")
        node.vaultpki("agent", "--once")
        cluster.run(f"scp -p operator/admin.conf root@{name}:/etc/kubernetes/")
    cluster.run("kubeadm join --config /etc/kubernetes/kubeadm/kubeadm.yaml", name)
    assert files(node).keys() == before.keys()
    kubernetes.run_pod(f"again-on-{name}", node=name, seconds=POD_SECONDS)
    assert kubernetes.kubectl(kubernetes.admin, "logs", f"again-on-{name}").stdout == "hello\n"
    refuse_ca_keys(cluster, "a reset and a join")


# A control plane that joins later


@pytest.fixture(scope="module")
def grown(made: KubeadmCluster) -> KubeadmCluster:
    """The cluster with the further control plane of the page; the agents of all others stay meanwhile."""
    for name in PLANES:
        node = made.nodes[name]
        if "poll: 10s" not in node.seen(kubeadm_planes.AGENT).read_text():
            kubeadm_planes.configure(node, "poll: 5m", "poll: 10s")
        agent = node.machine.processes.get("agent")
        if agent is None or not agent.alive():
            node.resident()
    made.grow()
    return made


def test_a_control_plane_joins_later_by_the_page(grown: KubeadmCluster) -> None:
    page_runner.refuse_other_output(grown.ran, grown.folder)
    kubernetes = grown.kubernetes
    kubernetes.run_pod("later", node="cp-4", seconds=POD_SECONDS)
    assert kubernetes.kubectl(kubernetes.admin, "logs", "later").stdout == "hello\n"


def test_its_tokens_are_accepted_everywhere_and_it_accepts_those_of_all(grown: KubeadmCluster) -> None:
    judge_tokens(grown)
    assert len(grown.kubernetes.apis) == 4


def test_no_private_key_lies_on_two_machines_in_the_end(grown: KubeadmCluster) -> None:
    assert held_on_disks.on_two_of(grown) == []
