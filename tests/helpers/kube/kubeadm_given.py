"""A cluster that the real kubeadm makes with CAs of its own, and who takes it over with the printed policies alone."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from helpers.kube import kubeadm_cluster
from helpers.kube import kubeadm_own_cas as own_cas
from helpers.kube.components import ETCD_PEER_PORT, ETCD_PORT, Programs
from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.kube.kubeadm_own_cas import CONFIGURATION
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.servers import Server, wait_for
from vaultpki.model import NodeRole

CLUSTER = "given"
TOKEN = "abcdef.0123456789abcdef"
SECONDS = 240.0
QUICK = 5
GRACE_SECONDS = 5
PEOPLE = frozenset({"outside", "pods", "rights"})
"""What a step waits for that people do."""

_BACK = frozenset({"re-trusting", "returning"})
_ANY = frozenset(range(256))


@dataclass(slots=True)
class Given:
    """The cluster, and the operator's work on it. `extra` are further keys of kubeadm's ClusterConfiguration.

    `changed` is what is done in the operator's process before a command begins, as lines of Python.
    """

    made: KubeadmCluster
    extra: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    changed: str = ""

    @property
    def folder(self) -> Path:
        return self.made.folder

    @property
    def nodes(self) -> Mapping[str, KubeadmNode]:
        return self.made.nodes

    @property
    def planes(self) -> list[str]:
        return [name for name, node in self.nodes.items() if NodeRole.CONTROL_PLANE in node.roles]

    # kubeadm

    def init(self, name: str = "cp-1") -> None:
        """`kubeadm init` with CAs of its own."""
        node = self.nodes[name]
        names = ("api.internal", "203.0.113.7")
        first, cluster = own_cas.initial(name, node.address, TOKEN, names)
        cluster |= self.extra
        self._configure(name, first, cluster)
        self.made.run(f"kubeadm init --config {CONFIGURATION}", name)

    def join(self, name: str, token: str = TOKEN, key: str = "", within: int = 0, expect: int = 0) -> str:
        """`kubeadm join` by a bootstrap token, of a control plane with the `key` of its uploaded certificates.

        After `within` seconds it is ended, with the exit code 124; 0 lets it take its time.
        """
        wanted = own_cas.joining(name, self.nodes[name].address, token, self.discovery_hash(), key)
        self._configure(name, wanted)
        bound = f"timeout {within} " if within else ""
        return self.made.run(f"{bound}kubeadm join --config {CONFIGURATION}", name, expect=expect)

    def discovery_hash(self) -> str:
        """The hash by which a joining node knows the CA, as kubeadm prints it."""
        said = self.made.run("kubeadm token create --print-join-command --ttl 1s", self.planes[0])
        return re.search(r"sha256:[0-9a-f]{64}", said)[0]  # type: ignore[index]

    def upload(self) -> str:
        """Put the control plane's keys into kubeadm-certs; the key by which a control plane joins."""
        said = self.made.run("kubeadm init phase upload-certs --upload-certs", self.planes[0])
        return re.search(r"^[0-9a-f]{64}$", said, re.MULTILINE)[0]  # type: ignore[index]

    def start_etcd(self, name: str, place: str) -> None:
        """An external member of etcd on a machine, with a CA of its own.

        `place` is the folder below kubeadm's, on the first control plane, for that CA and the client's pair; empty for
        kubeadm's own places.
        """
        node, plane, pki = self.nodes[name], self.nodes[self.planes[0]], "/etc/kubernetes/pki"
        names = {"serverCertSANs": [node.address, name], "peerCertSANs": [node.address, name]}
        cluster = {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "kubernetesVersion": self.made.programs.version,
            "etcd": {"local": names},
        }
        first = {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "nodeRegistration": {"name": name},
            "localAPIEndpoint": {"advertiseAddress": node.address},
        }
        (self.folder / f"etcd-{name}.yaml").write_text(yaml.safe_dump_all([cluster, first]))
        self.made.run(f"scp -p etcd-{name}.yaml root@{name}:/etc/kubeadm-etcd.yaml")
        for each in ("etcd-ca", "etcd-server", "etcd-peer", "apiserver-etcd-client"):
            node.run("kubeadm", "init", "phase", "certs", each, "--config", "/etc/kubeadm-etcd.yaml")
        for file in ("etcd/ca.crt", "apiserver-etcd-client.crt", "apiserver-etcd-client.key"):
            to = f"{pki}/{place or file.rpartition('/')[0]}".rstrip("/")
            plane.run("mkdir", "-p", to)
            self.made.run(f"scp -3p root@{name}:{pki}/{file} root@{plane.name}:{to}/")
        node.run("rm", f"{pki}/apiserver-etcd-client.crt", f"{pki}/apiserver-etcd-client.key")
        where = f"{pki}/{place}".rstrip("/")
        self.extra["etcd"] = {
            "external": {
                "endpoints": [f"https://{node.address}:{ETCD_PORT}"],
                "caFile": f"{where}/ca.crt" if place else f"{pki}/etcd/ca.crt",
                "certFile": f"{where}/apiserver-etcd-client.crt",
                "keyFile": f"{where}/apiserver-etcd-client.key",
            }
        }
        clients, peers = (f"https://{node.address}:{port}" for port in (ETCD_PORT, ETCD_PEER_PORT))
        words = [f"--name={name}", "--data-dir=/var/lib/etcd", f"--initial-cluster={name}={peers}"]
        words += ["--client-cert-auth", "--peer-client-cert-auth", "--unsafe-no-fsync"]
        words += [f"--{kind}-client-urls={clients}" for kind in ("listen", "advertise")]
        words += [f"--{kind}-peer-urls={peers}" for kind in ("listen", "initial-advertise")]
        for prefix, stem in (("", "server"), ("peer-", "peer")):
            words += [f"--{prefix}trusted-ca-file={pki}/etcd/ca.crt", f"--{prefix}cert-file={pki}/etcd/{stem}.crt"]
            words += [f"--{prefix}key-file={pki}/etcd/{stem}.key"]
        etcd = node.machine.start("etcd", self.made.programs.path("etcd"), *words)
        wait_for(lambda: node.machine.answers(ETCD_PORT), SECONDS, etcd.last_words)

    def _configure(self, name: str, *documents: dict[str, Any]) -> None:
        written = self.folder / f"given-{name}"
        (written / "patches").mkdir(parents=True, exist_ok=True)
        (written / "kubeadm.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))
        kubeadm_cluster.adapt(written, self.made.programs.version)
        # kube-apiserver ends only when the kubelet kills it, as long as a client keeps its connection: after 30 s.
        grace = {"spec": {"terminationGracePeriodSeconds": GRACE_SECONDS}}
        (written / "patches" / "kube-apiserver0+merge.yaml").write_text(yaml.safe_dump(grace))
        self.nodes[name].run("rm", "-rf", "/etc/kubernetes/kubeadm")
        self.nodes[name].run("mkdir", "-p", "/etc/kubernetes")
        self.made.run(f"scp -rp given-{name} root@{name}:/etc/kubernetes/kubeadm")

    # The operator of vaultpki

    def adopt(
        self, *words: str, expect: Sequence[int] = (0, 3), quick: int = QUICK, timeout: float = 600
    ) -> dict[str, Any]:
        """An `adopt` command with the printed policy, from where people are; what `--json` prints.

        Gates wait for `quick` seconds in place of several minutes. After `timeout` seconds it is killed.
        """
        env = self.made.cluster.environment("adopter") | {"HOME": str(self.folder)}
        outside = self.made.kubernetes.outside.holder.pid
        enter = ["nsenter", "--target", str(outside), "--net", "--mount", f"--wdns={self.folder}", "--"]
        # Nobody is connected here for as long as the waits are for; the test of the whole cluster under load has more.
        changed = own_cas.quick(joins=quick, readers=quick) + self.changed
        command = ("adopt", *words, "--kubeconfig", "admin.conf", "-f", "cluster.yaml", "--json")
        ran = vaultpki(*command, env=env, expect=_ANY, timeout=timeout, behind=enter, changed=changed)
        self.said.append(f"$ adopt {' '.join(words)} -> {ran.returncode}\n{ran.stderr}{ran.stdout[-3000:]}")
        assert ran.returncode in expect, self.said[-1]
        found: dict[str, Any] = json.loads(ran.stdout) if ran.stdout.strip() else {}
        return found | {"exit": ran.returncode, "stderr": ran.stderr}

    def person(self) -> None:
        """Bring the operator the administrator's kubeconfig of the first control plane."""
        self.made.run(f"scp -p root@{self.planes[0]}:/etc/kubernetes/admin.conf admin.conf")

    def describe(self, without: Sequence[str] = ()) -> None:
        """Draft cluster.yaml from the inventory of the first control plane, complete it as the page says, apply it.

        The nodes `without` are left out, as members of an etcd that keeps its own CA.
        """
        plane = self.planes[0]
        self.person()
        made = self.made
        made.run("rm -f cluster.yaml old-*.crt", plane)
        command = (
            f"vaultpki adopt inventory --kubeconfig /etc/kubernetes/admin.conf --cluster {CLUSTER} -o cluster.yaml"
        )
        self.said.append(made.run(command, plane))
        drafted = yaml.safe_load((self.nodes[plane].home / "cluster.yaml").read_text())
        drafted["nodes"] = [each for each in drafted["nodes"] if each["name"] not in without]
        if not any("etcd" in each["roles"] for each in drafted["nodes"]):
            drafted["ca"]["also_trust"].pop("etcd", None)
        made.run(f"scp -p 'root@{plane}:old-*.crt' .")
        self._file.write_text(own_cas.completed(yaml.safe_dump(drafted), made.cluster.server.address))
        self._apply()

    def enrol(self, name: str, *words: str) -> str:
        """Give a machine its agent, which makes one pass. One that has left is locked, so a person would be asked."""
        self.made.run(f"vaultpki enroll {name} --yes -o {name}.json && scp -p {name}.json root@{name}:")
        return self.made.run(f"vaultpki join {name}.json {' '.join(words)}", name)

    # A machine

    def node(self, name: str, *words: str, expect: int | None = None) -> str:
        """`adopt node` on a machine."""
        begin = time.monotonic()
        ran = self.nodes[name].run("sh", "-c", f"vaultpki adopt node {' '.join(words)} 2>&1", expect=None)
        took = f"{time.monotonic() - begin:.0f} s"
        self.said.append(f"{name}$ adopt node {' '.join(words)} -> {ran.returncode}, {took}\n{ran.stdout}")
        allowed = (0, 3) if expect is None else (expect,)
        assert ran.returncode in allowed, self.said[-1]
        return ran.stdout

    def reach(self, *, back: bool = False, words: Sequence[str] = (), most: int = 10) -> str:
        """Take the next step, or the next one back: the command and the machines by turns until the state changes.

        What a person does outside is done before it is confirmed. Returns the state; every machine has done its steps
        that may do them without a turn.
        """
        act, before = "abort" if back else "continue", self.state
        later: tuple[str, ...] = ()
        for _ in range(most):
            found = self.adopt(act, "--yes", *words, *later)
            later = ()
            waiting = {each["node"] for each in found["waiting_for"]}
            if self.state == before and waiting <= PEOPLE:
                time.sleep(QUICK)
                later = self.by_hand(waiting, found["next"])
            if waiting - PEOPLE or self.state != before:
                self.settle()
            later += self.restart_members({each["node"]: each["reason"] for each in found["waiting_for"]})
            if self.state != before:
                return self.state
        raise AssertionError("\n".join(self.said[-6:]))

    def by_hand(self, waiting: Collection[str], to: str) -> tuple[str, ...]:
        """Do what only a person does of what is waited for before the state `to`; the words that say so."""
        if "rights" in waiting:
            self.issue()
            self.kubectl("apply -f operator/manifests")
        if "outside" in waiting:
            self.outside(to)
        if "pods" in waiting:
            self.restart_pods()
        return ("--checked", "outside") if "outside" in waiting else ()

    def restart_members(self, waiting: Mapping[str, str]) -> tuple[str, ...]:
        """Restart the members of external etcd that are waited for, as a person does; the words that say so."""
        words: tuple[str, ...] = ()
        for name in (name for name, reason in waiting.items() if f"--restarted {name}/etcd" in reason):
            self.nodes[name].machine.processes["etcd"].restart()
            self.await_api()
            words += ("--restarted", f"{name}/etcd")
        return words

    def await_api(self) -> None:
        """Wait until the API server says that it is ready."""
        last = [""]

        def ready() -> bool:
            last[0] = self.kubectl("get --raw /readyz", expect=None).strip()
            return last[0] == "ok"

        wait_for(ready, SECONDS, lambda: last[0], 1)

    def issue(self) -> None:
        """The operator's own pair of the new CAs, and the manifests beside it."""
        self.made.run("vaultpki issue admin --dir operator")

    def outside(self, to: str) -> None:
        """Give people what the next state asks of kubeconfigs outside."""
        if to == "retired":
            self.issue()
            self.made.run("cp -p operator/admin.conf admin.conf && cp -p operator/admin.* operator/*.crt .")
        else:
            self.person()

    def settle(self) -> None:
        """Every machine does what it can; at the end root says so on each."""
        words = ("--finish",) if self.state == "done" else ()
        for name in self.nodes:
            if self.nodes[name].seen("/etc/vaultpki/agent.yaml").exists():
                self.node(name, *words)

    def turns(self) -> None:
        """Give each machine its turn, until all have done the steps of the state.

        Not in prepared: there the next command either begins again, or ends the adoption, see `give_up`.
        """
        for _ in self.nodes:
            nodes = self.adopt("status")["nodes"]
            # Who has no agent does nothing.
            if all(each["reached"] == self.state for each in nodes if each["agent"]):
                return
            self.adopt("abort" if self.state in _BACK else "continue", "--yes")
            self.settle()

    def give_up(self) -> None:
        """Give each machine its turn after the way back, until the record is deleted, and lead all of them home."""
        words: tuple[str, ...] = ()
        for _ in range(2 * len(self.nodes) + 2):
            found = self.adopt("abort", "--yes", *words)
            self.settle()
            if found["over"]:
                return
            words = self.restart_members({each["node"]: each["reason"] for each in found["waiting_for"]})
        raise AssertionError("\n".join(self.said[-6:]))

    def leave(self, name: str) -> None:
        """Take a machine's agent away, after the way back."""
        self.made.run(f"vaultpki lock {name}")
        self.nodes[name].run("rm", "-rf", "/etc/vaultpki", "/var/lib/vaultpki")

    def forget(self) -> None:
        """Take the old CAs out of cluster.yaml and of each agent.yaml, as the last step says."""
        own_cas.without_old_cas(self._file)
        self._apply()
        for node in self.nodes.values():
            file = node.seen("/etc/vaultpki/agent.yaml")
            if file.exists():
                file.write_text(re.sub(r"also_trust:\n(  .*\n)+", "", file.read_text()))
                node.vaultpki("agent", "--once")

    def add(self, name: str) -> None:
        """Write a further machine into cluster.yaml."""
        roles = sorted(role.value for role in self.nodes[name].roles)
        own_cas.with_node(self._file, name, roles, self.nodes[name].address)
        self._apply()

    @property
    def _file(self) -> Path:
        return self.folder / "cluster.yaml"

    def _apply(self) -> None:
        self.made.run("vaultpki apply --yes")

    def await_logs(self, name: str) -> None:
        """Wait until kube-proxy's logs on a node are shown: kube-apiserver calls the kubelet for them."""
        pods = f"get pods -n kube-system -l k8s-app=kube-proxy --field-selector=spec.nodeName={name} -o name"
        last = [""]

        def shown() -> bool:
            pod = self.kubectl(pods, expect=None).strip()
            last[0] = self.kubectl(f"logs -n kube-system {pod}", expect=None)
            return "Caches are synced" in last[0]

        wait_for(shown, SECONDS, lambda: last[0], 1)

    @property
    def state(self) -> str:
        return str(own_cas.record(self.made.cluster).get("state", ""))

    def restart_pods(self) -> None:
        """Delete the pods that are no static ones, so that they start anew."""
        self.kubectl("delete pods -n kube-system -l k8s-app=kube-proxy --wait=false")

    def kubectl(self, words: str, expect: int | None = 0) -> str:
        return self.made.run(f"kubectl --kubeconfig admin.conf {words}", expect=expect)

    def await_ready(self, *names: str) -> None:
        """Wait until these nodes, or all that have joined, are ready."""

        def said() -> str:
            columns = (
                'jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
            )
            return self.kubectl(f"get nodes -o {shlex.quote(columns)}", expect=None)

        def ready() -> bool:
            found = dict(line.split("=") for line in said().splitlines() if "=" in line)
            return set(names) <= found.keys() and set(found.values()) == {"True"}

        wait_for(ready, SECONDS, said, 1)


def spec(server: Server, names: Mapping[str, str]) -> str:
    """cluster.yaml for the machines alone: roles by name, with addresses by number."""
    at = {name: f"198.51.100.{11 + number}" for number, name in enumerate(names)}
    return own_cas.spec(CLUSTER, server.address, {name: (roles, at[name]) for name, roles in names.items()})


PLANE = "control-plane, etcd, worker"
WORKER = "worker"


@contextlib.contextmanager
def standing(
    server: Server, programs: Programs, folder: Path, names: Mapping[str, str], extra: dict[str, Any] | None = None
) -> Iterator[Given]:
    """Machines by their names and roles; no command has been run on any."""
    with kubeadm_cluster.machines(server, programs, folder, spec(server, names), comers={}) as made:
        yield Given(made, extra or {})
