"""`verify --live` on a real cluster: nothing is wrong with a right one, each single fault is named, and it only reads."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from helpers import pages
from helpers.kube import kube_cluster
from helpers.kube.components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT, Programs
from helpers.kube.forwarded_port import forwarded
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.machines import Process
from helpers.node.handmade_files import authority
from helpers.vault import servers
from helpers.vault.applied_cluster import ROOT, vaultpki
from helpers.vault.servers import wait_for

pytestmark = pytest.mark.conformance

GROUP: Final = "fault.invalid"
# What a node of every role listens at, and whose clients it lets in.
LISTENERS: Final = (
    f"node-1/kube-apiserver 198.51.100.11:{API_PORT}",
    f"node-1/etcd-server 198.51.100.11:{ETCD_PORT}",
    f"node-1/etcd-peer 198.51.100.11:{ETCD_PEER_PORT}",
    f"node-1/kubelet 198.51.100.11:{KUBELET_PORT}",
    "node-1/kube-controller-manager 127.0.0.1:10257",
    "node-1/kube-scheduler 127.0.0.1:10259",
)
API_SERVER, ETCD, PEER, KUBELET, MANAGER, SCHEDULER = LISTENERS
AUTHENTICATION: Final = "extension-apiserver-authentication"


@dataclass(slots=True)
class Scene:
    """A cluster of one node, and a folder for what a fault needs."""

    kube: Kubernetes
    folder: Path

    def verify(self, *arguments: str | Path, expect: int | None = None) -> dict[str, Any]:
        """The product on the node, as a whole process."""
        words = ["verify", "-f", self.kube.site.file, "--live", "--kubeconfig", self.kube.admin, "--json", *arguments]
        ran = self.kube.control_plane.machine.run(
            "env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "vaultpki", *words, expect=expect, timeout=120
        )
        assert ran.stdout, ran.stderr
        found: dict[str, Any] = json.loads(ran.stdout)
        assert ran.returncode == (0 if found["ok"] else 3), ran.stderr
        return found

    def wrong(self, *arguments: str | Path) -> list[dict[str, Any]]:
        checks = self.verify(*arguments)["checks"]
        return [check for check in checks if check["kind"] == "live" and check["ok"] is False]

    @property
    def agents(self) -> Path:
        """What `--dir` names: the node's own folder."""
        return self.kube.control_plane.seat.folder.parent


@pytest.fixture(scope="module")
def scene(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "server").mkdir()
    with (
        servers.running("bao", folder / "server", None) as server,
        kube_cluster.cluster(server, programs, folder / "kube", kube_cluster.ONE) as kube,
        forwarded(kube.control_plane.machine, urlsplit(server.address).port or 0),
    ):
        home = kube.control_plane.machine.folder
        token = home / ".vault-token"
        token.touch(mode=0o600)
        token.write_text(server.token)
        (folder / "faults").mkdir()
        _static_pods(kube)
        yield Scene(kube, folder / "faults")


def _static_pods(kube: Kubernetes, changed: Callable[[str, list[str]], list[str]] = lambda _, flags: flags) -> None:
    """Have the kubelet show static pods with the flags of the page; their programs are not in the image."""
    folder = kube.control_plane.machine.folder / "manifests"
    folder.mkdir(exist_ok=True)
    for component in ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler"):
        flags = changed(component, list(pages.flags(component, kube.control_plane.pki)))
        container = {
            "name": component,
            "image": "busybox.invalid/none:1",
            "imagePullPolicy": "Never",
            "command": [component, *flags],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": component, "namespace": "kube-system"},
            "spec": {"hostNetwork": True, "containers": [container], "terminationGracePeriodSeconds": 0},
        }
        text = json.dumps(pod)
        manifest = folder / f"{component}.yaml"
        if not manifest.exists() or manifest.read_text() != text:
            manifest.write_text(text)
    with _kubelet(kube, {"staticPodPath": str(folder)}, keep=True):
        pass

    def shown() -> bool:
        found = kube.get("pods", "-n", "kube-system")["items"]
        commands = {
            item["metadata"]["name"].removesuffix("-node-1"): item["spec"]["containers"][0]["command"][1:]
            for item in found
        }
        wanted = {
            file.stem: json.loads(file.read_text())["spec"]["containers"][0]["command"][1:]
            for file in folder.glob("*.yaml")
        }
        return commands == wanted

    wait_for(shown, 60, lambda: f"static pods are not shown:\n{kube.component('kubelet').last_words()}", pause=0.5)


Fault = Callable[[Scene], AbstractContextManager[object]]


def _listens(kube: Kubernetes, port: int) -> None:
    wait_for(lambda: kube.control_plane.machine.answers(port), 60, lambda: f"nobody listens at {port}", pause=0.2)


@contextlib.contextmanager
def _kubelet(kube: Kubernetes, change: dict[str, Any], *, keep: bool = False) -> Iterator[None]:
    """The kubelet with another configuration: a value of None leaves a field out."""
    file = kube.control_plane.machine.folder / "kubelet.yaml"
    before = file.read_text()
    wanted = yaml.safe_load(before)
    for path, value in change.items():
        *above, last = path.split(".")
        inner = wanted
        for part in above:
            inner = inner.setdefault(part, {})
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    after = yaml.safe_dump(wanted)
    if after != before:
        file.write_text(after)
        _restarted(kube, "kubelet", KUBELET_PORT)
    try:
        yield
    finally:
        if not keep:
            file.write_text(before)
            _restarted(kube, "kubelet", KUBELET_PORT)


def _restarted(kube: Kubernetes, component: str, port: int) -> None:
    kube.restart(component)
    _listens(kube, port)
    wait_for(kube.ready, 90, lambda: "the API server is not ready", pause=0.3)


def kubelet(**change: Any) -> Fault:
    return lambda scene: _kubelet(scene.kube, {name.replace("__", "."): value for name, value in change.items()})


@contextlib.contextmanager
def _flags(scene: Scene, component: str, port: int, change: Callable[[str], str | None]) -> Iterator[None]:
    process: Process = scene.kube.component(component)
    before = list(process.command)
    changed = [change(word) for word in before]
    assert changed != before
    process.command = [word for word in changed if word is not None]
    _restarted(scene.kube, component, port)
    try:
        yield
    finally:
        process.command = before
        _restarted(scene.kube, component, port)


def flag(component: str, port: int, name: str, *bundles: str) -> Fault:
    """The component with another file for a flag: the content of these files; of none, without the flag."""

    def fault(scene: Scene) -> AbstractContextManager[None]:
        file = scene.folder / f"{component}-{name}.pem"
        file.write_text("".join((scene.kube.control_plane.pki / each).read_text() for each in bundles))
        value = f"--{name}={file}" if bundles else None
        return _flags(scene, component, port, lambda word: value if word.startswith(f"--{name}") else word)

    return fault


@contextlib.contextmanager
def no_client_check(scene: Scene) -> Iterator[None]:
    """etcd that checks no client: it takes a set --trusted-ca-file alone as a wish to check."""
    dropped = ("--client-cert-auth", "--trusted-ca-file")
    with _flags(scene, "etcd", ETCD_PORT, lambda word: None if word.startswith(dropped) else word):
        yield


@contextlib.contextmanager
def older_pair(scene: Scene) -> Iterator[None]:
    """kube-apiserver on a copy of its pair, and the pair renewed since."""
    pki = scene.kube.control_plane.pki
    for name in ("kube-apiserver.crt", "kube-apiserver.key"):
        shutil.copy(pki / name, scene.folder / name)
    with _flags(
        scene,
        "kube-apiserver",
        API_PORT,
        lambda word: word.replace(f"{pki}/kube-apiserver.", f"{scene.folder}/kube-apiserver."),
    ):
        vaultpki("renew", "-c", scene.kube.control_plane.seat.config, "kube-apiserver")
        yield


@contextlib.contextmanager
def _paused(kube: Kubernetes, *components: str) -> Iterator[None]:
    """Without the controllers that would correct the fault at once."""
    processes = [kube.component(name) for name in components]
    for process in processes:
        process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send(signal.SIGCONT)


@contextlib.contextmanager
def _objects(scene: Scene, *documents: dict[str, Any]) -> Iterator[None]:
    scene.kube.apply(*documents)
    try:
        yield
    finally:
        for each in documents:
            about = each["metadata"]
            space = ["-n", about["namespace"]] if "namespace" in about else []
            scene.kube.kubectl(scene.kube.admin, "delete", each["kind"], about["name"], *space, "--wait=false")


def objects(*make: Callable[[Scene], dict[str, Any]]) -> Fault:
    return lambda scene: _objects(scene, *(one(scene) for one in make))


@contextlib.contextmanager
def _root_copy(scene: Scene, pem: Callable[[Scene], str] | None) -> Iterator[None]:
    kube = scene.kube
    with _paused(kube, "kube-controller-manager"):
        if pem is None:
            kube.kubectl(kube.admin, "delete", "configmap", "kube-root-ca.crt", "-n", "default")
        else:
            patch = json.dumps({"data": {"ca.crt": pem(scene)}})
            kube.kubectl(kube.admin, "patch", "configmap", "kube-root-ca.crt", "-n", "default", "-p", patch)
        yield
    chain = file_of("kubernetes-ca-chain.crt")(scene)

    def mended() -> bool:
        found = kube.kubectl(
            kube.admin, "get", "cm", "kube-root-ca.crt", "-o", r"jsonpath={.data.ca\.crt}", expect=None
        )
        return found.stdout.strip() == chain.strip()

    wait_for(mended, 60, lambda: "the controller manager did not correct the copy", pause=0.3)


def root_copy(pem: Callable[[Scene], str] | None) -> Fault:
    return lambda scene: _root_copy(scene, pem)


def file_of(*names: str) -> Callable[[Scene], str]:
    return lambda scene: "".join((scene.kube.control_plane.pki / name).read_text() for name in names)


def made(kind: str) -> Callable[[Scene], str]:
    """A CA that is none of the cluster: `own` of a user's name, `expired`, or with the name of the root."""

    def pem(scene: Scene) -> str:
        name = {"own": "somebody", "expired": "somebody", "root": "root", "kubernetes": "kubernetes"}[kind]
        if kind == "expired":
            return authority(name, life=(-timedelta(days=9), -timedelta(days=1))).pem.decode()
        signer = authority("root", cluster=scene.kube.site.name) if kind == "kubernetes" else None
        return authority(name, signer, cluster=scene.kube.site.name).pem.decode()

    return pem


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def webhook(pem: Callable[[Scene], str]) -> Callable[[Scene], dict[str, Any]]:
    def document(scene: Scene) -> dict[str, Any]:
        client = {"service": {"name": "none", "namespace": "default"}, "caBundle": _encoded(pem(scene))}
        rule = {"apiGroups": [GROUP], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["none"]}
        hook = {"name": f"one.{GROUP}", "clientConfig": client, "rules": [rule], "failurePolicy": "Ignore"}
        hook |= {"sideEffects": "None", "admissionReviewVersions": ["v1"]}
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": GROUP},
            "webhooks": [hook],
        }

    return document


def api_service(**spec: Any) -> Callable[[Scene], dict[str, Any]]:
    def document(scene: Scene) -> dict[str, Any]:
        whole = {"group": GROUP, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100}
        whole |= {"service": {"name": "none", "namespace": "default"}}
        whole |= {key: _encoded(value(scene)) if callable(value) else value for key, value in spec.items()}
        about = {"name": f"v1.{GROUP}"}
        return {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": about, "spec": whole}

    return document


def definition(pem: Callable[[Scene], str]) -> Callable[[Scene], dict[str, Any]]:
    def document(scene: Scene) -> dict[str, Any]:
        client = {"service": {"name": "none", "namespace": "default"}, "caBundle": _encoded(pem(scene))}
        schema = {"openAPIV3Schema": {"type": "object"}}
        version = {"name": "v1", "served": True, "storage": True, "schema": schema}
        conversion = {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}}
        names = {"plural": "things", "singular": "thing", "kind": "Thing"}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"things.{GROUP}"},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": names,
                "versions": [version],
                "conversion": conversion,
            },
        }

    return document


def cluster_info(pem: Callable[[Scene], str]) -> Callable[[Scene], dict[str, Any]]:
    def document(scene: Scene) -> dict[str, Any]:
        config = {"clusters": [{"name": "", "cluster": {"certificate-authority-data": _encoded(pem(scene))}}]}
        about = {"name": "cluster-info", "namespace": "kube-public"}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"kubeconfig": json.dumps(config)}}

    return document


def strange_node(scene: Scene) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "stranger"}}


@contextlib.contextmanager
def _published(scene: Scene, key: str, text: str) -> Iterator[None]:
    """kube-apiserver's own ConfigMap with something more: it only adds what is missing, until the map is deleted."""
    kube = scene.kube
    found = kube.get("configmap", AUTHENTICATION, "-n", "kube-system")["data"]
    before = found[key]
    value = json.dumps([*json.loads(before), text]) if key.endswith("names") else before + text
    patch = json.dumps({"data": {key: value}})
    kube.kubectl(kube.admin, "patch", "configmap", AUTHENTICATION, "-n", "kube-system", "-p", patch)
    try:
        yield
    finally:
        kube.kubectl(kube.admin, "delete", "configmap", AUTHENTICATION, "-n", "kube-system")

        def again() -> bool:
            shown = kube.kubectl(
                kube.admin, "get", "cm", AUTHENTICATION, "-n", "kube-system", "-o", "json", expect=None
            )
            return shown.returncode == 0 and json.loads(shown.stdout)["data"].get(key) == before

        wait_for(again, 120, lambda: "kube-apiserver did not write its ConfigMap again", pause=0.5)


def published(key: str, text: Callable[[Scene], str]) -> Fault:
    return lambda scene: _published(scene, key, text(scene))


@contextlib.contextmanager
def _pod_flags(scene: Scene, component: str, old: str, new: str | None) -> Iterator[None]:
    pki = str(scene.kube.control_plane.pki)

    def change(name: str, flags: Sequence[str]) -> list[str]:
        if name != component:
            return list(flags)
        assert any(word.startswith(old) for word in flags)
        kept = [word for word in flags if not word.startswith(old)]
        return kept if new is None else [*kept, new.replace("PKI", pki)]

    _static_pods(scene.kube, change)
    try:
        yield
    finally:
        _static_pods(scene.kube)


def pod_flags(component: str, old: str, new: str | None = None) -> Fault:
    return lambda scene: _pod_flags(scene, component, old, new)


# The fault; the check that must name it; where; and with which words.
FAULTS: Final[dict[str, tuple[Fault, str, str, str]]] = {
    "root copy of another CA": (
        root_copy(made("own")),
        "copy of a CA",
        "kube-root-ca.crt in default",
        "no CA of the API",
    ),
    "root copy without the root": (
        root_copy(file_of("kubernetes-ca.crt")),
        "copy of a CA",
        "kube-root-ca.crt in default",
        "lacks",
    ),
    "root copy with a forged root": (
        root_copy(lambda scene: file_of("kubernetes-ca-chain.crt")(scene) + made("root")(scene)),
        "copy of a CA",
        "kube-root-ca.crt in default",
        "which is no CA of the API server",
    ),
    "no root copy": (root_copy(None), "copy of a CA", "kube-root-ca.crt in default", "is missing"),
    "cluster-info of another CA": (
        objects(cluster_info(made("own"))),
        "copy of a CA",
        "cluster-info in kube-public",
        "no CA of the API server",
    ),
    "webhook with an expired CA": (
        objects(webhook(made("expired"))),
        "copy of a CA",
        f"ValidatingWebhookConfiguration {GROUP}: webhook one.{GROUP}",
        "expired on",
    ),
    "webhook with a forged CA": (
        objects(webhook(made("kubernetes"))),
        "copy of a CA",
        f"ValidatingWebhookConfiguration {GROUP}: webhook one.{GROUP}",
        "not signed by the cluster's root CA",
    ),
    "webhook without a CA": (
        objects(webhook(lambda _: "")),
        "copy of a CA",
        f"ValidatingWebhookConfiguration {GROUP}: webhook one.{GROUP}",
        "holds no CA",
    ),
    "APIService that checks nobody": (
        objects(api_service(insecureSkipTLSVerify=True)),
        "copy of a CA",
        f"APIService v1.{GROUP}",
        "not to be checked at all",
    ),
    "APIService with a forged root": (
        objects(api_service(caBundle=made("root"))),
        "copy of a CA",
        f"APIService v1.{GROUP}",
        "has the name of the root CA and is not it",
    ),
    "conversion webhook with an expired CA": (
        objects(definition(made("expired"))),
        "copy of a CA",
        f"CustomResourceDefinition things.{GROUP}: conversion webhook",
        "expired on",
    ),
    "extra requestheader CA": (
        published("requestheader-client-ca-file", made("own")),
        "copy of a CA",
        f"requestheader-client-ca-file of {AUTHENTICATION} in kube-system",
        "not a CA of front-proxy",
    ),
    "etcd's CA as published client CA": (
        published("client-ca-file", file_of("etcd-ca.crt")),
        "copy of a CA",
        f"client-ca-file of {AUTHENTICATION} in kube-system",
        "not a CA of kubernetes",
    ),
    "another front proxy": (
        published("requestheader-allowed-names", lambda _: "mallory"),
        "front proxies",
        f"requestheader-allowed-names of {AUTHENTICATION} in kube-system",
        "lets mallory speak for any user",
    ),
    "a node that nobody listed": (objects(strange_node), "node", "stranger", "is no node of"),
    "kubelet with a certificate of its own": (
        kubelet(tlsCertFile=None, tlsPrivateKeyFile=None),
        "chain",
        KUBELET,
        "",
    ),
    "kubelet without its pair, by its configuration": (
        kubelet(tlsCertFile=None, tlsPrivateKeyFile=None),
        "flags",
        "node-1/kubelet",
        "tlsCertFile",
    ),
    "kubelet that takes anonymous requests": (
        kubelet(authentication__anonymous__enabled=True),
        "no certificate",
        KUBELET,
        "anonymous requests are on",
    ),
    "kubelet that lets all do all": (
        kubelet(authorization__mode="AlwaysAllow"),
        "flags",
        "node-1/kubelet",
        "authorization.mode is AlwaysAllow",
    ),
    "kubelet with a port for everybody": (
        kubelet(readOnlyPort=10255),
        "flags",
        "node-1/kubelet",
        "readOnlyPort is 10255",
    ),
    "etcd that checks no client": (no_client_check, "stranger", ETCD, "answers 200"),
    "etcd that trusts the root": (
        flag("etcd", ETCD_PORT, "trusted-ca-file", "etcd-ca-chain.crt"),
        "client CAs",
        ETCD,
        "clients of the root CA",
    ),
    "etcd whose peers may be of kubernetes": (
        flag("etcd", ETCD_PORT, "peer-trusted-ca-file", "etcd-ca.crt", "kubernetes-ca.crt"),
        "client CAs",
        PEER,
        "accepts clients of the CA kubernetes, another trust domain",
    ),
    "kube-apiserver that lets etcd's clients in": (
        flag("kube-apiserver", API_PORT, "client-ca-file", "kubernetes-ca.crt", "etcd-ca.crt"),
        "another domain",
        API_SERVER,
        "answers",
    ),
    "kube-apiserver whose client CA is the root": (
        flag("kube-apiserver", API_PORT, "client-ca-file", "kubernetes-ca-chain.crt"),
        "client CAs",
        API_SERVER,
        "clients of the root CA",
    ),
    "kube-apiserver on an older pair": (older_pair, "on disk", API_SERVER, "a restart is pending"),
    "no --kubelet-certificate-authority": (
        pod_flags("kube-apiserver", "--kubelet-certificate-authority"),
        "flags",
        "node-1/kube-apiserver",
        "--kubelet-certificate-authority is not set",
    ),
    "AlwaysAllow": (
        pod_flags("kube-apiserver", "--authorization-mode", "--authorization-mode=AlwaysAllow"),
        "flags",
        "node-1/kube-apiserver",
        "--authorization-mode is AlwaysAllow",
    ),
    "static pod of etcd without --client-cert-auth": (
        pod_flags("etcd", "--client-cert-auth"),
        "flags",
        "node-1/etcd",
        "--client-cert-auth is not set",
    ),
    "pods without the root": (
        pod_flags("kube-controller-manager", "--root-ca-file", "--root-ca-file=PKI/kubernetes-ca.crt"),
        "flags",
        "node-1/kube-controller-manager",
        "--root-ca-file is",
    ),
}


def test_nothing_is_wrong_with_a_right_cluster(scene: Scene) -> None:
    found = scene.verify("--dir", scene.agents)
    live = [check for check in found["checks"] if check["kind"] == "live"]
    assert [check for check in live if check["ok"] is not True] == []
    assert found["ok"] and {check["from"] for check in live if check["name"] == "client CAs"} == {*LISTENERS}
    names = {check["name"] for check in live}
    assert names >= {"served certificate", "chain", "on disk", "reported", "stranger", "another domain", "own domain"}
    assert names >= {"copy of a CA", "front proxies", "bundles", "flags", "node"}


def test_it_only_reads(scene: Scene) -> None:
    since = scene.kube.audit_position()
    scene.verify("--dir", scene.agents)
    # Every other client of this cluster says what it is.
    events = [event for event in scene.kube.audit(since) if not event.get("userAgent")]
    assert len(events) > 15 and {event["verb"] for event in events} <= {"get", "list"}
    assert {event["user"].get("username") for event in events} >= {"kubernetes-admin", "system:anonymous"}


def test_without_files_pairs_of_other_domains_are_not_checked(scene: Scene) -> None:
    found = scene.verify()
    left = [check for check in found["checks"] if check["ok"] is None]
    assert [(check["name"], check["got"]) for check in left] == [("another domain", "unchecked")]


def test_from_another_machine_what_listens_on_loopback_is_not_checked(scene: Scene) -> None:
    words = ["verify", "-f", scene.kube.site.file, "--live", "--kubeconfig", scene.kube.admin, "--dir", scene.agents]
    ran = scene.kube.outside.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "vaultpki", *words)
    assert (
        f"not checked: listener of {MANAGER}, listener of {SCHEDULER}: it listens on its own machine only" in ran.stdout
    )
    # Vault is not to be reached from there, so the files say what is right.
    assert "by the CAs of --dir: " in ran.stdout and ", 0 not, " in ran.stdout
    assert "not checked: reported of reports of nodes" in ran.stdout


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(scene: Scene, name: str) -> None:
    fault, check, where, words = FAULTS[name]
    with fault(scene):
        wrong = scene.wrong("--dir", scene.agents)
    named = [each for each in wrong if each["name"] == check and where in (each["from"], each["to"])]
    assert any(words in each["detail"] for each in named), "\n".join(map(str, wrong))


def test_the_cluster_is_right_again(scene: Scene) -> None:
    assert scene.wrong("--dir", scene.agents) == []
