"""The next command of each finding, in the situation that it is for: every view prints the same one, and it works."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from cryptography import x509 as certs
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from helpers.foreign_ca import ForeignCa
from helpers.node import enrolled_nodes, vouched_nodes
from helpers.node.passes import command_here, passed, passed_well, shown
from helpers.node.reporting_nodes import all_pass
from helpers.node.vouched_nodes import Vouched
from helpers.vault import applied_cluster, handmade_keys, handmade_rotation, rotations
from helpers.vault.applied_cluster import ONE_WORKER, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.forked_command import Fork
from helpers.vault.handmade_keys import HandmadeKeys
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.operator_tokens import Who
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.rotations import Rotation, rotation_of
from helpers.vault.servers import free_ports, wait_for
from vaultpki.disk.folders import Folders
from vaultpki.findings.catalogue import KINDS
from vaultpki.findings.finding import names_command
from vaultpki.host import processes
from vaultpki.identity import ending, enrol
from vaultpki.issue import operator
from vaultpki.records.rotation import State

SPEC: Final = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
- {name: worker-3, roles: [worker], addresses: [10.0.0.23]}
- {name: worker-4, roles: [worker], addresses: [10.0.0.24]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
ON_NODES: Final = ("agent", "doctor", "join", "renew", "status")
# Who runs a command, by its first word: whoever has the policy that is printed for it.
WHO: Final[dict[str, Who]] = {"issue": "operator", "lock": "locker"}
ASK: Final = ("admit", "apply", "ca recover", "enroll")


@dataclass
class Case:
    """A cluster with a fault: `name` is its node in `nodes`, "" for the cluster; `node` is that node, if it is real.

    `reported` says that only its report has the fault, not its files: the agent would mend those before it reports.
    `mend` ends the cause, where a person must; `after` is what the command says that comes after it, or waits for. The
    command ends with `code` and what it prints has `says`.
    """

    cluster: AuditedCluster
    name: str = ""
    node: NodeFolder | None = None
    viewer: dict[str, str] = field(default_factory=dict)
    mend: Callable[[], object] = lambda: None
    after: Callable[[str], object] = lambda said: None
    code: int = 0
    says: str = ""
    reported: bool = False

    def passed(self) -> None:
        assert self.node is not None
        passed(self.node)

    def views(self) -> Iterator[list[dict[str, Any]]]:
        """The findings in each view of the fault."""
        env = self.viewer or self.cluster.environment("viewer")
        found = shown("nodes", "-f", self.cluster.file, expect={0, 3}, env=env)
        rows = [each["findings"] for each in found["nodes"] if each["node"] == self.name]
        yield rows[0] if rows else found["findings"] if not self.name else []
        if self.node is not None and self.node.config.exists():
            yield shown("status", "-c", self.node.config, expect={0, 3})["summary"]["findings"]

    def commands(self, name: str) -> list[str]:
        """The next command of a finding in each view that has it, for who stands beside cluster.yaml."""
        said = [dict.fromkeys(one["command"] for one in found if one["name"] == name) for found in self.views()]
        return [each.replace(f" -f {self.cluster.file}", "") for view in said for each in view]

    def run(self, command: str, *, expect: int | set[int] = 0) -> str:
        """Run a command as it is printed, on the node or with the policy that is printed for it."""
        program, *words = shlex.split(command)
        assert program == "vaultpki", command
        if words[0] in ON_NODES:
            assert self.node is not None
            joins = ("--dir", self.node.pki) if words[0] == "join" else ()
            ran = command_here(*words, "-c", self.node.config, *joins, expect=expect)
            return ran.stdout + ran.stderr
        pooled = words[0] == "enroll" and "--pool" in words and "--replace" not in words
        who = "enroller" if pooled else WHO.get(words[0], "applier")
        asks = ["--yes"] if any(" ".join(words).startswith(each) for each in ASK) else []
        with enrolled_nodes.variables(self.cluster.environment(who) | {"VAULTPKI_FILE": str(self.cluster.file)}):
            return command_here(*words, *asks, expect=expect).stdout


@dataclass
class Stand:
    """A cluster that most rows share, with a node that is whole before each of them, and other ones on the server."""

    cluster: AuditedCluster
    node: NodeFolder
    clusters: ClusterFactory
    stack: ExitStack
    whole: bool = False

    def mended(self) -> None:
        """The node is as it should be, whatever an earlier row has done to it."""
        if not self.whole:
            passed_well(self.node, share=1.0)
        self.whole = True

    def of_node(self, **further: Any) -> Case:
        self.whole = False
        return Case(self.cluster, self.node.name, self.node, **further)

    def pooled(self, name: str, further: str = "", **more: Any) -> Case:
        return Case(self.cluster, name, self.cluster.equip(name, pool="autoscaled", further=further), **more)


def api(cluster: AuditedCluster, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = cluster.server.api(method, f"{cluster.prefix}/{path}", body)
    assert answer.status in (200, 204), (path, answer)
    return answer.data if answer.status == 200 else {}


def reports(case: Case, **fields: Any) -> Case:
    """The node has reported this of its kubelet's certificate, and its agent makes no pass since."""
    path = f"config/data/{case.cluster.report_place(case.name)}"
    data = api(case.cluster, "GET", path)["data"]
    data["certificates"]["kubelet"] |= fields
    api(case.cluster, "POST", path, {"data": data})
    return case


def expired(stand: Stand) -> Case:
    """A certificate of the node's own key that ended a moment ago."""
    pki = stand.node.pki
    key = load_pem_private_key((pki / "kubelet.key").read_bytes(), None)
    subject = certs.Name([certs.NameAttribute(NameOID.COMMON_NAME, "system:node:worker-1")])
    request = certs.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())  # type: ignore[arg-type]
    body = {"csr": request.public_bytes(Encoding.PEM).decode(), "ttl": "1s"}
    leaf = api(stand.cluster, "POST", "kubelet/sign-verbatim", body)["certificate"]
    chain = (pki / "kubelet.crt").read_text().partition("-----END CERTIFICATE-----\n")[2]
    (pki / "kubelet.crt").resolve().write_text(f"{leaf}\n{chain}")
    (pki / "kubelet.pem").resolve().write_text((pki / "kubelet.key").read_text() + f"{leaf}\n{chain}")
    time.sleep(1.5)
    return reports(stand.of_node(), state="expired", not_after="2020-01-01T00:00:00Z")


def missing(stand: Stand) -> Case:
    (stand.node.pki / "kubelet.key").unlink()
    return reports(stand.of_node(), state="missing")


def broken(stand: Stand) -> Case:
    other = (stand.node.pki / "kube-proxy.key").read_bytes()
    (stand.node.pki / "kubelet.key").resolve().write_bytes(other)
    return reports(stand.of_node(), state="broken")


def bundle(stand: Stand) -> Case:
    (stand.node.pki / "kubelet-ca.crt").resolve().unlink()
    return stand.of_node()


def revoked(stand: Stand) -> Case:
    serial = certs.load_pem_x509_certificate((stand.node.pki / "kubelet.crt").read_bytes()).serial_number
    text = f"{serial:x}".zfill(len(f"{serial:x}") + len(f"{serial:x}") % 2)
    api(stand.cluster, "POST", "kubelet/revoke", {"serial_number": ":".join(re.findall("..", text))})
    return stand.of_node()


def empty(stand: Stand) -> Case:
    path = f"config/data/{stand.cluster.report_place('worker-1')}"
    api(stand.cluster, "POST", path, {"data": api(stand.cluster, "GET", path)["data"] | {"certificates": {}}})
    return stand.of_node(reported=True)


def report_unreadable(stand: Stand) -> Case:
    api(stand.cluster, "POST", f"config/data/{stand.cluster.report_place('worker-1')}", {"data": {"time": "never"}})
    return stand.of_node()


def surplus(stand: Stand) -> Case:
    path = "config/data/nodes/worker-1"
    before = api(stand.cluster, "GET", path)["data"]
    fewer = [each for each in before["certificates"] if each["name"] != "kube-proxy"]
    api(stand.cluster, "POST", path, {"data": before | {"certificates": fewer}})
    stand.stack.callback(api, stand.cluster, "POST", path, {"data": before})
    passed(stand.node)
    return stand.of_node()


def hook_failed(stand: Stand) -> Case:
    flag = stand.cluster.folder / "flag"
    case = stand.pooled("w-hook", f"hooks: {{kubelet: [[test, -e, {flag}]]}}\n", mend=flag.touch)
    assert case.node is not None
    case.node.run(expect=3)
    return case


def failed(stand: Stand) -> Case:
    """The agent may not ask for a certificate any more, until the server is put right."""
    policy = f"sys/policies/acl/{stand.cluster.prefix}/node/worker-2"
    before = stand.cluster.read(policy)["policy"]
    rules = json.loads(before)
    rules["path"] = {path: rule for path, rule in rules["path"].items() if "kubelet/sign/" not in path}

    def write(text: str) -> None:
        assert stand.cluster.server.api("POST", policy, {"policy": text}).status in (200, 204)

    write(json.dumps(rules))
    folder = stand.cluster.folder / "failed"
    case = Case(stand.cluster, "worker-2", stand.cluster.equip("worker-2", folder=folder), mend=lambda: write(before))
    assert case.node is not None
    case.node.run(expect=1)
    # As long as the cause is there, the command says what it is.
    assert "permission denied" in case.run("vaultpki agent --once", expect=1)
    return case


def lock(cluster: AuditedCluster, name: str) -> None:
    enrol.lock(cluster.model, cluster.client("locker"), name, wait=0)


def credential(cluster: AuditedCluster, name: str) -> None:
    """Somebody makes one more, of a node of a pool."""
    path = f"auth/{cluster.prefix}/pooled/role/{name}/secret-id"
    assert cluster.server.api("POST", path).status == 200


def needs_join(stand: Stand) -> Case:
    case = stand.pooled("w-needs-join")
    case.after = lambda said: case.run("vaultpki join w-needs-join.json")
    case.passed()
    lock(case.cluster, case.name)
    case.passed()
    # One fault, whoever looks.
    assert case.commands("needs-join") == case.commands("locked") != []
    return case


def no_credential(stand: Stand) -> Case:
    """It has expired, and nobody has locked the node."""
    case = stand.pooled("w-no-credential")
    case.after = lambda said: case.run("vaultpki join w-no-credential.json")
    case.passed()
    path = f"auth/{stand.cluster.prefix}/pooled/role/w-no-credential/secret-id"
    (accessor,) = stand.cluster.server.api("LIST", path).data["keys"]
    assert stand.cluster.server.api("POST", f"{path}-accessor/destroy", {"secret_id_accessor": accessor}).status == 204
    case.passed()
    # One fault, whoever looks.
    assert case.commands("needs-join") == case.commands("no-credential") != []
    return case


def locked_and_live(stand: Stand) -> Case:
    case = stand.pooled("w-live")
    case.passed()
    lock(case.cluster, case.name)
    credential(case.cluster, case.name)
    return case


def not_joined_again(stand: Stand) -> Case:
    case = stand.pooled("w-again")
    case.passed()
    lock(case.cluster, case.name)
    case.run("vaultpki enroll w-again --pool autoscaled -o w-again.json")
    return case


def many_credentials(stand: Stand) -> Case:
    case = stand.pooled("w-clone")
    case.passed()
    for _ in range(2):
        credential(case.cluster, case.name)
    return case


def fits_no_pool(stand: Stand) -> Case:
    path = f"auth/{stand.cluster.prefix}/pooled/role/x-1"
    assert stand.cluster.server.api("POST", path, {"token_policies": ["default"]}).status == 204
    return Case(stand.cluster, "x-1")


def join_file_unused(stand: Stand) -> Case:
    node = NodeFolder("worker-4", stand.cluster.folder / "nodes" / "worker-4")
    node.folder.mkdir(parents=True)
    case = Case(stand.cluster, "worker-4", node)
    case.run("vaultpki enroll worker-4 -o worker-4.json")
    return case


def locked(stand: Stand) -> Case:
    """Only a node by token can be let in again."""
    issuer = Issuer()
    cluster = Vouched(stand.cluster.server, stand.clusters.folder / "vouched", "vouched", issuer)
    cluster.write(vouched_nodes.SPEC)
    cluster.apply()
    stand.stack.callback(cluster.destroy)
    passed(cluster.image("c-1"))
    lock(cluster, "c-1")
    return Case(cluster, "c-1")


def foreign_ca(stand: Stand) -> Case:
    spec = f"{ONE_WORKER}ca: {{also_trust: {{kubernetes: [old.crt]}}}}\n"
    cluster = stand.clusters.written(spec, {"old.crt": ForeignCa().pem})
    cluster.apply()
    case = Case(cluster, "worker-1", cluster.equip("worker-1"))
    case.after = lambda said: case.run("vaultpki join worker-1.json")
    case.passed()
    return case


def no_live_credential(stand: Stand) -> Case:
    cluster = stand.clusters.applied()
    passed(cluster.equip("worker-1"))
    lock(cluster, "worker-1")
    return Case(cluster)


def not_read(stand: Stand) -> Case:
    """Somebody may look at less than the viewer's policy lets them."""
    rules = {
        f"auth/{stand.cluster.prefix}/pooled/role": {"capabilities": ["list"]},
        f"{stand.cluster.prefix}/config/data/reports/*": {"capabilities": ["read"]},
        f"{stand.cluster.prefix}/config/metadata/reports/jwt": {"capabilities": ["list"]},
        f"{stand.cluster.prefix}/+/certs/revoked": {"capabilities": ["list"]},
    }
    policy = f"sys/policies/acl/{stand.cluster.name}-watcher"

    def give(rules: str) -> None:
        assert stand.cluster.server.api("POST", policy, {"policy": rules}).status == 204

    give(json.dumps({"path": rules}))
    watcher = enrolled_nodes.token(stand.cluster.server, f"{stand.cluster.name}-watcher")
    case = Case(stand.cluster, viewer=stand.cluster.server.environment(watcher))
    case.after = give
    return case


def ca_problem(stand: Stand) -> Case:
    api(stand.cluster, "DELETE", "front-proxy/issuer/front-proxy-1")
    return Case(stand.cluster)


def handmade(stand: Stand) -> tuple[handmade_rotation.Rotation, Case]:
    cluster = stand.clusters.applied(handmade_rotation.SPEC)
    case = Case(cluster, "etcd-2", cluster.equip("etcd-2"), after=lambda said: case.passed())
    case.passed()
    made = handmade_rotation.Rotation.of(cluster, "etcd")
    case.passed()
    return made, case


def server_behind(stand: Stand) -> Case:
    rotation, case = handmade(stand)
    for _ in range(2):
        rotation.move(State.SWITCHED)
        case.passed()
    rotation.set_back(State.PUBLISHED, 1)
    case.passed()
    # Nobody is sent to a command that is refused until then.
    found = shown("nodes", "-f", case.cluster.file, expect=3, env=case.cluster.environment("viewer"))
    every = [*found["findings"], *(one for each in found["nodes"] for one in each["findings"])]
    said = {one["command"] for one in every if one["severity"] != "info"}
    assert said == {f"vaultpki ca recover etcd -f {case.cluster.file}"}
    assert "ca continue" not in case.cluster.ca("status", who="viewer", expect=3).stdout
    return case


def record_not_followed(stand: Stand) -> Case:
    rotation, case = handmade(stand)
    rotation.write(replace(rotation.record, revision=10**9))
    case.passed()
    return case


def ca_left_over(stand: Stand) -> Case:
    rotation = rotation_of(stand.clusters)
    for node in rotation.nodes:
        node.trust |= {"ab" * 32}
    rotation.reported()
    return Case(rotation.cluster)


def keys(stand: Stand) -> Case:
    cluster = stand.clusters.applied(handmade_keys.SPEC)
    nodes = [cluster.equip(name) for name in ("cp-1", "cp-2")]
    for node in nodes:
        # Five minutes later an agent ends the credential of before.
        passed(node, clock=time.time() + 400)
    return Case(cluster, "cp-1", nodes[0], after=lambda said: [passed(node) for node in nodes])


def token_keys(stand: Stand) -> Case:
    cluster = stand.clusters.applied(handmade_keys.SPEC)
    case = Case(cluster, "cp-1", cluster.equip("cp-1"), after=lambda said: case.passed())
    case.passed()
    HandmadeKeys.of(cluster, "cp-1")
    case.passed()
    assert case.node is not None
    (case.node.pki / "sa.pub").resolve().unlink()
    return case


def vault_away(stand: Stand) -> Case:
    (port,) = free_ports(1)
    real = stand.node.config.read_text()
    stand.node.configure(stand.cluster.server.address, f"https://127.0.0.1:{port}")
    return stand.of_node(after=lambda said: stand.node.config.write_text(real), code=3, says=f"127.0.0.1:{port}")


SITUATIONS: Final[dict[str, Callable[[Stand], Case]]] = {
    "expired": expired,
    "many-credentials": many_credentials,
    "missing": missing,
    "broken": broken,
    "bundle": bundle,
    "token-keys": token_keys,
    "empty": empty,
    "revoked": revoked,
    "locked": locked,
    "locked-and-live": locked_and_live,
    "needs-join": needs_join,
    "no-credential": no_credential,
    "not-joined-again": not_joined_again,
    "fits-no-pool": fits_no_pool,
    # A year ago the agent should have renewed it.
    "overdue": lambda stand: reports(stand.of_node(reported=True), state="due", renew_after="2020-01-01T00:00:00Z"),
    "failed": failed,
    "hook-failed": hook_failed,
    "key-not-admitted": keys,
    "foreign-ca": foreign_ca,
    "server-behind": server_behind,
    "record-not-followed": record_not_followed,
    "surplus": surplus,
    "report-unreadable": report_unreadable,
    "not-enrolled": lambda stand: Case(stand.cluster, "worker-3"),
    "join-file-unused": join_file_unused,
    "ca-problem": ca_problem,
    "ca-left-over": ca_left_over,
    "no-live-credential": no_live_credential,
    "not-read": not_read,
    "vault-away": vault_away,
}
"""How a finding comes about whose command is run here, after which the finding is gone."""

ROTATIONS: Final = ("rotation-blocked", "rotation-ready", "ca-expires")
"""Those of a rotation that reports move on: see the tests below."""

INFORMS: Final[dict[str, str]] = {
    "silent": "Only a person on the machine sees whether it is gone, or its agent is; `systemctl` tells the latter.",
    "agent-old": "It ends with the package that a person installs; `systemctl` shows which one runs.",
    "never-reported": "Nobody but a person on the machine can start an agent that was never started.",
    "reader-behind": "A person or a hook restarts the component, or waits for its turn, which `ca status` shows.",
    "hook-owed": "It runs at the next pass, or when the node has the turn, which `ca status` shows.",
    "files-alone": "It is about a copy: the command is for the node itself, which knows more.",
    "rotation-waits": "Nothing is wrong: the command goes on as soon as agents are ready.",
    "move-waiting": "Nothing is wrong: the command shows whom the next step waits for, and asks both servers.",
    "adoption-waits": "Nothing is wrong: the command shows which machine is next.",
    "adoption-blocked": "The command shows what a person does on which machine, each with its own command.",
    "joined": "Nothing is wrong: the command shows what its kubelet asks.",
    "signer-silent": "`systemctl` on each control plane tells whether a signer runs, and its log what it waits for.",
    "signer-refuses": "The command shows the rule; Kubernetes removes the request after an hour.",
    "signer-flood": "The command shows who asks so often; a person stops that, and the limits let the rest through.",
    "signer-stranger": "Only a person finds out which other signer answers; the command shows the certificate.",
    "signer-ends": "`systemctl` and the log say why neither the agent nor the signer has replaced it.",
    "serving-unapproved": "kubectl approves in a real cluster, see the conformance tests of the signer.",
    "token-open": "kubeadm deletes the token on a real control plane.",
    "adoption-lost": "The command shows how to write the right record back; only a backup has it.",
}
"""Why a command only shows what a person does, by finding."""


def test_the_catalogue_has_a_situation_or_a_reason_for_each_finding() -> None:
    assert sorted([*SITUATIONS, *ROTATIONS, *INFORMS]) == sorted(KINDS)


@pytest.fixture(scope="module")
def stand(shared_clusters: ClusterFactory) -> Iterator[Stand]:
    cluster = shared_clusters.applied(SPEC)
    with ExitStack() as stack:
        yield Stand(cluster, cluster.equip("worker-1"), shared_clusters, stack)


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_next_command_ends_the_finding(
    name: str, stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a person runs commands, and finds the files that they write.
    monkeypatch.chdir(tmp_path)
    # A component of another test is none of this node's.
    monkeypatch.setattr(processes, "running", dict)
    # Nobody logs in meanwhile, and nobody reads files while they are replaced.
    monkeypatch.setattr(ending, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic))
    monkeypatch.setattr(Folders.settle, "__defaults__", (0.0,))
    stand.mended()
    case, kind = SITUATIONS[name](stand), KINDS[name]
    said, on_node = case.commands(name), kind.own and case.node is not None and not case.reported
    assert len(said) == kind.vault + on_node and len({*said}) == 1, said
    if case.node is not None and on_node and name != "vault-away":
        # Sentences name the command of an operator with fewer options.
        assert names_command(command_here("doctor", "-c", case.node.config, expect=3).stdout, said[0])
    case.mend()
    told = case.run(said[0], expect=case.code)
    assert case.says in told, told
    case.after(told)
    assert case.commands(name) == []


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    """One whose nodes have reported an hour ago that they have done their part, so that no gate waits for time."""
    rotation = rotation_of(clusters)
    rotation.now -= timedelta(hours=1)
    rotation.reach(State.PUBLISHED)
    return rotation


def test_what_a_rotation_asks_of_a_person_leads_to_its_next_state(rotation: Rotation) -> None:
    """One component after the other, which agents cannot see."""
    case, said = Case(rotation.cluster), list[str]()
    while rotation.record.state is State.PUBLISHED:
        for node in rotation.nodes:
            node.unseen = True
            node.passed(rotation.now)
        (command,) = case.commands("rotation-blocked")
        assert command not in said
        said.append(command)
        case.run(command, expect={0, 3})
    assert said[0] == "vaultpki ca continue --restarted cp-1/etcd"
    assert rotation.record.state is State.SWITCHED and case.commands("rotation-blocked") == []


def test_a_rotation_that_is_ready_goes_on_while_its_command_runs(rotation: Rotation) -> None:
    all_pass(rotation.nodes, rotation.now)
    case = Case(rotation.cluster)
    (command,) = case.commands("rotation-ready")
    words = [*shlex.split(command)[1:], "-f", str(rotation.cluster.file)]
    env = applied_cluster.environment(rotation.cluster.environment())
    with open(os.devnull, "r+") as nothing, Fork(words, env, [nothing.fileno()] * 3) as waits:
        # It goes on to wait for what agents do then.
        wait_for(lambda: rotation.record.state is State.SWITCHED, 60, lambda: command)
        waits.send_signal(signal.SIGINT)
        waits.wait(30)
    assert case.commands("rotation-ready") == []


@pytest.mark.conformance
def test_a_ca_that_ends_soon_is_replaced_by_what_its_finding_says(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(f"{rotations.SPEC}ca: {{issuing_ttl: 40d}}\n")
    cluster.write(rotations.SPEC)
    cluster.apply()
    for node in cluster.model.nodes:
        cluster.equip(node.name)
    case, rotation = Case(cluster), Rotation(cluster)
    command = "vaultpki ca rotate etcd"
    assert command in case.commands("ca-expires")
    case.run(command)
    rotation.reach_on(State.DONE)
    left = case.commands("ca-expires")
    assert left and all(" etcd " not in each for each in left)


def test_what_an_operator_holds_is_issued_one_by_one(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `report`, which knows the cluster, and by `status` of the folder alone."""
    monkeypatch.setattr(Folders.settle, "__defaults__", (0.0,))
    monkeypatch.setattr(operator.issue, "__kwdefaults__", {"grace": 0.0})
    folder, case = tmp_path / "operator", Case(stand.cluster)
    names = ("admin", "super-admin")
    issue = {f"vaultpki issue {name} --dir {folder}" for name in names}
    for command in issue:
        case.run(command)
    for name in names:
        (folder / f"{name}.key").unlink()

    def commands(code: int) -> set[str]:
        words = ("report", "-f", stand.cluster.file, "--dir", folder, "-o", tmp_path / "page.html")
        told = vaultpki(*words, expect=code).stderr
        found = shown("status", "--dir", folder, expect=code)["summary"]["findings"]
        by_report = {each for each in re.findall("`(.*?)`", told) if " verify " not in each}
        said = {one["command"] for one in found}
        assert {each.replace(f" -f {stand.cluster.file}", "") for each in by_report} == said
        return said

    assert commands(3) == issue
    for command in issue:
        case.run(command)
    assert commands(0) == set()
