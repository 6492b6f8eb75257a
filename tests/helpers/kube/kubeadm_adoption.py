"""A cluster that the real kubeadm made with CAs of its own, behind a balancer, and its operator, who takes it over.

Three control planes with stacked etcd and a worker; a second worker's machine waits for its `kubeadm join`. Nothing of
it is vaultpki's until the operator's commands: kubeadm makes the CAs, and uploads their keys for the joins.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from helpers.kube import kubeadm_cluster, kubeadm_planes
from helpers.kube import kubeadm_own_cas as own_cas
from helpers.kube.balancer import Balancer
from helpers.kube.client_load import KEPT_SECONDS
from helpers.kube.components import API_PORT, Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.kube.machines import OUTSIDE
from helpers.kube.people_of_kubeadm import CHAIN, kubeconfig_in_files, put
from helpers.kube.virtual_address import ADMIN
from helpers.product import IS_QUICK
from helpers.vault import servers
from helpers.vault.applied_cluster import Ran, vaultpki
from helpers.vault.operator_tokens import Who
from helpers.vault.servers import Server, wait_for
from vaultpki.certificates import CLIENT_LOOK
from vaultpki.records import adoption as adoption_record
from vaultpki.records.adoption import AdoptionRecord, AdoptionState

PLANES = ("cp-1", "cp-2", "cp-3")
WORKER, LATER = "w-1", "w-2"
"""A worker from the beginning, and one that joins in the middle."""

NAME = "planes"
READY_SECONDS = 180.0
COMMAND_SECONDS = 120.0
PEOPLE = ("admin", "super-admin")

_ADDRESSES = {
    **{name: f"198.51.100.{11 + number}" for number, name in enumerate(PLANES)},
    WORKER: "198.51.100.21",
    LATER: "198.51.100.22",
}
_QUICK = own_cas.quick(joins=15, readers=min(CLIENT_LOOK + 5, 20))
PERSONS = frozenset({"pods", "outside", "webhooks"})
STATE_SECONDS = 1800.0


@dataclass(slots=True)
class Adoption:
    """The cluster of kubeadm's own CAs, its balancer, and its operator, who has only what the printed policies give.

    `states` are those that the record was seen in, oldest first. `by_hand` are nodes on which root runs `adopt node`;
    on the others the agent does what a state asks. With `quick` the operator's commands wait for seconds, as long as
    clients take to look at their files, where they wait for six and ten minutes. `restarted` is called once pods of the
    cluster's own were restarted, and restarts those of a test.
    """

    cluster: KubeadmCluster
    balancer: Balancer
    states: list[AdoptionState] = field(default_factory=list)
    by_hand: tuple[str, ...] = ("cp-3",)
    said: list[str] = field(default_factory=list)
    quick: bool = IS_QUICK
    restarted: Callable[[], None] = lambda: None

    @property
    def nodes(self) -> Mapping[str, KubeadmNode]:
        return self.cluster.nodes

    @property
    def kubernetes(self) -> Kubernetes:
        return self.cluster.kubernetes

    @property
    def folder(self) -> Path:
        """The operator's, with cluster.yaml."""
        return self.cluster.folder

    @property
    def members(self) -> tuple[str, ...]:
        """The machines that are nodes of the cluster now."""
        found = self.kubectl("get", "nodes", "-o", "name").split()
        return tuple(each.removeprefix("node/") for each in found)

    def kubectl(self, *words: str, expect: int | None = 0) -> str:
        """kubectl from outside as the administrator, with the files that people have now."""
        return self.kubernetes.kubectl(self.kubernetes.admin, *words, expect=expect).stdout

    # The operator

    def vaultpki(self, *words: str | Path, who: Who, expect: Collection[int] = (0,), timeout: float = 0) -> Ran:
        """A command of the operator's, by a token with exactly the policy that is printed for `who`."""
        cluster = self.cluster.cluster
        command = (*words, "-f", cluster.file)
        env = cluster.environment(who)
        behind = self.kubernetes.outside.inside
        timeout = timeout or servers.SHARED * COMMAND_SECONDS
        changed = _QUICK if self.quick else ""
        return vaultpki(*command, env=env, expect=set(expect), timeout=timeout, behind=behind, changed=changed)

    def adopt(self, *words: str, expect: Collection[int] = (0, 3), timeout: float = 0) -> Ran:
        """A command of the adoption; 3 is how one ends that waits for something."""
        config = ("--kubeconfig", self.kubernetes.admin)
        return self.vaultpki("adopt", *words, *config, who="adopter", expect=expect, timeout=timeout)

    def step(self, verb: str = "continue", *words: str) -> dict[str, Any]:
        """`adopt continue` or `abort`: what it says, for programs. Asks again where the API server was away."""
        for _ in range(5):
            ran = self.adopt(verb, "--yes", "--json", *words, expect=(0, 1, 3))
            self.said.append(ran.stderr)
            if ran.returncode != 1:
                found: dict[str, Any] = json.loads(ran.stdout)
                if found["state"] is not None:
                    self._note(AdoptionState(found["state"]))
                return found
            # A server that shares the processors with everything else may have no time for an answer.
            assert "in time" in ran.stderr or "somebody else" in ran.stderr, ran.stdout + ran.stderr
            time.sleep(2)
        raise AssertionError(self.said[-5:])

    def to(
        self, state: AdoptionState, verb: str = "continue", until: Callable[[dict[str, Any]], bool] = lambda _: False
    ) -> dict[str, Any]:
        """Has the adoption led on, by turns, until it has this state, or `until` says that it is enough.

        What only people are waited for is done as they would: pods are restarted, kubeconfigs outside follow.
        """
        deadline = time.monotonic() + STATE_SECONDS
        words: tuple[str, ...] = ()
        while True:
            found = self.step(verb, *words)
            words = ()
            if found["state"] == state.value or until(found):
                return found
            assert time.monotonic() < deadline, found
            for each in found["waiting_for"]:
                if f"{ADMIN}, which" in each["reason"] and "of the old CA" in each["reason"]:
                    self.replace_admin(each["node"])
            waiting = {each["node"] for each in found["waiting_for"]}
            if waiting and waiting <= PERSONS:
                words = self._as_people(waiting, AdoptionState(found["state"]))
            elif found["turn"] in self.by_hand:
                self.by_root(found["turn"])
            time.sleep(1)

    def finish(self, verb: str = "continue") -> None:
        """Has the last state done by everybody; on the way back that gives the adoption up, and leads machines home."""
        if verb != "abort":
            # An agent does it a day later.
            for name in self.members:
                self.nodes[name].vaultpki("adopt", "node", "--finish", expect=None)
        found = self.to(AdoptionState.CLOSED, verb, until=lambda found: bool(found["over"]))
        assert found["over"], found
        if verb == "abort":
            for name in self.members:
                if name in self.by_hand:
                    self.by_root(name)
            journals = {name: self.nodes[name].seen("/var/lib/vaultpki/takeover/journal.json") for name in self.members}

            def away() -> list[str]:
                return [name for name, journal in journals.items() if journal.exists()]

            wait_for(lambda: not away(), STATE_SECONDS, lambda: f"not home: {away()}", pause=1)

    def forget_old(self) -> None:
        """What is left to do at the end: `ca.also_trust` is taken out of cluster.yaml, and every agent reads that."""
        own_cas.without_old_cas(self.cluster.cluster.file)
        self.vaultpki("apply", "--yes", who="applier")
        for name in self.members:
            self.nodes[name].vaultpki("agent", "--once", expect=None)

    def replace_admin(self, name: str) -> None:
        """Writes a kubeconfig of Vault's over kubeadm's admin.conf on a machine, which stays the same file."""
        self.vaultpki("issue", "admin", "--dir", self.folder / "issued", who="operator")
        self.nodes[name].seen(ADMIN).write_bytes((self.folder / "issued/admin.conf").read_bytes())

    def by_root(self, name: str) -> str:
        """`adopt node` by root on a machine; 3 says that it is not its turn."""
        ran = self.nodes[name].vaultpki("adopt", "node", expect=None)
        assert ran.returncode in (0, 3), ran.stdout + ran.stderr
        return ran.stdout

    def _note(self, state: AdoptionState) -> None:
        if self.states[-1:] != [state]:
            self.states.append(state)

    def record(self) -> AdoptionRecord | None:
        found = own_cas.record(self.cluster.cluster)
        return adoption_record.read(found, where="adoption") if found else None

    # The cluster of kubeadm's own

    def draft(self) -> str:
        """`adopt inventory` on the first control plane drafts cluster.yaml; returns what it printed."""
        self.cluster.run("rm -f cluster.yaml old-*.crt", PLANES[0])
        said = self.cluster.run(
            f"vaultpki adopt inventory --kubeconfig /etc/kubernetes/admin.conf --cluster {NAME} -o cluster.yaml",
            PLANES[0],
        )
        self.cluster.run(f"scp -p 'root@{PLANES[0]}:old-*.crt' .")
        self.write_spec((self.nodes[PLANES[0]].home / "cluster.yaml").read_text())
        return said

    def write_spec(self, drafted: str) -> None:
        """cluster.yaml as a person completes the draft: with Vault's address."""
        self.cluster.cluster.file.write_text(own_cas.completed(drafted, self.cluster.cluster.server.address))

    def add_node(self, name: str, roles: Sequence[str] = ("worker",)) -> None:
        """Lists a node in cluster.yaml, and applies it."""
        own_cas.with_node(self.cluster.cluster.file, name, roles, self.nodes[name].address)
        self.vaultpki("apply", "--yes", who="applier")

    def enrol(self, name: str, after_join: Callable[[], None] = lambda: None) -> None:
        """The machine's agent joins beside kubeadm's files, and stays; `after_join` is called before it is started."""
        self.vaultpki("enroll", name, "-o", self.folder / f"{name}.json", who="applier")
        self.cluster.run(f"scp -p {name}.json root@{name}:")
        self.cluster.run(f"vaultpki join {name}.json{'' if name in self.by_hand else ' --adopt'}", name)
        after_join()
        node = self.nodes[name]
        kubeadm_planes.configure(node, "poll: 5m", "poll: 10s")
        node.resident()

    def agent_said(self, name: str) -> str:
        """What the resident agent of a node wrote."""
        return self.nodes[name].machine.processes["agent"].said()

    def join(self, name: str) -> str:
        """A worker joins by kubeadm with a new token and today's cluster-info."""
        token = self.cluster.run("kubeadm token create", PLANES[0]).split()[-1]
        ca = self.nodes[PLANES[0]].seen(f"{own_cas.PKI}/ca.crt").read_bytes()
        return _join(self.cluster, name, token, own_cas.pin(ca))

    # People and programs outside

    def _as_people(self, waiting: Collection[str], state: AdoptionState) -> tuple[str, ...]:
        """Does what is waited for; returns the word that says so."""
        if "pods" in waiting:
            self.restart_pods()
        if "outside" not in waiting:
            return ()
        if state in (AdoptionState.PUBLISHED, AdoptionState.RETRUSTING):
            both = self.kubectl("get", "cm", "kube-root-ca.crt", "-o", "jsonpath={.data.ca\\.crt}")
            put(self.kubernetes.operator / CHAIN, both.encode())
        elif state is AdoptionState.CLOSED:
            self.people_of_vault()
            self.kubectl("apply", "-f", str(self.folder / "issued/manifests"))
            # Connections that were opened with an old pair count too.
            time.sleep(KEPT_SECONDS + 5)
        elif state is AdoptionState.RETURNING:
            self.people_of_kubeadm()
        return ("--checked", "outside")

    def people_of_kubeadm(self) -> None:
        """Gives the people outside what kubeadm made for them, in files, beside the CAs that they trust already."""
        for person in PEOPLE:
            kubeconfig_in_files(self.folder / f"kubeadm-{person}.conf", self.kubernetes.operator, person)

    def people_of_vault(self) -> None:
        """Gives the people outside new pairs of Vault's, and the CAs that are due."""
        # Into a folder of its own, since it overwrites nothing that vaultpki has not made.
        issued = self.folder / "issued"
        for person in PEOPLE:
            self.vaultpki("issue", person, "--dir", issued, who="operator")
            put(self.kubernetes.operator / f"{person}.pem", (issued / f"{person}.pem").read_bytes())
        put(self.kubernetes.operator / CHAIN, (issued / CHAIN).read_bytes())

    def restart_pods(self) -> None:
        """Restarts kube-proxy's pods, and those of the test."""
        self.kubectl("-n", "kube-system", "rollout", "restart", "daemonset/kube-proxy")
        self.kubectl("-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=300s")
        self.restarted()

    def await_ready(self) -> None:
        """Waits until every API server says that it is ready, and every node is."""

        def missing() -> list[str]:
            found = sorted(set(PLANES) - self.balancer.ready)
            ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
            said = self.kubectl("get", "nodes", "-o", ready, expect=None).split()
            return found or ([] if said and set(said) == {"True"} else [f"nodes: {said}"])

        wait_for(lambda: not missing(), READY_SECONDS, lambda: f"not ready: {missing()}", pause=1)


@contextlib.contextmanager
def standing(server: Server, programs: Programs, folder: Path) -> Iterator[Adoption]:
    """The cluster as kubeadm leaves it, and people outside with its kubeconfigs; vaultpki has done nothing yet."""
    roles = {name: "control-plane, etcd, worker" if name in PLANES else "worker" for name in _ADDRESSES}
    text = own_cas.spec(NAME, server.address, {name: (roles[name], at) for name, at in _ADDRESSES.items()})
    with kubeadm_cluster.machines(server, programs, folder, text, comers={}) as made:
        addresses = {name: node.address for name, node in made.nodes.items()}
        made.kubernetes.lan.tell(addresses | {"api.example.com": OUTSIDE})
        balancer = Balancer(made.kubernetes.outside, {name: addresses[name] for name in PLANES}, API_PORT)
        adoption = Adoption(made, balancer)
        with balancer.running():
            _make(made)
            adoption.people_of_kubeadm()
            adoption.await_ready()
            yield adoption


def _make(made: KubeadmCluster) -> None:
    """`kubeadm init` and `kubeadm join`, with the keys of kubeadm's own CAs uploaded."""
    first = PLANES[0]
    token = f"{secrets.token_hex(3)}.{secrets.token_hex(8)}"
    key = secrets.token_hex(32)
    names = ("api.example.com", OUTSIDE)
    _configure(made, first, own_cas.initial(first, _ADDRESSES[first], token, names, certificateKey=key))
    made.run(f"kubeadm init --upload-certs --config {own_cas.CONFIGURATION}", first)
    for person in PEOPLE:
        made.run(f"scp -p root@{first}:/etc/kubernetes/{person}.conf kubeadm-{person}.conf")
    ca = made.nodes[first].seen(f"{own_cas.PKI}/ca.crt").read_bytes()
    for name in (*PLANES[1:], WORKER):
        _join(made, name, token, own_cas.pin(ca), key=key if name in PLANES else "")


def _join(made: KubeadmCluster, name: str, token: str, pinned: str, key: str = "") -> str:
    _configure(made, name, [own_cas.joining(name, made.nodes[name].address, token, pinned, key)])
    return made.run(f"kubeadm join --config {own_cas.CONFIGURATION}", name)


def _configure(made: KubeadmCluster, name: str, documents: Sequence[own_cas.Document]) -> None:
    """Puts kubeadm's configuration for a machine there, with what this machine and the balancer need."""
    written = made.folder / f"kubeadm-{name}"
    (written / "patches").mkdir(parents=True, exist_ok=True)
    (written / "kubeadm.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))
    kubeadm_cluster.adapt(written, made.programs.version)
    kubeadm_planes.balanced(written, [_ADDRESSES[plane] for plane in PLANES])
    made.run(f"scp -rp kubeadm-{name} root@{name}:/etc/kubernetes/kubeadm")
