"""Control planes with service-account keys of their own: started one after the other, as each is admitted."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from helpers.kube.components import ServiceAccountKeys
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.servers import wait_for
from vaultpki.records import service_account
from vaultpki.records.service_account import KEYS_RECORD, KeyRecord

if TYPE_CHECKING:
    from helpers.kube.kube_cluster import KubeNode, Kubernetes

ADMITTED_SECONDS = 300.0
API_SERVER = "kube-apiserver"


def of(node: KubeNode) -> ServiceAccountKeys:
    """The files of a node, where its agent makes them."""
    return ServiceAccountKeys(node.pki / "sa.key", node.pki / "sa.pub")


def record(kubernetes: Kubernetes) -> KeyRecord | None:
    """What the server has; None before the first key was taken in."""
    cluster = kubernetes.cluster
    answer = cluster.server.api("GET", f"{cluster.prefix}/config/data/{KEYS_RECORD}")
    return service_account.read(answer.data["data"], where=KEYS_RECORD) if answer.status == 200 else None


def admitted(kubernetes: Kubernetes) -> set[str]:
    found = record(kubernetes)
    return {name for name, each in found.nodes.items() if each.admitted} if found is not None else set()


def start(kubernetes: Kubernetes, node: KubeNode, begin: Callable[[], object], running: list[KubeNode]) -> None:
    """Have a node admitted, and begin its API server; those that run are restarted for its key."""
    unions = {each.name: of(each).public.read_bytes() for each in running}

    def is_admitted() -> bool:
        if node.name in admitted(kubernetes):
            return True
        step(kubernetes)
        for each in (*running, node):
            _pass(kubernetes, each)
        for each in running:
            if (union := of(each).public.read_bytes()) != unions[each.name]:
                kubernetes.restart(API_SERVER, each.name)
                ready = functools.partial(kubernetes.ready, at=each)
                wait_for(ready, ADMITTED_SECONDS, lambda: "an API server is not ready", pause=0.3)
                unions[each.name] = union
                _pass(kubernetes, each)
        return node.name in admitted(kubernetes)

    wait_for(is_admitted, ADMITTED_SECONDS, lambda: f"{node.name} is not admitted: {said(kubernetes)}", pause=2)
    _pass(kubernetes, node)
    begin()
    ready = functools.partial(kubernetes.ready, at=node)
    wait_for(ready, ADMITTED_SECONDS, lambda: f"the API server of {node.name} is not ready", pause=0.3)
    _pass(kubernetes, node)


def _pass(kubernetes: Kubernetes, node: KubeNode) -> None:
    """One pass of a node's agent, and another one where the server had no time for an answer."""
    said = [""]

    def done() -> bool:
        try:
            kubernetes.agent(node.name)
        except AssertionError as error:
            said[0] = str(error)
            assert "in time" in said[0], said[0]
            return False
        return True

    wait_for(done, ADMITTED_SECONDS, lambda: said[0], pause=2)


def step(kubernetes: Kubernetes) -> None:
    cluster = kubernetes.cluster
    vaultpki("ca", "continue", "-f", cluster.file, env=cluster.environment(), expect={0, 3})


def said(kubernetes: Kubernetes) -> str:
    cluster = kubernetes.cluster
    shown = vaultpki("ca", "status", "--json", "-f", cluster.file, env=cluster.environment("viewer"), expect={0, 3})
    return json.dumps(json.loads(shown.stdout), indent=1)
