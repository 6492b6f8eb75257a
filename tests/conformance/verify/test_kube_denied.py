"""Whom the table does not let in stays out: every pair, and strangers, at every door; and no server passes for another.

The matrix is `access_matrix`: who is told what follows from the table by one rule for each component.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.kube import access_matrix, kubelet_authorization
from helpers.kube.access_matrix import SERVERS, Caller, Door, Verdict
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.vault.servers import wait_for
from vaultpki.certificates import ISSUING_CAS, TABLE, bundle, chain_bundle, resolve, rows
from vaultpki.model import Certificate

pytestmark = pytest.mark.conformance

SHAPES = ("one_node", "robbed")
DOORS = (
    "etcd",
    "etcd-peer",
    "kube-apiserver",
    "kube-apiserver, claiming",
    "kubelet",
    "kubelet, claiming",
    "kube-controller-manager",
    "kube-controller-manager, claiming",
    "kube-scheduler",
    "kube-scheduler, claiming",
)
# In so many words what the rules derive: which of the table's rows each component lets in.
CLIENTS_OF_ETCD = {"kube-apiserver-etcd", "etcd-healthcheck-client", "etcd-server", "etcd-peer"}
USERS = {
    "admin",
    "super-admin",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-proxy",
    "kube-apiserver-kubelet",
    "kubelet-client",
}
LET_IN = {
    "etcd": CLIENTS_OF_ETCD,
    "etcd-peer": CLIENTS_OF_ETCD,
    "kube-apiserver": USERS,
    "kubelet": {"kube-apiserver-kubelet", "admin", "super-admin"},
    "kube-controller-manager": {"admin", "super-admin"},
    "kube-scheduler": {"admin", "super-admin"},
}
WRONG_NAME = "elsewhere.invalid"


@pytest.fixture(scope="session", params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Kubernetes:
    found: Kubernetes = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def everybody(shape: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> list[Caller]:
    return access_matrix.callers(shape, tmp_path_factory.mktemp("forged"))


@pytest.mark.parametrize("name", DOORS)
def test_everybody_at_every_door(shape: Kubernetes, everybody: list[Caller], name: str) -> None:
    """Each is told what the table says, and the component's own log or answer says why."""
    found = access_matrix.doors(shape)
    assert tuple(sorted(found)) == tuple(sorted(DOORS))
    door = found[name]
    assert door.misjudged(shape, everybody) == {}
    assert {caller.certificate.name for caller in everybody if caller.certificate} == {
        row.name for row in rows(shape.cluster.model)
    }
    let_in = {c.certificate.name for c in everybody if c.certificate and door.rule(c).let_in}
    own = {row.name for row in shape.cluster.model.rows}
    listed = LET_IN[name.removesuffix(", claiming")] | ({"front-proxy-client"} if _fronted(name) else set())
    assert let_in - own == listed
    assert not [caller for caller in everybody if not caller.genuine and door.rule(caller).let_in]


def _fronted(name: str) -> bool:
    return name.endswith(", claiming") and not name.startswith("kubelet")


def test_rows_of_a_users_own_are_tried_by_the_same_rules(robbed: Kubernetes, tmp_path: Path) -> None:
    own = {row.name for row in robbed.cluster.model.rows}
    assert {row.ca for row in robbed.cluster.model.rows} == {*ISSUING_CAS} and len(own) == 12
    found = {
        name: {c.certificate.name for c in access_matrix.pairs(robbed) if c.certificate and door.rule(c).let_in} & own
        for name, door in access_matrix.doors(robbed).items()
    }
    both = ("client", "both")
    assert found["etcd"] == {f"own-etcd-{use}" for use in both}
    # The other has a name, and no member can say whose.
    assert found["etcd-peer"] == {"own-etcd-client"}
    # In front of kube-apiserver only one of an allowed name says who others are.
    assert found["kube-apiserver"] == found["kube-apiserver, claiming"] == {f"own-kubernetes-{use}" for use in both}
    assert not any(found[name] for name in DOORS if not name.startswith(("etcd", "kube-apiserver")))


def test_kube_apiservers_audit_log_has_every_refusal(shape: Kubernetes, everybody: list[Caller]) -> None:
    door = access_matrix.doors(shape)["kube-apiserver"]
    since = shape.audit_position()
    expected = Counter(door.rule(caller).status for caller in everybody)
    assert door.misjudged(shape, everybody) == {}

    def codes() -> Counter[int | None]:
        return Counter(
            event["responseStatus"]["code"]
            for event in shape.audit(since)
            if event["requestURI"] == access_matrix.WHO_AM_I
        )

    wait_for(lambda: codes() == expected, 10, lambda: f"{codes()}, not {expected}")
    assert expected[401] and expected[201] and expected[403] == 1


def test_a_members_pair_is_a_peers_on_its_own_machine_alone(shape: Kubernetes) -> None:
    """Carried elsewhere it still opens etcd, as any client's does; but its holder is no member."""
    found = access_matrix.doors(shape)
    carried = [
        replace(caller, machine=shape.outside)
        for caller in access_matrix.pairs(shape)
        if caller.certificate and caller.certificate.name in ("etcd-server", "etcd-peer")
    ]
    assert len(carried) == 2 * len(shape.members)
    for name, opens in (("etcd", True), ("etcd-peer", False)):
        assert found[name].misjudged(shape, carried) == {}
        assert {found[name].rule(caller).let_in for caller in carried} == {opens}


@contextlib.contextmanager
def started_with(kubernetes: Kubernetes, door: Door, changed: Callable[[list[str]], list[str]]) -> Iterator[None]:
    """A component started with other flags; on the way out as it was."""
    process = kubernetes.component(door.component, door.node.name)
    before = list(process.command)

    def start(command: list[str]) -> None:
        process.kill()
        process.command = command
        process.start()
        wait_for(
            lambda: door.node.machine.answers(door.port) and (door.component != "kube-apiserver" or kubernetes.ready()),
            60,
            process.last_words,
            pause=0.2,
        )

    try:
        start(changed(before))
        yield
    finally:
        start(before)
        for name in ("kube-controller-manager", "kube-scheduler"):
            # They end by themselves where they could not renew their lease.
            other = kubernetes.component(name)
            if not other.alive():
                other.restart()


def flagged(flag: str, value: object) -> Callable[[list[str]], list[str]]:
    def changed(command: list[str]) -> list[str]:
        assert any(word.startswith(f"{flag}=") for word in command)
        return [f"{flag}={value}" if word.startswith(f"{flag}=") else word for word in command]

    return changed


def test_etcd_with_the_root_among_its_cas_is_found(robbed: Kubernetes, tmp_path: Path) -> None:
    """The control: with the chain bundle etcd believes what any CA of the cluster signed, and the matrix fails."""
    door, everybody = access_matrix.doors(robbed)["etcd"], access_matrix.callers(robbed, tmp_path)
    wrong = flagged("--trusted-ca-file", door.node.pki / chain_bundle("kubernetes"))
    with started_with(robbed, door, wrong):
        found = door.misjudged(robbed, everybody)
        opened = {caller.label for caller in everybody if caller.label in found and door.probe(caller).status == 200}
    assert opened == {c.label for c in everybody if foreign(c, "etcd") and c.certificate and c.certificate.usage.client}
    assert {"worker-1's kubelet-client", "worker-2's kube-proxy", "cp-1's front-proxy-client"} <= opened
    assert set(found) == {caller.label for caller in everybody if foreign(caller, "etcd")}
    assert door.misjudged(robbed, everybody) == {}


def foreign(caller: Caller, ca: str) -> bool:
    return caller.certificate is not None and caller.genuine and caller.certificate.ca != ca


def test_a_kubelet_with_the_root_among_its_cas_is_found(robbed: Kubernetes, tmp_path: Path) -> None:
    door, everybody = access_matrix.doors(robbed)["kubelet"], access_matrix.callers(robbed, tmp_path)
    file = door.node.machine.folder / "kubelet.yaml"
    configuration: dict[str, Any] = yaml.safe_load(file.read_text())
    configuration["authentication"]["x509"]["clientCAFile"] = str(door.node.pki / chain_bundle("kubernetes"))
    (tmp_path / "kubelet.yaml").write_text(yaml.safe_dump(configuration))
    with started_with(robbed, door, flagged("--config", tmp_path / "kubelet.yaml")):
        assert set(door.misjudged(robbed, everybody)) == {c.label for c in everybody if foreign(c, "kubernetes")}
    assert door.misjudged(robbed, everybody) == {}


def test_a_kube_apiserver_with_the_root_and_any_front_proxy_is_found(robbed: Kubernetes, tmp_path: Path) -> None:
    found, everybody = access_matrix.doors(robbed), access_matrix.callers(robbed, tmp_path)
    plain, claiming = (found[f"kube-apiserver{which}"] for which in ("", ", claiming"))
    chain = plain.node.pki / chain_bundle("kubernetes")
    wrong = flagged("--client-ca-file", chain), flagged("--requestheader-allowed-names", "")
    strange = {caller.label for caller in everybody if foreign(caller, "kubernetes")}
    try:
        with started_with(robbed, plain, lambda command: wrong[1](wrong[0](command))):
            assert set(plain.misjudged(robbed, everybody)) == strange
            assert set(claiming.misjudged(robbed, everybody)) == strange - {"cp-1's front-proxy-client"}
        assert plain.misjudged(robbed, everybody) == claiming.misjudged(robbed, everybody) == {}
        # What it told others of its CAs it adds to, and takes nothing back of itself (kubernetes
        # pkg/controlplane/controller/clusterauthenticationtrust): docs/components.md says what to do.
        assert told_cas(robbed) == chain.read_text()
        assert set(found["kube-scheduler"].misjudged(robbed, everybody)) == strange
    finally:
        robbed.kubectl(robbed.admin, "delete", *TOLD)
    right = (plain.node.pki / bundle("kubernetes")).read_text()
    wait_for(lambda: told_cas(robbed) == right, 30, lambda: told_cas(robbed), pause=0.2)
    for name in ("kube-scheduler", "kube-controller-manager"):
        _await_order(robbed, found[name], everybody)


def _await_order(kubernetes: Kubernetes, door: Door, everybody: list[Caller]) -> None:
    wrong: dict[str, str] = {}

    def in_order() -> bool:
        wrong.clear()
        wrong.update(door.misjudged(kubernetes, everybody))
        return not wrong

    wait_for(in_order, 60, lambda: str(wrong), pause=0.5)


TOLD = ("configmap", "extension-apiserver-authentication", "-n", "kube-system")


def told_cas(kubernetes: Kubernetes) -> str:
    """The client CAs that kube-apiserver tells kube-controller-manager, kube-scheduler and aggregated API servers."""
    path = "jsonpath={.data.client-ca-file}"
    return kubernetes.kubectl(kubernetes.admin, "get", *TOLD, "--ignore-not-found", "-o", path).stdout


def test_no_component_listens_but_where_the_matrix_probes(shape: Kubernetes) -> None:
    """Beyond its own machine; but for kube-proxy, whose health is for load balancers, and says nothing else."""
    running = {pid: where for where, pid in shape.running().items()}
    found = set()
    for node in shape.nodes.values():
        for line in node.machine.run("ss", "-ltnpH").stdout.splitlines():
            address, port = line.split()[3].rsplit(":", 1)
            pids = [int(pid) for pid in re.findall(r"pid=(\d+)", line)]
            if not address.startswith("127."):
                found |= {(running[pid][1], int(port)) for pid in pids if pid in running}
    assert found == {(door.component, door.port) for door in access_matrix.doors(shape).values()} | {
        ("kube-proxy", 10256)
    }
    url = f"http://{shape.worker.address}:10256"
    for path, status in {"/healthz": "200", "/metrics": "404", "/configz": "404", "/proxyMode": "404"}.items():
        code = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url + path)
        assert shape.outside.run(*code).stdout == status


def serving(kubernetes: Kubernetes) -> dict[str, tuple[KubeNode, Certificate]]:
    """The first node that has each server's row, and its certificate."""
    cluster = kubernetes.cluster.model
    listed = {node.name: node for node in cluster.nodes}
    found = {}
    for row in rows(cluster):
        if row.usage.server and row.name in SERVERS:
            node = access_matrix.holders(kubernetes, row)[0][0]
            assert node is not None
            found[row.name] = node, resolve(row, cluster, listed[node.name])
    return found


def names_of(certificate: Certificate) -> list[str]:
    return [*certificate.subject.dns, *certificate.subject.ips]


def every_name(kubernetes: Kubernetes) -> list[str]:
    """All that any server of the cluster is called."""
    cluster = kubernetes.cluster.model
    held = [
        resolve(row, cluster, node)
        for row in rows(cluster)
        for node in cluster.nodes
        if row.usage.server and row.node_roles & node.roles
    ]
    return list(dict.fromkeys(name for certificate in held for name in (*names_of(certificate), WRONG_NAME)))


def believed(kubernetes: Kubernetes, at: tuple[str, int], trusted: Path, name: str) -> str:
    """What a client that trusts this bundle says of a server called by this name; empty where it is content."""
    context = ssl.create_default_context(cafile=str(trusted))
    # Go's clients stop at a trusted issuing CA.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with kubernetes.outside.connect(*at) as connection:
        try:
            context.wrap_socket(connection, server_hostname=name).close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return ""


@pytest.mark.parametrize("row", SERVERS)
def test_a_server_passes_by_its_own_names_and_its_own_ca_alone(shape: Kubernetes, row: str) -> None:
    assert {row.name for row in TABLE if row.usage.server} == SERVERS.keys()
    node, certificate = serving(shape)[row]
    at, own = (node.address, SERVERS[row]), names_of(certificate)
    trials = [(bundle(certificate.ca), name, "") for name in own]
    # The root is in every chain bundle, so there names are all that holds one server from passing for another.
    trials += [(chain_bundle(ca), name, "") for ca in ISSUING_CAS for name in own]
    others = [name for name in every_name(shape) if name not in own]
    assert WRONG_NAME in others
    for name in others:
        mismatch = "IP address mismatch" if name[0].isdigit() or ":" in name else "Hostname mismatch"
        trials += [(file(ca), name, mismatch) for ca in ISSUING_CAS for file in (chain_bundle,)]
        trials.append((bundle(certificate.ca), name, mismatch))
    for ca in (ca for ca in ISSUING_CAS if ca != certificate.ca):
        trials += [(bundle(ca), name, "unable to get local issuer certificate") for name in own]
    wrong = {
        (file, name): said
        for file, name, expected in trials
        if expected not in (said := believed(shape, at, node.pki / file, name)) or (said and not expected)
    }
    assert wrong == {}


@pytest.mark.parametrize("row", SERVERS)
def test_gos_own_clients_say_the_same(shape: Kubernetes, row: str) -> None:
    node, certificate = serving(shape)[row]
    other = next(name for name in every_name(shape) if name not in names_of(certificate) and name != WRONG_NAME)

    def said(file: str, name: str) -> str:
        trust = (f"--certificate-authority={node.pki / file}", f"--tls-server-name={name}")
        at = f"--server=https://{node.address}:{SERVERS[row]}"
        # It would ask for a name and a password where it is given nothing.
        kubectl = (shape.programs.path("kubectl"), at, *trust, "--token=none", "get", "--raw=/")
        return shape.outside.run(*kubectl, expect=None).stderr

    own = names_of(certificate)[0]
    for ca in ISSUING_CAS:
        assert ("x509: certificate signed by unknown authority" in said(bundle(ca), own)) == (ca != certificate.ca)
    assert "x509" not in said(chain_bundle(certificate.ca), own)
    for file in (bundle(certificate.ca), *map(chain_bundle, ISSUING_CAS)):
        assert re.search(rf"x509: certificate is valid for .*, not {re.escape(other)}", said(file, other))


def test_a_kubelet_is_held_to_its_own_node(shape: Kubernetes) -> None:
    own, other = shape.worker, "elsewhere"
    with kubelet_authorization.two_nodes(shape, own.name, other) as two_nodes:
        got = kubelet_authorization.get_through(shape, own.pki, two_nodes)
        assert got == {}
        own_things = kubelet_authorization.of_its_own(two_nodes)
        wait_for(lambda: not kubelet_authorization.kept_from(shape, own.pki, own_things), 10, lambda: f"{own_things}")


def test_verdicts_are_no_more_than_they_say() -> None:
    """The rules' own control: 'let in' is a 2xx, and nothing else."""
    assert Verdict(200).let_in and Verdict(201).let_in
    assert not any(verdict.let_in for verdict in (Verdict(401), Verdict(403), Verdict(alert="unknown_ca")))
