"""Everybody who may come to a component's door, all doors, and what must be said there: made from the table.

A rule sees what the table says of a caller's certificate and nothing else. So a new row, also one of a user's own, is
tried at every door without new code.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from helpers import pages
from helpers.kube import forged_pairs
from helpers.kube.components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.kube.machines import Machine
from helpers.vault.servers import wait_for
from vaultpki.certificates import TABLE, pair_files, resolve, rows
from vaultpki.model import Certificate, Row, Subject
from vaultpki.pki import x509

SERVERS = {
    "kube-apiserver": API_PORT,
    "kubelet": KUBELET_PORT,
    "etcd-server": ETCD_PORT,
    "etcd-peer": ETCD_PEER_PORT,
}
"""Where each server's certificate of the table is shown."""

METRICS_PORTS = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
SECONDS = 10.0
# Kubernetes writes its log before it answers, etcd just after.
LOG_SECONDS = 3.0

ADMINS = ("cluster-admin",)
KUBELET_ADMINS = ("cluster-admin", "system:kubelet-api-admin")

# Whom a caller claims to be where it is for front proxies alone to say so: the one who may do all.
CLAIMED = next(Subject(row.common_name, row.organization) for row in TABLE if "system:masters" in row.organization)
HEADERS = {"X-Remote-User": CLAIMED.common_name, "X-Remote-Group": CLAIMED.organization[0]}

UNKNOWN = "certificate signed by unknown authority"
MISUSED = "certificate specifies an incompatible key usage"
ANONYMOUS = "system:anonymous"

May = Callable[[Subject, Collection[str]], bool]
"""Whether RBAC lets somebody in by one of these roles."""


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

    @property
    def message(self) -> str:
        """What a Kubernetes Status says, or else the whole body."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(self.body)["message"])
        return self.body


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

    def probe(self, caller: Caller) -> Heard:
        """One request with the caller's pair."""
        at = self.node.address, self.port
        return ask(caller.machine, caller.pair, at, self.method, self.path, self.content, self.headers)

    def misjudged(self, kubernetes: Kubernetes, callers: Sequence[Caller]) -> dict[str, str]:
        """Every caller who was told something else than the rule says, by label: what, and what else."""
        process = kubernetes.component(self.component, self.node.name)
        before = len(process.said())
        heard = {caller.label: self.probe(caller) for caller in callers}
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
            wait_for(lambda: not unsaid(), LOG_SECONDS, lambda: "")
        except AssertionError:
            wrong |= {caller.label: f"the log does not say {self.rule(caller).log!r}" for caller in unsaid()}
        return wrong

    def _tells(self, lines: Sequence[str], caller: Caller, heard: Heard) -> bool:
        # etcd names the caller's address, Kubernetes the certificate's serial.
        mark = f'"{heard.address}"' if self.component == "etcd" else f"SN={caller.serial},"
        return any(mark in line and self.rule(caller).log in line for line in lines)


def ask(
    machine: Machine,
    pair: tuple[Path, Path] | None,
    at: tuple[str, int],
    method: str,
    path: str,
    content: object = None,
    headers: Mapping[str, str] | None = None,
) -> Heard:
    """One request from a machine with a pair, to whoever is there; `content` goes as JSON."""
    # Unlike Go's clients OpenSSL's show a pair whatever CAs the server asks for; and whom it calls, a thief does not
    # care.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pair is not None:
        context.load_cert_chain(*pair)
    with machine.connect(*at, SECONDS) as plain:
        address = "{}:{}".format(*plain.getsockname())
        try:
            with context.wrap_socket(plain) as secure:
                _await_alert(secure)
                connection = http.client.HTTPConnection(at[0])
                connection.sock = secure
                body = None if content is None else json.dumps(content)
                sent = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
                connection.request(method, path, body, sent)
                answer = connection.getresponse()
                return Heard(address, answer.status, answer.read().decode(errors="replace"))
        except ssl.SSLError as error:
            return Heard(address, alert=(error.reason or str(error)).lower())
        except (http.client.RemoteDisconnected, ConnectionError):
            return Heard(address, alert="closed")


def _await_alert(secure: ssl.SSLSocket) -> None:
    # The server looks at the pair once the client has finished (RFC 8446 section 4.4.2.4): it sends a session ticket
    # then, or an alert, which is lost where a request crosses it.
    select.select([secure], [], [], SECONDS)
    secure.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        secure.recv(1)
    secure.settimeout(SECONDS)


def holders(kubernetes: Kubernetes, row: Row) -> list[tuple[KubeNode | None, Path]]:
    """Who has the row's files, and where: an operator (None), or each node of one of its roles."""
    if row.operator:
        return [(None, kubernetes.operator)]
    return [(node, node.pki) for node in kubernetes.nodes.values() if node.roles & row.node_roles]


def pairs(kubernetes: Kubernetes) -> Iterator[Caller]:
    """Every pair there is, each where it lies."""
    cluster = kubernetes.cluster.model
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
                pair = forged_pairs.pair(caller.pair[0].read_bytes(), folder / f"forged-{name}")
                strangers[name] = Caller(f"a stranger's {name}", kubernetes.outside, caller.certificate, pair, False)
    return found + list(strangers.values())


def doors(kubernetes: Kubernetes) -> dict[str, Door]:
    """Every door, each at the first node that has one; and the same to callers whose headers claim more."""
    control_plane, worker, member = kubernetes.control_plane, kubernetes.worker, kubernetes.members[0]
    may = _rights(kubernetes.operator / "manifests")
    said = "--requestheader-allowed-names="
    (names,) = (flag for flag in pages.flags("kube-apiserver", control_plane.pki) if flag.startswith(said))
    allowed = names.removeprefix(said).split(",")
    everything = {"key": "AA==", "range_end": "AA==", "count_only": True}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    plain = {
        "etcd": Door("etcd", member, ETCD_PORT, "/v3/kv/range", partial(etcd, '"count":'), "POST", content=everything),
        "etcd-peer": Door("etcd", member, ETCD_PEER_PORT, "/members", partial(etcd_peer, '"peerURLs":')),
        "kube-apiserver": Door(
            "kube-apiserver", control_plane, API_PORT, WHO_AM_I, kube_apiserver, "POST", content=review
        ),
        "kubelet": Door("kubelet", worker, KUBELET_PORT, "/pods", partial(kubelet, may)),
    }
    for name, port in METRICS_PORTS.items():
        plain[name] = Door(name, control_plane, port, "/metrics", partial(metrics, may))
    claiming = {}
    for name, claimed in {"kube-apiserver": _is(CLAIMED), **dict.fromkeys(METRICS_PORTS, Verdict(200))}.items():
        rule = partial(fronted, allowed, claimed, plain[name].rule)
        claiming[f"{name}, claiming"] = replace(plain[name], rule=rule, headers=HEADERS)
    # A kubelet has no front proxy, so claims change nothing there.
    claiming["kubelet, claiming"] = replace(plain["kubelet"], headers=HEADERS)
    return plain | claiming


def refusal(ca: str, caller: Caller) -> str:
    """Why a server that trusts the clients of one CA does not believe a pair, in Go's words; empty where it does."""
    assert caller.certificate is not None
    if caller.certificate.ca != ca or not caller.genuine:
        return UNKNOWN
    return "" if caller.certificate.usage.client else MISUSED


def etcd(content: str, caller: Caller) -> Verdict:
    """Whom its CA signed for a client is root there; all others have no connection at all."""
    if caller.certificate is None:
        return Verdict(alert="certificate_required", log="client didn't provide a certificate")
    if why := refusal("etcd", caller):
        return Verdict(alert="unknown_ca" if why == UNKNOWN else "bad_certificate", log=why)
    return Verdict(200, body=content)


def etcd_peer(content: str, caller: Caller) -> Verdict:
    """The same, but a pair with names is taken from the machine of these names alone; here no name can be resolved."""
    verdict = etcd(content, caller)
    if caller.certificate is None or not verdict.let_in:
        return verdict
    subject = caller.certificate.subject
    if caller.machine.address in subject.ips or not (subject.ips or subject.dns):
        return verdict
    return Verdict(alert="closed", log="does not match any of DNSNames")


def _user(caller: Caller) -> Verdict:
    """Who the pair says, or nobody: what all of Kubernetes does with pairs."""
    if caller.certificate is None:
        return Verdict(403, body=ANONYMOUS)
    if why := refusal("kubernetes", caller):
        return Verdict(401, body="Unauthorized", log=f"failed: x509: {why}")
    return Verdict(200)


def kube_apiserver(caller: Caller) -> Verdict:
    """Asked by a caller who he is."""
    verdict = _user(caller)
    return _is(caller.certificate.subject) if verdict.let_in and caller.certificate is not None else verdict


def _is(subject: Subject) -> Verdict:
    return Verdict(201, body=f'"username":"{subject.common_name}"')


def kubelet(may: May, caller: Caller) -> Verdict:
    """Asked for its pods."""
    if caller.certificate is None:
        return Verdict(401, body="Unauthorized")
    verdict = _user(caller)
    if not verdict.let_in or may(caller.certificate.subject, KUBELET_ADMINS):
        return verdict
    return Verdict(403, body=f"Forbidden (user={caller.certificate.subject.common_name}, verb=get, resource=nodes,")


def metrics(may: May, caller: Caller) -> Verdict:
    """A component that asks kube-apiserver whom to let in, asked for its metrics."""
    verdict = _user(caller)
    if caller.certificate is None or not verdict.let_in or may(caller.certificate.subject, ADMINS):
        return verdict
    name = caller.certificate.subject.common_name
    return Verdict(403, body=f'User \\"{name}\\" cannot get path \\"/metrics\\"')


def fronted(allowed: Collection[str], claimed: Verdict, rule: Callable[[Caller], Verdict], caller: Caller) -> Verdict:
    """Where headers claim that the caller is another: for a front proxy of an allowed name that is so."""
    if caller.certificate is None or refusal("front-proxy", caller):
        return rule(caller)
    name = caller.certificate.subject.common_name
    if name not in allowed:
        return Verdict(401, body="Unauthorized", log=f"x509: subject with cn={name} is not in the allowed list")
    return claimed


def _rights(manifests: Path) -> May:
    """Whom the bindings that `issue` renders let in; and system:masters, whom every authorizer lets in."""
    found = [yaml.safe_load(file.read_text()) for file in manifests.glob("*.yaml")]
    bound = {
        (binding["roleRef"]["name"], subject["kind"], subject["name"])
        for binding in found
        if binding["kind"] == "ClusterRoleBinding"
        for subject in binding["subjects"]
    }

    def may(subject: Subject, roles: Collection[str]) -> bool:
        names = [("User", subject.common_name), *(("Group", group) for group in subject.organization)]
        return CLAIMED.organization[0] in subject.organization or any(
            (role, *name) in bound for role in roles for name in names
        )

    return may
