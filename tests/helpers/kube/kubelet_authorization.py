"""What a kubelet's own pair must not get from kube-apiserver: anything of another node, or more of its own than it may.

Two authorities say no: the Node authorizer, where there is no way from the node to the thing (the authorizer "Node" of
kubernetes plugin/pkg/auth/authorizer/node), and NodeRestriction, where the node may do such things to itself only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.kube import access_matrix, containerd
from helpers.kube.access_matrix import Heard
from helpers.kube.kube_cluster import Kubernetes
from vaultpki.certificates import pair_files

MINE, THEIRS = "mine", "theirs"
PATCHING = {"Content-Type": "application/strategic-merge-patch+json"}


@dataclass(frozen=True, slots=True)
class TwoNodes:
    """A node, another one, and on each a pod with a secret, a configuration and an account of its own.

    `uids` are those of nodes and pods, by name.
    """

    own: str
    other: str
    uids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request, and with which words kube-apiserver must refuse it.

    `formerly` are words with which versions of Kubernetes that still count refuse it instead.
    """

    name: str
    method: str
    path: str
    reason: str
    content: object = None
    headers: Mapping[str, str] | None = None
    status: int = 403
    formerly: tuple[str, ...] = ()


def ask(kubernetes: Kubernetes, pki: Path, stem: str, attempt: Attempt) -> Heard:
    """The attempt with a pair of a node, from outside."""
    crt, key, _ = pair_files(stem)
    pair = (pki / crt, pki / key)
    return access_matrix.ask(
        kubernetes.outside, pair, kubernetes.api, attempt.method, attempt.path, attempt.content, attempt.headers
    )


def get_through(kubernetes: Kubernetes, pki: Path, two_nodes: TwoNodes) -> dict[str, str]:
    """The attempts of a kubelet that are not refused as they should be, and what is said to them."""
    return {
        attempt.name: f"{heard.status} {heard.message}, not {attempt.reason}"
        for attempt in of_a_kubelet(two_nodes)
        if not refused(attempt, heard := ask(kubernetes, pki, "kubelet-client", attempt))
    }


def refused(attempt: Attempt, heard: Heard) -> bool:
    reasons = (attempt.reason, *attempt.formerly)
    return heard.status == attempt.status and any(reason in heard.message for reason in reasons)


def of_its_own(two_nodes: TwoNodes) -> list[Attempt]:
    """What a kubelet does every day, without which no refusal proves anything."""
    core = "/api/v1/namespaces/default"
    return [
        Attempt("its own pod's secret", "GET", f"{core}/secrets/{MINE}", "", status=200),
        Attempt("its own pod's configuration", "GET", f"{core}/configmaps/{MINE}", "", status=200),
        Attempt("its own node", "GET", f"/api/v1/nodes/{two_nodes.own}", "", status=200),
        Attempt("its own pods", "GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{two_nodes.own}", "", status=200),
        _patch("label its own node", f"/api/v1/nodes/{two_nodes.own}", "", {"metadata": {"labels": {"a": "b"}}}, 200),
        Attempt(
            "its own pod's token",
            "POST",
            f"{core}/serviceaccounts/{MINE}/token",
            "",
            _token_request(two_nodes, MINE),
            status=201,
        ),
    ]


def kept_from(kubernetes: Kubernetes, pki: Path, own: Sequence[Attempt]) -> dict[str, str]:
    """What of its own a kubelet does not get."""
    return {
        attempt.name: heard.message
        for attempt in own
        if not refused(attempt, heard := ask(kubernetes, pki, "kubelet-client", attempt))
    }


def of_a_kubelet(two_nodes: TwoNodes) -> list[Attempt]:
    """All attempts, for a kubelet of `two_nodes.own`."""
    return [
        *_reading(two_nodes),
        *_nodes(two_nodes),
        *_pods(two_nodes),
        *_tokens(two_nodes),
        *_certificates(two_nodes),
        *_escalating(two_nodes),
    ]


def _reading(two_nodes: TwoNodes) -> Iterator[Attempt]:
    own, other = two_nodes.own, two_nodes.other
    core = "/api/v1/namespaces/default"
    unrelated = f"no relationship found between node '{own}' and this object"
    yield Attempt("read all secrets", "GET", "/api/v1/secrets", "can only read namespaced object of this type")
    yield Attempt("list a namespace's secrets", "GET", f"{core}/secrets", 'cannot list resource "secrets"')
    yield Attempt("read a secret of another's pod", "GET", f"{core}/secrets/{THEIRS}", unrelated)
    yield Attempt("change a secret of its own pod", "PUT", f"{core}/secrets/{MINE}", "can only read", _named(MINE))
    yield Attempt("read a configuration of another's pod", "GET", f"{core}/configmaps/{THEIRS}", unrelated)
    yield Attempt("read an account of another's pod", "GET", f"{core}/serviceaccounts/{THEIRS}", unrelated)
    yield Attempt("list all pods", "GET", "/api/v1/pods", "can only list/watch pods with spec.nodeName field selector")
    yield Attempt("list another's pods", "GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{other}", "can only list")
    yield Attempt("read another node's object", "GET", f"/api/v1/nodes/{other}", f"cannot read '{other}'")
    yield Attempt("list all nodes", "GET", "/api/v1/nodes", "only its own Node object")


def _nodes(two_nodes: TwoNodes) -> Iterator[Attempt]:
    own, other = two_nodes.own, two_nodes.other
    path = "/api/v1/nodes"
    not_other = f'node "{own}" is not allowed to modify node "{other}"'
    yield _patch("label another node", f"{path}/{other}", not_other, {"metadata": {"labels": {"a": "b"}}})
    ready = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    yield _patch("say another node's status", f"{path}/{other}/status", not_other, ready)
    moved = {"status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.31"}]}}
    yield _patch("give another node its own address", f"{path}/{other}/status", not_other, moved)
    drained = {"spec": {"unschedulable": True}}
    yield _patch("keep pods from another node", f"{path}/{other}", not_other, drained)
    yield Attempt("register another node", "POST", path, "is not allowed to modify node", _node("rogue"))
    yield Attempt("delete another node", "DELETE", f"{path}/{other}", 'cannot delete resource "nodes"')
    yield Attempt("delete its own node", "DELETE", f"{path}/{own}", 'cannot delete resource "nodes"')
    for label in (
        "node-role.kubernetes.io/control-plane",
        "node-restriction.kubernetes.io/trusted",
        "kubernetes.io/of-its-own",
    ):
        labels = {"metadata": {"labels": {label: "true"}}}
        yield _patch(f"label itself {label}", f"{path}/{own}", "is not allowed to modify labels", labels)
    taints = {"spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]}}
    yield _patch("taint itself", f"{path}/{own}", "is not allowed to modify taints", taints)
    lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{other}"
    renewed = {"spec": {"holderIdentity": own}}
    yield _patch("hold another node's lease", lease, "can only access node lease with the same name", renewed)
    driver = {"spec": {"drivers": [{"name": "mine.invalid", "nodeID": "x"}]}}
    storage = f"/apis/storage.k8s.io/v1/csinodes/{other}"
    yield _patch("offer storage as another node", storage, "can only access CSINode with the same name", driver)


def _pods(two_nodes: TwoNodes) -> Iterator[Attempt]:
    own, other = two_nodes.own, two_nodes.other
    path = "/api/v1/namespaces/default/pods"
    itself = "with spec.nodeName set to itself"
    made = "can only create pods with spec.nodeName set to itself"
    yield Attempt("make a pod on another node", "POST", path, made, pod("rogue", other, mirror=True))
    yield Attempt("make a pod on its own node", "POST", path, "can only create mirror pods", pod("rogue", own))
    referring: dict[str, dict[str, Any]] = {
        "secret": {"volumes": [{"name": "v", "secret": {"secretName": THEIRS}}]},
        "configmap": {"volumes": [{"name": "v", "configMap": {"name": THEIRS}}]},
        "persistentvolumeclaim": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": THEIRS}}]},
        "service account": {"serviceAccountName": THEIRS},
    }
    owner = {"apiVersion": "v1", "kind": "Node", "name": own, "uid": two_nodes.uids.get(own, ""), "controller": True}
    for kind, spec in referring.items():
        mirror = pod("rogue", own, mirror=True, **spec)
        mirror["metadata"]["ownerReferences"] = [owner]
        # ServiceAccount, which is asked first, has words of its own.
        words = "may not reference" if kind in ("secret", "service account") else "can not create pods that reference"
        yield Attempt(f"mirror a pod with a {kind}", "POST", path, f"{words} {kind}s", mirror)
    target = {"apiVersion": "v1", "kind": "Binding", **_named(THEIRS), "target": {"kind": "Node", "name": own}}
    yield Attempt("bind a pod to itself", "POST", f"{path}/{THEIRS}/binding", 'create resource "pods/binding"', target)
    yield Attempt("delete another's pod", "DELETE", f"{path}/{THEIRS}", f"can only delete pods {itself}")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", **_named(THEIRS)}
    yield Attempt("evict another's pod", "POST", f"{path}/{THEIRS}/eviction", f"can only evict pods {itself}", eviction)
    failed = {"status": {"phase": "Failed"}}
    yield _patch(
        "say another's pod failed", f"{path}/{THEIRS}/status", f"can only update pod status for pods {itself}", failed
    )
    for what in ("exec?command=id", "attach?stdin=true", "portforward?ports=1"):
        kind = what.partition("?")[0]
        yield Attempt(f"{kind} in another's pod", "GET", f"{path}/{THEIRS}/{what}", f'resource "pods/{kind}"')
    yield Attempt("read another's log", "GET", f"{path}/{THEIRS}/log", 'cannot get resource "pods/log"')


def _tokens(two_nodes: TwoNodes) -> Iterator[Attempt]:
    path = "/api/v1/namespaces/default/serviceaccounts"

    unrelated = f"no relationship found between node '{two_nodes.own}' and this object"
    yield Attempt(
        "a token of another's pod", "POST", f"{path}/{THEIRS}/token", unrelated, _token_request(two_nodes, THEIRS)
    )
    yield Attempt(
        "a token of no pod", "POST", f"{path}/{MINE}/token", "token not bound to a pod", _token_request(two_nodes, None)
    )
    elsewhere = "bound to a pod scheduled on a different node"
    yield Attempt(
        "a token bound to another's pod", "POST", f"{path}/{MINE}/token", elsewhere, _token_request(two_nodes, THEIRS)
    )
    yield Attempt(
        "a token for another audience",
        "POST",
        f"{path}/{MINE}/token",
        'is not authorized to request tokens for audience "vault"',
        _token_request(two_nodes, MINE, audiences=["vault"]),
        # Until 1.36 (kubernetes plugin/pkg/admission/noderestriction).
        formerly=('audience "vault" not found in pod spec volume',),
    )
    system = "/api/v1/namespaces/kube-system/serviceaccounts/clusterrole-aggregation-controller/token"
    yield Attempt("a token of a controller", "POST", system, unrelated, _token_request(two_nodes, None))


def _certificates(two_nodes: TwoNodes) -> Iterator[Attempt]:
    """Certificates of pods, for which kubelets ask since Kubernetes 1.37; before, nobody is served them by default."""
    own, other = two_nodes.own, two_nodes.other
    path = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests"
    before = ('cannot create resource "podcertificaterequests"',)
    for name, node, pod, account, reason in (
        ("for another node", other, THEIRS, THEIRS, f'which is not the requesting node "{own}"'),
        ("of another's pod", own, THEIRS, THEIRS, f'is not running on node "{own}"'),
        ("of another account's", own, MINE, THEIRS, f'contains serviceAccountName ("{THEIRS}") that differs'),
    ):
        spec = {"signerName": "mine.invalid/pods", "serviceAccountName": account, "nodeName": node, "podName": pod}
        uids = {"nodeUID": two_nodes.uids.get(node, ""), "podUID": two_nodes.uids.get(pod, "")}
        body = {**_named("rogue"), "spec": spec | uids}
        yield Attempt(f"a pod's certificate {name}", "POST", path, reason, body, formerly=before)
    listing = 'cannot list resource "podcertificaterequests"'
    yield Attempt("list what pods ask for", "GET", path, listing)
    yield Attempt("list what all pods ask for", "GET", path.replace("namespaces/default/", ""), listing)
    signing = 'cannot patch resource "podcertificaterequests/status"'
    signed = {"status": {"certificateChain": "x"}}
    yield _patch("sign a pod's certificate", f"{path}/rogue/status", signing, signed)


def _escalating(two_nodes: TwoNodes) -> Iterator[Attempt]:
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        **_named("rogue"),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": f"system:node:{two_nodes.own}"}],
    }
    yield Attempt(
        "bind itself to cluster-admin", "POST", roles, 'cannot create resource "clusterrolebindings"', binding
    )
    requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    approval = {"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "mine"}]}}
    approving = 'cannot patch resource "certificatesigningrequests/approval"'
    yield _patch("approve a certificate request", f"{requests}/rogue/approval", approving, approval)
    signing = 'cannot patch resource "certificatesigningrequests/status"'
    yield _patch("sign a certificate request", f"{requests}/rogue/status", signing, {"status": {"certificate": "eA=="}})
    for name, groups in {"kubernetes-super-admin": ["system:masters"], f"system:node:{two_nodes.other}": []}.items():
        headers = {"Impersonate-User": name} | ({"Impersonate-Group": groups[0]} if groups else {})
        yield Attempt(f"act as {name}", "GET", "/api/v1/secrets", "cannot impersonate", headers=headers)
    proxy = f"/api/v1/nodes/{two_nodes.other}/proxy/pods"
    yield Attempt("reach another kubelet by kube-apiserver", "GET", proxy, 'cannot get resource "nodes/proxy"')
    hook = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    yield Attempt("see every object made", "POST", hook, "cannot create resource", _named("rogue"))
    yield Attempt("read metrics", "GET", "/metrics", 'cannot get path "/metrics"')


def _patch(name: str, path: str, reason: str, content: object, status: int = 403) -> Attempt:
    return Attempt(name, "PATCH", path, reason, content, PATCHING, status)


def _token_request(two_nodes: TwoNodes, pod: str | None, **spec: Any) -> dict[str, Any]:
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": two_nodes.uids.get(pod or "", "")}
    body = {"audiences": [], "boundObjectRef": bound if pod else None, **spec}
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": body}


def _named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def _node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", **_named(name)}


def pod(name: str, node: str, *, mirror: bool = False, **spec: Any) -> dict[str, Any]:
    """A pod that lives until it is deleted."""
    notes = {"annotations": {"kubernetes.io/config.mirror": "x"}} if mirror else {}
    container = {
        "name": "only",
        "image": containerd.IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sleep", "100000"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", **notes},
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            **spec,
        },
    }


@contextlib.contextmanager
def two_nodes(kubernetes: Kubernetes, own: str, other: str) -> Iterator[TwoNodes]:
    """On each of two nodes a pod with a secret, a configuration and an account of its own; taken away at the end.

    Where the cluster has no such other node it is one in name only.
    """
    bare = other not in kubernetes.nodes
    made = [_node(other)] if bare else []
    for name, node in ((MINE, own), (THEIRS, other)):
        kinds = ("ServiceAccount", "Secret", "ConfigMap")
        made += [{"apiVersion": "v1", "kind": kind, **_named(name)} for kind in kinds]
        volumes = [
            {"name": "secret", "secret": {"secretName": name}},
            {"name": "configuration", "configMap": {"name": name}},
        ]
        made.append(pod(name, node, volumes=volumes, serviceAccountName=name))
    kubernetes.apply(*made)
    try:
        found = kubernetes.get("pods,nodes", "-n", "default")["items"]
        uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}
        yield TwoNodes(own, other, uids)
    finally:
        away = ("delete", "--force", "--grace-period=0", "--ignore-not-found")
        names = [
            f"{kind}/{name}" for name in (MINE, THEIRS) for kind in ("pod", "secret", "configmap", "serviceaccount")
        ]
        kubernetes.kubectl(kubernetes.admin, *away, *names, *([f"node/{other}"] if bare else []))
