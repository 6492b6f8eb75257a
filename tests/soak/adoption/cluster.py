"""The cluster that the soak of adoptions takes over: kubeadm's, with its operator, people outside, and clients."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from helpers.kube import adopted_disks, kubeadm_cluster, kubeadm_given, kubeadm_nodes, kubeadm_use, people_of_kubeadm
from helpers.kube.client_load import KEPT_SECONDS, OPERATORS, Load
from helpers.kube.components import API_PORT, Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.kubeadm_given import QUICK, TOKEN, Given
from helpers.kube.kubeadm_own_cas import CONFIGURATION
from helpers.vault.servers import Server
from soak.phases import Phase
from soak.printed import say

POD = "load"
POD_SECONDS = 240.0
# Half as many requests as in a soak of hours: one phase follows the other, and each has restarts enough.
PACE = 2
# Of one outage, while other tests run beside; on an idle machine it is what `adopt start` says.
MOST_AWAY = 300.0

FORWARD = ("prepared", "published", "switched", "closed", "retired", "done")
BACKWARD = ("re-trusting", "returning")
# Of commands of a phase with kills, and how long one lives then: most steps take some seconds, restarts up to a minute.
KILLED_OF_ALL = 0.5
LIVES_SECONDS = 8.0
# What somebody reads who joins or upgrades, and must be the same after a way back. A signature of a token that is
# deleted goes out of cluster-info by itself.
_OBJECTS = (
    "-n kube-public get cm cluster-info -o jsonpath={.data.kubeconfig}",
    "-n kube-system get cm kubeadm-config -o jsonpath={.data}",
    "-n kube-system get cm kubelet-config -o jsonpath={.data}",
)
# Root ends what a machine was, as somebody does who gives it another task.
_FORGET = "rm -rf /etc/vaultpki /var/lib/vaultpki /etc/kubernetes /var/lib/kubelet/* /var/lib/etcd"


def leads_back(state: str, goal: str) -> bool:
    """Whether the next step from a state towards another one is one back."""
    if goal in BACKWARD:
        homeward = ("retired",) if goal == "re-trusting" else ("switched", "closed", "retired", "re-trusting")
        return state in homeward
    if state in BACKWARD:
        return goal in ("prepared", "published")
    return FORWARD.index(goal) < FORWARD.index(state)


@dataclasses.dataclass(slots=True)
class Soaked(Given):
    """The cluster with people outside who have their pairs in files, and with a pod that they look into.

    `nodes_at_first` are the machines that are nodes from the beginning. `disks` and `objects` are what kubeadm left.
    While `rude` is set, commands on machines and of the operator are killed at moments that it draws; `kills` counts
    them.
    """

    nodes_at_first: tuple[str, ...] = ()
    rude: random.Random | None = None
    kills: int = 0
    disks: dict[str, adopted_disks.Files] = dataclasses.field(default_factory=dict)
    objects: list[str] = dataclasses.field(default_factory=list)

    @property
    def kubernetes(self) -> Kubernetes:
        """The cluster as people outside see it, with their own files."""
        return dataclasses.replace(self.made.kubernetes, operator=self.folder / "people")

    # kubeadm's cluster

    def stand(self) -> None:
        """The first nodes are ready, and what kubeadm left is looked at."""
        self.person()
        self.await_ready(*self.nodes_at_first)
        self.kubernetes.run_pod(POD, node=self.nodes_at_first[-1], seconds=POD_SECONDS)
        self.disks = {name: adopted_disks.files(self.nodes[name]) for name in self.nodes_at_first}
        self.objects = self.held()

    def held(self) -> list[str]:
        return [self.kubectl(words) for words in _OBJECTS]

    def works(self, *names: str) -> None:
        """Kubelets report, and are reached for logs."""
        names = names or self.nodes_at_first
        self.await_ready(*names)
        for name in names:
            self.await_logs(name)

    def is_kubeadms(self) -> None:
        """Everything is byte for byte as kubeadm left it."""
        found = {
            name: adopted_disks.changed(old, adopted_disks.files(self.nodes[name])) for name, old in self.disks.items()
        }
        assert not any(found.values()), found
        self.person()
        assert self.held() == self.objects, self.held()

    # People

    def person(self) -> None:
        Given.person(self)
        beside = self.folder / "people-beside"
        for person in OPERATORS:
            source = self.folder / f"kubeadm-{person}.conf"
            self.made.run(f"scp -p root@{self.planes[0]}:/etc/kubernetes/{person}.conf {source.name}")
            people_of_kubeadm.kubeconfig_in_files(source, beside, person)
        # As the page says, since OpenSSL needs the root above the new CA, which a kubeconfig of kubeadm's lacks.
        root = self.kubectl("get cm kube-root-ca.crt -o 'jsonpath={.data.ca\\.crt}'", expect=None)
        if root.startswith("-----BEGIN CERTIFICATE-----"):
            (beside / "kubernetes-ca-chain.crt").write_text(root)
        # Whom they trust comes first.
        for name in ("kubernetes-ca-chain.crt", *(f"{each}.{end}" for each in OPERATORS for end in ("pem", "conf"))):
            self.put(name, (beside / name).read_text())

    def outside(self, to: str) -> None:
        if to != "retired":
            self.person()
            return
        Given.outside(self, to)
        self.made.run("vaultpki issue super-admin --dir operator")
        for name in ("kubernetes-ca-chain.crt", *(f"{person}.pem" for person in OPERATORS)):
            self.put(name, (self.folder / "operator" / name).read_text())
        # A connection that began with an old pair counts too, see the page.
        time.sleep(KEPT_SECONDS + 5)

    def put(self, name: str, text: str) -> None:
        """Replaces a file of people's in one step: clients read it all the time."""
        new = self.folder / "people" / f".{name}.new"
        new.parent.mkdir(exist_ok=True)
        new.write_text(text)
        new.chmod(0o600)
        new.replace(self.folder / "people" / name)

    def restart_pods(self) -> None:
        Given.restart_pods(self)
        self.kubectl(f"delete pod {POD} --wait=true")
        self.kubernetes.run_pod(POD, node=self.nodes_at_first[-1], seconds=POD_SECONDS)

    # The adoption

    def adopt(
        self, *words: str, expect: Sequence[int] = (0, 3), quick: int = QUICK, timeout: float = 600
    ) -> dict[str, Any]:
        if words[0] != "status" and (seconds := self._life()):
            try:
                return Given.adopt(self, *words, expect=expect, quick=quick, timeout=seconds)
            except subprocess.TimeoutExpired:
                self._killed(f"adopt {' '.join(words)}", seconds)
        return Given.adopt(self, *words, expect=expect, quick=quick, timeout=timeout)

    def node(self, name: str, *words: str, expect: int | None = None) -> str:
        while seconds := self._life():
            killed = f"timeout --signal KILL {seconds:.2f} vaultpki adopt node {' '.join(words)}"
            # A shell would end by the signal too.
            ran = self.nodes[name].run("sh", "-c", f"{killed} 2>&1; echo $?", expect=None)
            if ran.stdout.split()[-1:] != ["137"]:
                break
            self._killed(f"{name}$ adopt node", seconds)
        return Given.node(self, name, *words, expect=expect)

    def _life(self) -> float:
        """Seconds after which the next command is killed; 0.0 where it is not."""
        if self.rude is None or self.rude.random() > KILLED_OF_ALL:
            return 0.0
        return 0.2 + self.rude.expovariate(1 / LIVES_SECONDS)

    def _killed(self, what: str, seconds: float) -> None:
        self.kills += 1
        self.said.append(f"{what} was killed after {seconds:.2f} s")

    def begin(self) -> None:
        """`adopt start`, and every machine that is enrolled does what it asks."""
        self.adopt("start", "--yes")
        self.settle()

    def lead(self, goal: str) -> None:
        """By steps forward or back, until the adoption is in this state and every machine has done its steps."""
        if not self.state:
            self.begin()
        while (state := self.state) != goal:
            self.reach(back=leads_back(state, goal), most=30)
            say(f"{state} -> {self.state}")
            if self.state != "prepared":
                self.turns()

    def home(self) -> None:
        """All the way back, until there is no adoption any more."""
        self.lead("prepared")
        self.give_up()
        assert not self.state, self.state

    def settle(self) -> None:
        """Every machine does what it can; one that has joined with the agent first has its agent alone."""
        for name, node in self.nodes.items():
            config = node.seen("/etc/vaultpki/agent.yaml")
            if not config.exists():
                continue
            if "\nadopt:" in config.read_text():
                self.node(name)
            else:
                node.vaultpki("agent", "--once")

    # Machines that come and go

    def token(self) -> str:
        """A bootstrap token of now."""
        self.made.run(f"kubeadm token delete {TOKEN}", self.planes[0], expect=None)
        self.made.run(f"kubeadm token create {TOKEN}", self.planes[0])
        return TOKEN

    def list(self, name: str) -> None:
        """cluster.yaml has the machine."""
        document = yaml.safe_load((self.folder / "cluster.yaml").read_text())
        if name not in {each["name"] for each in document["nodes"]}:
            self.add(name)

    def join_with_agent(self, name: str, within: int = 600) -> str:
        """A worker joins with its agent first, with Vault's certificates, as on the page of kubeadm."""
        self.list(name)
        self.enrol(name)
        self.made.run(f"rm -rf joins-{name} && vaultpki kubeadm config {name} -o joins-{name}")
        kubeadm_cluster.adapt(self.folder / f"joins-{name}", self.made.programs.version)
        self.nodes[name].run("rm", "-rf", "/etc/kubernetes/kubeadm")
        self.made.run(f"scp -rp joins-{name} root@{name}:/etc/kubernetes/kubeadm")
        return self.made.run(f"timeout {within} kubeadm join --config {CONFIGURATION}", name)

    def remove(self, name: str) -> None:
        """A machine leaves the cluster: its Node and CSRs are deleted, its credentials ended, and its disk cleared."""
        self.kubectl(f"delete node {name} --ignore-not-found")
        self.kubectl("delete csr --all")
        if self.nodes[name].seen("/etc/vaultpki/agent.yaml").exists():
            self.made.run(f"vaultpki lock {name}")
        self.clear(name)

    def clear(self, name: str) -> None:
        """The machine is as before its join."""
        node = self.nodes[name]
        node.run("kubeadm", "reset", "-f", "--ignore-preflight-errors=SystemVerification", expect=None)
        node.run("sh", "-c", _FORGET)


@dataclasses.dataclass(slots=True)
class Watched:
    """A cluster on one server under load, and the phases so far."""

    server: str
    cluster: Soaked
    phases: list[Phase]

    @contextlib.contextmanager
    def phase(self, name: str, most_away: float = MOST_AWAY) -> Iterator[None]:
        """What happens in the block, and what it did to clients outside."""
        say(f"{self.server}: {name}")
        cluster = self.cluster
        planes = [
            (cluster.nodes[plane].address, API_PORT) for plane in cluster.planes if plane in cluster.nodes_at_first
        ]
        load = Load(cluster.kubernetes, [POD], servers=lambda: planes, pace=PACE)
        audit, begin, broken = kubeadm_use.Audit(cluster.made), time.time(), ""
        try:
            with load.running():
                yield
        except (AssertionError, subprocess.SubprocessError, OSError, KeyboardInterrupt) as error:
            broken = f"{type(error).__name__}: {error}"
            raise
        finally:
            audit.read()
            self.phases.append(
                Phase(
                    server=self.server,
                    name=name,
                    seconds=time.time() - begin,
                    requests=load.worked.total() + len(load.failures),
                    failures=tuple(load.failures),
                    unauthorized=tuple(audit.unauthorized),
                    broken=broken,
                    most_away=most_away,
                )
            )


@contextlib.contextmanager
def machines(
    server: Server,
    programs: Programs,
    folder: Path,
    roles: Mapping[str, str],
    first: tuple[str, ...],
    extra: dict[str, Any] | None = None,
) -> Iterator[Soaked]:
    """Machines by their names and roles; no command has been run on any, and `first` will be the nodes."""
    spec = kubeadm_given.spec(server, roles)
    with kubeadm_cluster.machines(server, programs, folder, spec, comers={}) as made:
        yield Soaked(made, extra or {}, nodes_at_first=first)


@contextlib.contextmanager
def small(server: Server, programs: Programs, folder: Path) -> Iterator[Soaked]:
    """One control plane and one worker as kubeadm leaves them; another worker's machine waits."""
    roles = {"cp-1": kubeadm_given.PLANE, "w-1": kubeadm_given.WORKER, "w-2": kubeadm_given.WORKER}
    with machines(server, programs, folder, roles, ("cp-1", "w-1")) as cluster:
        cluster.init()
        cluster.join("w-1")
        cluster.stand()
        yield cluster


def thawed(cluster: Soaked, name: str) -> None:
    """A frozen machine's kubelet is started."""
    node = cluster.nodes[name]
    kubeadm_nodes.with_systemctl(node)
    node.run("systemctl", "start", "kubelet")


def frozen(cluster: Soaked, name: str) -> None:
    """Nothing starts the kubelet of a machine any more, whatever kubeadm says: it is very slow."""
    node = cluster.nodes[name]
    node.run("systemctl", "stop", "kubelet")
    (node.tools / "systemctl").write_text("#!/bin/sh\nexit 0\n")
