"""ClusterTrustBundles of a test, and users who may read no more than a page of the documentation says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from helpers import pages
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.live_faults import GROUP, LiveCluster
from helpers.vault.servers import wait_for


def serves_trust_bundles(kube: Kubernetes) -> bool:
    """Whether the API server has ClusterTrustBundles in the version in which these tests write them."""
    kinds = json.loads(kube.kubectl(kube.admin, "get", "--raw", "/apis/certificates.k8s.io/v1").stdout)["resources"]
    return any(kind["name"] == "clustertrustbundles" for kind in kinds)


def trust_bundle(pem: Callable[[LiveCluster], str]) -> Callable[[LiveCluster], dict[str, Any]]:
    return lambda live: trust_bundle_of(pem(live))


def trust_bundle_of(pem: str) -> dict[str, Any]:
    """A ClusterTrustBundle of a user, without a signer."""
    about = {"name": GROUP}
    spec = {"trustBundle": pem}
    return {"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": about, "spec": spec}


@contextlib.contextmanager
def reader(kube: Kubernetes, page: str, *, without: str = "") -> Iterator[Path]:
    """The kubeconfig of a user who has the role of a page and no more; without the rule that has this resource."""
    (role,) = (
        found
        for block in pages.blocks(pages.text(page))
        if block.language == "yaml" and (found := yaml.safe_load(block.text)).get("kind") == "ClusterRole"
    )
    role["rules"] = [rule for rule in role["rules"] if without not in rule.get("resources", ())]
    name = role["metadata"]["name"]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        # A user of the cluster who has a kubeconfig and may else read nothing of this.
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}],
    }
    conf = kube.worker.pki / "kube-proxy.conf"
    kube.apply(role, binding)
    try:
        may = ("auth", "can-i", "list", "configmaps", "-A")
        wait_for(lambda: kube.kubectl(conf, *may, expect=None).returncode == 0, 30, lambda: "the role is not used")
        yield conf
    finally:
        kube.kubectl(kube.admin, "delete", "clusterrolebinding,clusterrole", name)
