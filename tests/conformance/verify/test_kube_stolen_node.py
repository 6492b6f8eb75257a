"""A stolen worker: with all its files and its Vault credential somebody is that worker, and nobody and nothing else.

Each attempt fails at the one who has to refuse it, and for the reason that stands beside it; meanwhile the worker's own
work goes on. In the end its identity is taken away, and with the same loot nothing new is to be had.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.faults.forbidden_requests import Intruder, holes
from helpers.kube import access_matrix, kube_cluster, kubelet_authorization
from helpers.kube.access_matrix import Caller
from helpers.kube.certificates_in_use import OF_TLS
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.kube.kubelet_authorization import Attempt, TwoNodes
from helpers.kube.machines import Machine
from helpers.node import enrolled_nodes
from helpers.vault import applied_cluster
from helpers.vault.server_calls import Answer
from helpers.vault.servers import wait_for
from vaultpki.certificates import bundle, pair_files, resolve, row_named, sign_parameters
from vaultpki.model import Node, NodeRole, Row
from vaultpki.verify import vault_trial

pytestmark = pytest.mark.conformance

OWN, OTHER = "worker-1", "worker-2"
# As cluster.yaml has it until it is taken off.
NODE = Node(OWN, frozenset({NodeRole.WORKER}), ("198.51.100.31",))
MINE = [row for row in OF_TLS if NodeRole.WORKER in row.node_roles]
DENIED = "permission denied"


def named(row: Row) -> str:
    return row.name


@dataclass(frozen=True)
class Thief:
    """Who has a copy of everything on a worker, and sits on no machine of the cluster's."""

    kubernetes: Kubernetes
    loot: Path
    role_id: str
    secret_id: str
    token: str
    keys: vault_trial.Keys

    @property
    def pki(self) -> Path:
        return self.loot / "pki"

    @property
    def prefix(self) -> str:
        return self.kubernetes.cluster.prefix

    def pair(self, row: Row) -> tuple[Path, Path]:
        crt, key, _ = pair_files(row.stem)
        return self.pki / crt, self.pki / key

    def caller(self, row: Row) -> Caller:
        cluster = self.kubernetes.cluster.model
        certificate = resolve(row_named(cluster, row.name), cluster, NODE)
        return Caller(f"a thief's {row.name}", self.kubernetes.outside, certificate, self.pair(row))

    def vault(self, method: str, path: str, body: object = None) -> Answer:
        return self.kubernetes.cluster.server.api(method, path.format(prefix=self.prefix), body, token=self.token)

    def intruder(self) -> Intruder:
        return Intruder(self.kubernetes.cluster, OWN, NODE, self.token, self.keys)


@pytest.fixture(scope="module")
def thief(robbed: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Thief:
    loot = tmp_path_factory.mktemp("loot") / OWN
    shutil.copytree(robbed.nodes[OWN].node.folder, loot, symlinks=True)
    role_id = yaml.safe_load((loot / "agent.yaml").read_text())["auth"]["role_id"]
    secret_id = (loot / "state" / "secret-id").read_text().strip()
    token = enrolled_nodes.login(robbed.cluster, "listed", role_id, secret_id)
    assert token is not None, "the credential that was stolen is good"
    return Thief(robbed, loot, role_id, secret_id, token, vault_trial.Keys())


@pytest.fixture(scope="module")
def two_nodes(robbed: Kubernetes) -> Iterator[TwoNodes]:
    with kubelet_authorization.two_nodes(robbed, OWN, OTHER) as made:
        yield made


# At Vault: be another node, or another component.

_ROLES = "auth/{prefix}/listed/role"


def refused(answer: Answer) -> bool:
    """By the policy itself, before anything of the request was looked at."""
    return answer.status == 403 and DENIED in str(answer.body)


def test_vault_refuses_the_whole_forbidden_list(thief: Thief) -> None:
    assert NODE in thief.kubernetes.cluster.model.nodes
    intruder = thief.intruder()
    intruder.own()
    outcomes = intruder.tries()
    assert holes(outcomes) == [] and len([o for o in outcomes if o.status >= 400]) >= 1000
    intruder.own()


# At the components: be another client.


@pytest.mark.parametrize("row", MINE, ids=named)
@pytest.mark.parametrize("claiming", [False, True], ids=["plain", "with X-Remote headers"])
def test_its_pairs_open_no_other_door(thief: Thief, row: Row, claiming: bool) -> None:
    """etcd, another's kubelet, the controller manager and the scheduler; at kube-apiserver it is who it is."""
    robbed, caller = thief.kubernetes, thief.caller(row)
    found = access_matrix.doors(robbed)
    other = robbed.nodes[OTHER]
    tried = {name: door for name, door in found.items() if name.endswith(", claiming") == claiming}
    for name, door in tried.items():
        if door.component == "kubelet":
            tried[name] = replace(door, node=other)
    if claiming:
        tried |= {name: replace(found[name], headers=access_matrix.HEADERS) for name in ("etcd", "etcd-peer")}
    wrong = {name: door.misjudged(robbed, [caller]) for name, door in tried.items()}
    assert not any(wrong.values()), wrong
    let_in = {name.partition(",")[0] for name, door in tried.items() if door.rule(caller).let_in}
    assert let_in == ({"kube-apiserver"} if row.usage.client and row.ca == "kubernetes" else set())


KUBELETS_PATHS = (
    "/pods",
    "/exec/default/theirs/only",
    "/run/default/theirs/only",
    "/containerLogs/default/theirs/only",
    "/metrics",
    "/configz",
    "/logs/",
    "/debug/pprof/heap",
    "/stats/summary",
)


@pytest.mark.parametrize("path", KUBELETS_PATHS)
def test_another_kubelet_answers_none_of_its_pairs(thief: Thief, two_nodes: TwoNodes, path: str) -> None:
    robbed = thief.kubernetes
    door = replace(access_matrix.doors(robbed)["kubelet"], node=robbed.nodes[OTHER], path=path)
    for row in MINE:
        heard = door.probe(thief.caller(row))
        if row.ca == "kubernetes":
            user = row.common_name.replace("{node}", OWN)
            assert heard.status == 403 and f"Forbidden (user={user}, " in heard.body, (row.name, heard)
        else:
            assert heard.status == 401 and heard.body.strip() == "Unauthorized", (row.name, heard)


def test_kube_apiserver_refuses_its_kubelet(thief: Thief, two_nodes: TwoNodes) -> None:
    assert len(kubelet_authorization.of_a_kubelet(two_nodes)) > 50
    assert kubelet_authorization.get_through(thief.kubernetes, thief.pki, two_nodes) == {}


_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_DEFAULT = "/api/v1/namespaces/default"
OF_A_PROXY = [
    Attempt("read secrets", "GET", "/api/v1/secrets", 'cannot list resource "secrets"'),
    Attempt("read a secret", "GET", f"{_DEFAULT}/secrets/mine", 'cannot get resource "secrets"'),
    Attempt("read configurations", "GET", "/api/v1/configmaps", 'cannot list resource "configmaps"'),
    Attempt("read pods", "GET", "/api/v1/pods", 'cannot list resource "pods"'),
    Attempt(
        "make a pod",
        "POST",
        f"{_DEFAULT}/pods",
        'cannot create resource "pods"',
        kubelet_authorization.pod("rogue", OWN),
    ),
    Attempt("run a command", "POST", f"{_DEFAULT}/pods/mine/exec?command=id", 'cannot create resource "pods/exec"'),
    Attempt(
        "move a service",
        "PATCH",
        f"{_DEFAULT}/services/kubernetes",
        'cannot patch resource "services"',
        {},
        kubelet_authorization.PATCHING,
    ),
    Attempt(
        "change a node",
        "PATCH",
        f"/api/v1/nodes/{OWN}",
        'cannot patch resource "nodes"',
        {},
        kubelet_authorization.PATCHING,
    ),
    Attempt("a token", "POST", f"{_DEFAULT}/serviceaccounts/mine/token", 'resource "serviceaccounts/token"', {}),
    Attempt("bind itself", "POST", f"{_RBAC}/clusterrolebindings", 'cannot create resource "clusterrolebindings"', {}),
    Attempt("be an admin", "GET", "/api/v1/secrets", "cannot impersonate", headers={"Impersonate-User": "admin"}),
]


@pytest.mark.parametrize("attempt", OF_A_PROXY, ids=lambda attempt: attempt.name)
def test_kube_apiserver_refuses_its_proxy(thief: Thief, two_nodes: TwoNodes, attempt: Attempt) -> None:
    heard = kubelet_authorization.ask(thief.kubernetes, thief.pki, "kube-proxy", attempt)
    assert kubelet_authorization.refused(attempt, heard), heard


# Pass for a server, at the address of the one whom others call.


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"mine\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class calls it so
        pass


@contextlib.contextmanager
def passing(machine: Machine, pair: tuple[Path, Path]) -> Iterator[int]:
    """Somebody with a pair has a machine's address: the port where he answers in its place."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    listening = machine.listen()
    address = listening.getsockname()
    server = ThreadingHTTPServer(address, _Server, bind_and_activate=False)
    server.socket.close()
    server.socket = context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    # Refused handshakes are what is looked for.
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def by_kube_apiserver(robbed: Kubernetes, at: KubeNode, port: int) -> str:
    """What an admin gets who reaches through kube-apiserver for a kubelet that is said to be there."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "called"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": at.address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    }
    robbed.kubectl(robbed.admin, "create", "-f", "-", stdin=json.dumps(node))
    try:
        # No replacement: controllers write to a new node too.
        robbed.kubectl(robbed.admin, "patch", "node", "called", "--subresource=status", "-p", json.dumps(node))
        ran = robbed.kubectl(robbed.admin, "get", "--raw", "/api/v1/nodes/called/proxy/pods", expect=None)
        return ran.stdout + ran.stderr
    finally:
        robbed.kubectl(robbed.admin, "delete", "node", "called")


def disbelief(row: Row, address: str) -> str:
    """Why a client of Go's does not take one of the worker's pairs for the server that it calls at an address.

    Go looks at the names first. Only the serving pair has any, and by these it is the CA that tells it from another.
    """
    if not row.usage.server:
        return f"x509: cannot validate certificate for {address} because it doesn't contain any IP SANs"
    own = NODE.addresses[0]
    return (
        f"x509: {access_matrix.UNKNOWN}" if address == own else f"x509: certificate is valid for {own}, not {address}"
    )


@pytest.mark.parametrize("row", MINE, ids=named)
def test_its_pairs_pass_for_no_other_kubelet(thief: Thief, row: Row) -> None:
    robbed = thief.kubernetes
    other = robbed.nodes[OTHER]
    with passing(other.machine, thief.pair(row)) as port:
        assert disbelief(row, other.address) in by_kube_apiserver(robbed, other, port)
    crt, key, _ = pair_files("kubelet")
    with passing(other.machine, (other.pki / crt, other.pki / key)) as port:
        assert by_kube_apiserver(robbed, other, port) == "mine\n"


# At the address of the one that is called, and at the worker's own, where somebody was led.
PLACES = ["theirs", "its own"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", MINE, ids=named)
def test_its_pairs_do_not_pass_for_kube_apiserver(thief: Thief, row: Row, place: str) -> None:
    robbed = thief.kubernetes
    at = robbed.control_plane if place == "theirs" else robbed.nodes[OWN]
    with passing(at.machine, thief.pair(row)) as port:
        server = f"https://{at.address}:{port}"
        for conf in ("scheduler.conf", "controller-manager.conf"):
            ran = robbed.kubectl(robbed.control_plane.pki / conf, f"--server={server}", "get", "--raw=/", expect=1)
            assert disbelief(row, at.address) in ran.stderr
        if place == "theirs":
            # Whose bundle has the root in it, and so names alone.
            ran = robbed.kubectl(robbed.admin, f"--server={server}", "get", "--raw=/", expect=1)
            assert disbelief(row, at.address) in ran.stderr


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("row", MINE, ids=named)
def test_its_pairs_do_not_pass_for_etcd(thief: Thief, row: Row, place: str) -> None:
    """To a client such as kube-apiserver, which has its pair and its bundle."""
    robbed = thief.kubernetes
    at, client = robbed.members[0] if place == "theirs" else robbed.nodes[OWN], robbed.control_plane
    crt, key, _ = pair_files("kube-apiserver-etcd")
    own = [f"--cacert={client.pki / bundle('etcd')}", f"--cert={client.pki / crt}", f"--key={client.pki / key}"]
    with passing(at.machine, thief.pair(row)) as port:
        called = (f"--endpoints=https://{at.address}:{port}", *own, "--command-timeout=3s", "get", "/registry")
        ran = client.machine.run(robbed.programs.path("etcdctl"), *called, expect=1)
    assert disbelief(row, at.address) in ran.stderr


# And all the while, and after.


def test_its_own_work_goes_on(thief: Thief, two_nodes: TwoNodes) -> None:
    robbed = thief.kubernetes
    node = robbed.nodes[OWN]
    robbed.running()

    def renewed() -> str:
        path = "jsonpath={.spec.renewTime}"
        return robbed.kubectl(robbed.admin, "get", "lease", OWN, "-n", "kube-node-lease", "-o", path).stdout

    before = renewed()
    held = {row.name: (node.pki / pair_files(row.stem)[0]).read_bytes() for row in MINE}
    assert enrolled_nodes.login(robbed.cluster, "listed", thief.role_id, thief.secret_id)
    assert robbed.vaultpki(OWN, "renew", "--all").returncode == 0
    robbed.agent(OWN)
    for row in MINE:
        assert (node.pki / pair_files(row.stem)[0]).read_bytes() != held[row.name]
    wait_for(lambda: renewed() != before, 30, lambda: "the kubelet's heart has stopped", pause=0.3)
    robbed.await_node(OWN)
    own = kubelet_authorization.of_its_own(two_nodes)
    wait_for(lambda: not kubelet_authorization.kept_from(robbed, node.pki, own), 10, lambda: f"not all of {own}")
    phase = ("get", "pod", "mine", "-o", "jsonpath={.status.phase}")
    wait_for(lambda: robbed.kubectl(robbed.admin, *phase).stdout == "Running", 30, lambda: "its pod does not run", 0.3)


@pytest.fixture(scope="module")
def unenrolled(thief: Thief) -> Iterator[str]:
    """worker-1 has no identity any more, and gets a new one in the end; given is a secret id that was minted before."""
    robbed = thief.kubernetes
    cluster, node = robbed.cluster, robbed.nodes[OWN].node
    enroller = enrolled_nodes.Enroller(cluster, cluster.token())
    # `enroll` gives none beside a live credential.
    token = enrolled_nodes.wrapped(cluster, f"auth/{cluster.prefix}/listed/role/{OWN}/secret-id", ttl="1h")
    late = enrolled_nodes.edited(node.folder / "join.json", thief.loot / "late.json", wrap_token=token)
    fresh = enrolled_nodes.minted(cluster, "listed", OWN, thief.token)
    cluster.write(
        "".join(line for line in kube_cluster.ROBBED.splitlines(keepends=True) if f"name: {OWN}," not in line)
    )
    # It is not told to be gone before it is.
    assert (
        f"run `vaultpki apply -f {cluster.file}`" in enroller.run("unenroll", "-f", cluster.file, OWN, expect=1).stderr
    )
    cluster.apply()
    assert f"{OWN} has no identity in this Vault" in enroller.run("unenroll", "-f", cluster.file, OWN, expect=1).stderr
    yield fresh
    cluster.write(kube_cluster.ROBBED)
    cluster.apply()
    assert late.exists()
    shutil.rmtree(node.state)
    enrolled_nodes.join(node, enroller.join_file(OWN, thief.loot / "anew.json"))


def test_unenrolled_it_cannot_log_in(thief: Thief, unenrolled: str) -> None:
    for secret_id in (thief.secret_id, unenrolled):
        body = {"role_id": thief.role_id, "secret_id": secret_id}
        answer = thief.kubernetes.cluster.server.api("POST", f"auth/{thief.prefix}/listed/login", body, token="")
        assert answer.status == 400 and "invalid role" in str(answer.body), answer


@pytest.mark.parametrize("row", MINE, ids=named)
def test_unenrolled_its_earlier_token_signs_nothing(thief: Thief, unenrolled: str, row: Row) -> None:
    cluster = thief.kubernetes.cluster.model
    assert OWN not in {node.name for node in cluster.nodes}
    wanted = resolve(row_named(cluster, row.name), cluster, NODE)
    body = sign_parameters(wanted, thief.keys.request(wanted.key, wanted.subject))
    assert refused(thief.vault("POST", f"{wanted.mount}/sign/{wanted.role}", body))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{_ROLES}/{OWN}/secret-id"),
        ("GET", "{prefix}/config/data/cluster"),
        ("GET", f"{{prefix}}/config/data/nodes/{OWN}"),
        ("POST", f"{{prefix}}/config/data/reports/listed/{OWN}"),
    ],
)
def test_unenrolled_its_earlier_token_is_worth_nothing(thief: Thief, unenrolled: str, method: str, path: str) -> None:
    body: dict[str, Any] | None = None if method == "GET" else {"data": {}} if "/reports/" in path else {}
    assert refused(thief.vault(method, path, body))


def test_unenrolled_its_agent_gets_nothing_and_says_so(thief: Thief, unenrolled: str) -> None:
    """The thief runs the product itself on what it has."""
    config = thief.loot / "agent.yaml"
    config.write_text(config.read_text().replace(str(thief.kubernetes.nodes[OWN].node.folder), str(thief.loot)))
    held = {row.name: thief.pair(row)[0].read_bytes() for row in MINE}
    ran = applied_cluster.vaultpki("renew", "-c", config, "--all", expect=1)
    assert "Vault rejects this node's credential; join with a new join file" in ran.stderr
    assert held == {row.name: thief.pair(row)[0].read_bytes() for row in MINE}


def test_unenrolled_a_join_file_of_before_opens_nothing(thief: Thief, unenrolled: str, tmp_path: Path) -> None:
    node = applied_cluster.NodeFolder(OWN, tmp_path)
    ran = enrolled_nodes.join(node, thief.loot / "late.json", expect=1)
    assert "Vault rejects the credential in the join file" in ran.stderr
    assert not list(node.folder.glob("pki/*.key"))


def test_unenrolled_the_other_worker_goes_on(thief: Thief, unenrolled: str) -> None:
    robbed = thief.kubernetes
    assert robbed.vaultpki(OTHER, "renew", "--all").returncode == 0
    robbed.await_node(OTHER)
