"""Everybody who may come to a component's door, all doors, and what must be said there: made from the table.

A rule sees what the table says of a caller's certificate and nothing else. So a new row, also one of a user's own, is
tried at every door without new code.
"""

from __future__ import annotations

import functools
import http.client
import json
import select
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forged
import readme
import yaml
from components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT
from kube import KubeNode, Kubernetes
from machines import Machine
from servers import wait_for

from vaultpki import x509
from vaultpki.certificates import pair_files, resolve, rows
from vaultpki.model import Certificate, NodeRole, Row, Subject

CONTROLLER_MANAGER_PORT = 10257
SCHEDULER_PORT = 10259
SECONDS = 10.0

# Whom a caller claims to be for; it is for a front proxy alone to say.
CLAIMED = Subject("kubernetes-super-admin", ("system:masters",))
HEADERS = {"X-Remote-User": CLAIMED.common_name, "X-Remote-Group": CLAIMED.organization[0]}

UNKNOWN = "certificate signed by unknown authority"
MISUSED = "certificate specifies an incompatible key usage"
ANONYMOUS = "system:anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """One who comes from a machine with a pair, or with none.

    `certificate` is what the table says of the pair; one that is not `genuine` says the same, and no CA of the cluster
    has signed it.
    """

    label: str
    machine: Machine
    certificate: Certificate | None = None
    pair: tuple[Path, Path] | None = None
    genuine: bool = True

    @property
    def serial(self) -> int:
        assert self.pair is not None
        return x509.read_certificates(self.pair[0].read_bytes())[0].serial


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a caller must be told: an HTTP status, or else the alert with which TLS ends.

    `body` stands in the answer, `log` in a line of the component's own log that is about this caller.
    """

    status: int | None = None
    alert: str = ""
    body: str = ""
    log: str = ""

    @property
    def let_in(self) -> bool:
        return self.status is not None and self.status < 300


@dataclass(frozen=True, slots=True)
class Heard:
    """What a caller was told, and its own address as the component's log has it."""

    address: str
    status: int | None = None
    body: str = ""
    alert: str = ""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a component listens, what is asked there, and who must be told what."""

    component: str
    node: KubeNode
    port: int
    path: str
    rule: Callable[[Caller], Verdict]
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, Any] | None = None

    def knock(self, caller: Caller) -> Heard:
        """One request with the caller's pair."""
        # Unlike Go's clients OpenSSL's show a pair that the server has not asked for; and whom it calls, a thief does
        # not care.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if caller.pair is not None:
            context.load_cert_chain(*caller.pair)
        with caller.machine.connect(self.node.address, self.port, SECONDS) as plain:
            address = "{}:{}".format(*plain.getsockname())
            try:
                with context.wrap_socket(plain, server_hostname=self.node.address) as secure:
                    # The server looks at the pair once the client has finished (RFC 8446 section 4.4.2.4): it sends an
                    # alert or a session ticket then, and an alert is lost where a request crosses it.
                    select.select([secure], [], [], SECONDS)
                    connection = http.client.HTTPConnection(self.node.address)
                    connection.sock = secure
                    body = None if self.content is None else json.dumps(self.content)
                    headers = {"Content-Type": "application/json", "Connection": "close", **self.headers}
                    connection.request(self.method, self.path, body, headers)
                    answer = connection.getresponse()
                    return Heard(address, answer.status, answer.read().decode(errors="replace"))
            except ssl.SSLError as error:
                return Heard(address, alert=(error.reason or str(error)).lower())
            except (http.client.RemoteDisconnected, ConnectionError):
                return Heard(address, alert="closed")

    def misjudged(self, kubernetes: Kubernetes, callers: Sequence[Caller]) -> dict[str, str]:
        """Every caller who was told something else than the rule says, by label: what, and what else."""
        process = kubernetes.component(self.component, self.node.name)
        before = len(process.said())
        heard = {caller.label: self.knock(caller) for caller in callers}
        wrong = {}
        for caller in callers:
            told, verdict = heard[caller.label], self.rule(caller)
            if (
                told.status != verdict.status
                or verdict.alert not in told.alert
                or (verdict.alert == "") != (told.alert == "")
                or verdict.body not in told.body
            ):
                wrong[caller.label] = f"{told}, not {verdict}"
        told_of = [caller for caller in callers if self.rule(caller).log and caller.label not in wrong]

        def unsaid() -> list[Caller]:
            lines = process.said()[before:].splitlines()
            return [caller for caller in told_of if not self._tells(lines, caller, heard[caller.label])]

        try:
            wait_for(lambda: not unsaid(), SECONDS, lambda: "")
        except AssertionError:
            wrong |= {caller.label: f"the log does not say {self.rule(caller).log!r}" for caller in unsaid()}
        return wrong

    def _tells(self, lines: Sequence[str], caller: Caller, heard: Heard) -> bool:
        # etcd names the caller's address, Kubernetes the certificate's serial.
        mark = f'"{heard.address}"' if self.component == "etcd" else f"SN={caller.serial},"
        return any(mark in line and self.rule(caller).log in line for line in lines)


def holders(kubernetes: Kubernetes, row: Row) -> list[tuple[KubeNode | None, Path]]:
    """Who has the row's files, and where: an operator (None), or each node of one of its roles."""
    if row.operator:
        return [(None, kubernetes.operator)]
    return [(node, node.pki) for node in kubernetes.nodes.values() if node.roles & row.node_roles]


def pairs(kubernetes: Kubernetes) -> Iterator[Caller]:
    """Every pair there is, each where it lies."""
    cluster = kubernetes.site.cluster
    listed = {node.name: node for node in cluster.nodes}
    for row in rows(cluster):
        crt, key, _ = pair_files(row.stem)
        for node, folder in holders(kubernetes, row):
            certificate = resolve(row, cluster, listed[node.name] if node else None)
            machine = node.machine if node else kubernetes.outside
            label = f"{node.name if node else 'operator'}'s {row.name}"
            yield Caller(label, machine, certificate, (folder / crt, folder / key))


def callers(kubernetes: Kubernetes, folder: Path) -> list[Caller]:
    """Nobody, everybody, and for each row a stranger with a pair that says the same; forged ones lie in `folder`."""
    found = [Caller("nobody", kubernetes.outside), *pairs(kubernetes)]
    strangers = {}
    for caller in found:
        if caller.certificate is not None and caller.pair is not None:
            name = caller.certificate.name
            if name not in strangers:
                pair = forged.pair(caller.pair[0].read_bytes(), folder / f"forged-{name}")
                strangers[name] = Caller(f"a stranger's {name}", kubernetes.outside, caller.certificate, pair, False)
    return found + list(strangers.values())


def doors(kubernetes: Kubernetes) -> dict[str, Door]:
    """Every door of the cluster, one for each component: of its first node; and the same where headers claim more."""
    control_plane, worker = kubernetes.control_plane, kubernetes.worker
    member = kubernetes.members[0]
    bindings = _bindings(kubernetes.operator / "manifests")
    everything = {"key": "AA==", "range_end": "AA==", "count_only": True}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    whoami = functools.partial(Door, "kube-apiserver", control_plane, API_PORT, reviews, method="POST", content=review)
    kubelet = functools.partial(Door, "kubelet", worker, KUBELET_PORT, "/pods")
    found = {
        "etcd": Door("etcd", member, ETCD_PORT, "/v3/kv/range", etcd, "POST", content=everything),
        "etcd-peer": Door("etcd", member, ETCD_PEER_PORT, "/members", etcd_peer),
        "kube-apiserver": whoami(rule=kube_apiserver),
        "kube-apiserver-claimed": whoami(rule=functools.partial(fronted, kube_apiserver, _as_user), headers=HEADERS),
        "kubelet": kubelet(rule=functools.partial(_kubelet, bindings)),
        "kubelet-claimed": kubelet(rule=functools.partial(_kubelet, bindings), headers=HEADERS),
    }
    rule = functools.partial(metrics, bindings)
    for component, port in (
        ("kube-scheduler", SCHEDULER_PORT),
        ("kube-controller-manager", CONTROLLER_MANAGER_PORT),
    ):
        served = functools.partial(Door, component, control_plane, port, "/metrics")
        found[component] = served(rule=rule)
        found[f"{component}-claimed"] = served(
            rule=functools.partial(fronted, rule, lambda _: Verdict(200)), headers=HEADERS
        )
    return found
