"""A running cluster for `verify --live`, and single faults of it, each undone on the way out."""

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

import yaml

from helpers import pages
from helpers.kube.components import API_PORT, ETCD_PORT, KUBELET_PORT
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.machines import Machine, Process, Ran
from helpers.node.handmade_files import authority
from helpers.product import PYTHONPATH
from helpers.vault.servers import wait_for

GROUP: Final = "fault.invalid"
AUTHENTICATION: Final = "extension-apiserver-authentication"


def run(
    kube: Kubernetes,
    machine: Machine,
    *arguments: str | Path,
    spec: Path | None = None,
    vault: str = "",
    conf: Path | None = None,
) -> Ran:
    """`verify --live` on a machine of the cluster; `vault` is another address of Vault, `conf` another kubeconfig."""
    words = ["verify", "-f", spec or kube.cluster.file, "--live", "--kubeconfig", conf or kube.admin, *arguments]
    given = [f"PYTHONPATH={PYTHONPATH}", *([f"VAULT_ADDR={vault}"] if vault else [])]
    return machine.run("env", *given, sys.executable, "-m", "vaultpki", *words, expect=None, timeout=120)


@dataclass(slots=True)
class LiveCluster:
    """A cluster of one node, and a folder for what a fault needs."""

    kube: Kubernetes
    folder: Path

    def run(self, *arguments: str | Path) -> Ran:
        """The product on the node, as a whole process."""
        return run(self.kube, self.kube.control_plane.machine, *arguments)

    def printed(self) -> list[str]:
        """What a person reads, without files."""
        return self.run().stdout.splitlines()

    def verify(self, *arguments: str | Path) -> dict[str, Any]:
        """What a program reads."""
        ran = self.run("--json", *arguments)
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
        return self.kube.control_plane.node.folder.parent


def static_pods(kube: Kubernetes, changed: Callable[[str, list[str]], list[str]] = lambda _, flags: flags) -> None:
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


Fault = Callable[[LiveCluster], AbstractContextManager[object]]


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
    return lambda live: _kubelet(live.kube, {name.replace("__", "."): value for name, value in change.items()})


@contextlib.contextmanager
def _flags(live: LiveCluster, component: str, port: int, change: Callable[[str], str | None]) -> Iterator[None]:
    process: Process = live.kube.component(component)
    before = list(process.command)
    changed = [change(word) for word in before]
    assert changed != before
    process.command = [word for word in changed if word is not None]
    _restarted(live.kube, component, port)
    try:
        yield
    finally:
        process.command = before
        _restarted(live.kube, component, port)


@contextlib.contextmanager
def kubelet_of_etcds_clients(live: LiveCluster) -> Iterator[None]:
    """A kubelet that takes etcd's CA for that of its clients."""
    file = str(live.kube.control_plane.pki / "etcd-ca.crt")
    with _kubelet(live.kube, {"authentication.x509.clientCAFile": file}):
        yield


def flag(component: str, port: int, name: str, *bundles: str) -> Fault:
    """The component with another file for a flag: the content of these files; of none, without the flag."""

    def fault(live: LiveCluster) -> AbstractContextManager[None]:
        file = live.folder / f"{component}-{name}.pem"
        file.write_text("".join((live.kube.control_plane.pki / each).read_text() for each in bundles))
        value = f"--{name}={file}" if bundles else None
        return _flags(live, component, port, lambda word: value if word.startswith(f"--{name}") else word)

    return fault


@contextlib.contextmanager
def no_client_check(live: LiveCluster) -> Iterator[None]:
    """etcd that checks no client: it takes a set --trusted-ca-file alone as a wish to check."""
    dropped = ("--client-cert-auth", "--trusted-ca-file")
    with _flags(live, "etcd", ETCD_PORT, lambda word: None if word.startswith(dropped) else word):
        yield


@contextlib.contextmanager
def older_pair(live: LiveCluster) -> Iterator[None]:
    """kube-apiserver on a copy of its pair, and the pair renewed since."""
    pki = live.kube.control_plane.pki
    for name in ("kube-apiserver.crt", "kube-apiserver.key"):
        shutil.copy(pki / name, live.folder / name)
    with _flags(
        live,
        "kube-apiserver",
        API_PORT,
        lambda word: word.replace(f"{pki}/kube-apiserver.", f"{live.folder}/kube-apiserver."),
    ):
        live.kube.vaultpki(live.kube.control_plane.name, "renew", "kube-apiserver")
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
def _objects(live: LiveCluster, *documents: dict[str, Any]) -> Iterator[None]:
    live.kube.apply(*documents)
    try:
        yield
    finally:
        for each in documents:
            about = each["metadata"]
            space = ["-n", about["namespace"]] if "namespace" in about else []
            live.kube.kubectl(live.kube.admin, "delete", each["kind"], about["name"], *space, "--wait=false")


def objects(*make: Callable[[LiveCluster], dict[str, Any]]) -> Fault:
    return lambda live: _objects(live, *(one(live) for one in make))


@contextlib.contextmanager
def _root_copy(live: LiveCluster, pem: Callable[[LiveCluster], str] | None) -> Iterator[None]:
    kube = live.kube
    with _paused(kube, "kube-controller-manager"):
        if pem is None:
            kube.kubectl(kube.admin, "delete", "configmap", "kube-root-ca.crt", "-n", "default")
        else:
            patch = json.dumps({"data": {"ca.crt": pem(live)}})
            kube.kubectl(kube.admin, "patch", "configmap", "kube-root-ca.crt", "-n", "default", "-p", patch)
        yield
    chain = file_of("kubernetes-ca-chain.crt")(live)

    def mended() -> bool:
        found = kube.kubectl(
            kube.admin, "get", "cm", "kube-root-ca.crt", "-o", r"jsonpath={.data.ca\.crt}", expect=None
        )
        return found.stdout.strip() == chain.strip()

    wait_for(mended, 60, lambda: "the controller manager did not correct the copy", pause=0.3)


def root_copy(pem: Callable[[LiveCluster], str] | None) -> Fault:
    return lambda live: _root_copy(live, pem)


def file_of(*names: str) -> Callable[[LiveCluster], str]:
    return lambda live: "".join((live.kube.control_plane.pki / name).read_text() for name in names)


def made(kind: str) -> Callable[[LiveCluster], str]:
    """A CA that is none of the cluster: `own` of a user's name, `expired`, or with the name of the root."""

    def pem(live: LiveCluster) -> str:
        name = {"own": "somebody", "expired": "somebody", "root": "root", "kubernetes": "kubernetes"}[kind]
        if kind == "expired":
            return authority(name, life=(-timedelta(days=9), -timedelta(days=1))).pem.decode()
        signer = authority("root", cluster=live.kube.cluster.name) if kind == "kubernetes" else None
        return authority(name, signer, cluster=live.kube.cluster.name).pem.decode()

    return pem


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def webhook(pem: Callable[[LiveCluster], str]) -> Callable[[LiveCluster], dict[str, Any]]:
    def document(live: LiveCluster) -> dict[str, Any]:
        client = {"service": {"name": "none", "namespace": "default"}, "caBundle": _encoded(pem(live))}
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


def api_service(**spec: Any) -> Callable[[LiveCluster], dict[str, Any]]:
    def document(live: LiveCluster) -> dict[str, Any]:
        whole = {"group": GROUP, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100}
        whole |= {"service": {"name": "none", "namespace": "default"}}
        whole |= {key: _encoded(value(live)) if callable(value) else value for key, value in spec.items()}
        about = {"name": f"v1.{GROUP}"}
        return {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": about, "spec": whole}

    return document


def definition(pem: Callable[[LiveCluster], str]) -> Callable[[LiveCluster], dict[str, Any]]:
    def document(live: LiveCluster) -> dict[str, Any]:
        client = {"service": {"name": "none", "namespace": "default"}, "caBundle": _encoded(pem(live))}
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


def cluster_info(pem: Callable[[LiveCluster], str]) -> Callable[[LiveCluster], dict[str, Any]]:
    def document(live: LiveCluster) -> dict[str, Any]:
        config = {"clusters": [{"name": "", "cluster": {"certificate-authority-data": _encoded(pem(live))}}]}
        about = {"name": "cluster-info", "namespace": "kube-public"}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"kubeconfig": json.dumps(config)}}

    return document


def strange_node(live: LiveCluster) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "stranger"}}


@contextlib.contextmanager
def _published(live: LiveCluster, key: str, text: str) -> Iterator[None]:
    """kube-apiserver's own ConfigMap with something more: it only adds what is missing, until the map is deleted."""
    kube = live.kube
    found = kube.get("configmap", AUTHENTICATION, "-n", "kube-system")["data"]
    before = found[key]
    value = json.dumps([*json.loads(before), text]) if key.endswith("names") else before + text
    patch = json.dumps({"data": {key: value}})
    kube.kubectl(kube.admin, "patch", "configmap", AUTHENTICATION, "-n", "kube-system", "-p", patch)
    try:
        yield
    finally:
        _publish_again(kube, key, before)


def _publish_again(kube: Kubernetes, key: str, wanted: str) -> None:
    """Delete the ConfigMap, and wait for kube-apiserver to write it from its files."""
    kube.kubectl(kube.admin, "delete", "configmap", AUTHENTICATION, "-n", "kube-system")

    def again() -> bool:
        shown = kube.kubectl(kube.admin, "get", "cm", AUTHENTICATION, "-n", "kube-system", "-o", "json", expect=None)
        return shown.returncode == 0 and json.loads(shown.stdout)["data"].get(key) == wanted

    wait_for(again, 120, lambda: "kube-apiserver did not write its ConfigMap again", pause=0.5)


@contextlib.contextmanager
def client_ca(live: LiveCluster, *bundles: str) -> Iterator[None]:
    """kube-apiserver with another client CA, which it also publishes, and never takes back by itself."""
    right = file_of("kubernetes-ca.crt")(live)
    with flag("kube-apiserver", API_PORT, "client-ca-file", *bundles)(live):
        yield
    _publish_again(live.kube, "client-ca-file", right)


def published(key: str, text: Callable[[LiveCluster], str]) -> Fault:
    return lambda live: _published(live, key, text(live))


@contextlib.contextmanager
def _pod_flags(live: LiveCluster, component: str, old: str, new: str | None) -> Iterator[None]:
    pki = str(live.kube.control_plane.pki)

    def change(name: str, flags: Sequence[str]) -> list[str]:
        if name != component:
            return list(flags)
        assert any(word.startswith(old) for word in flags)
        kept = [word for word in flags if not word.startswith(old)]
        return kept if new is None else [*kept, new.replace("PKI", pki)]

    static_pods(live.kube, change)
    try:
        yield
    finally:
        static_pods(live.kube)


def pod_flags(component: str, old: str, new: str | None = None) -> Fault:
    return lambda live: _pod_flags(live, component, old, new)
