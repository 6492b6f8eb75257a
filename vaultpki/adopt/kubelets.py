"""Says how kubelets get their certificates today, and which of them a take-over would lock out; pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vaultpki import certificates
from vaultpki.adopt.draft import called_at
from vaultpki.adopt.found import ClusterInventory, InUse
from vaultpki.kube.flags import signing_files
from vaultpki.kube.objects import mapping
from vaultpki.model import Cluster
from vaultpki.values import hosts

# Where kubeadm has what a take-over changes, by the kubelet's flag for it.
_CLIENT_CA: Final = ("authentication", "x509", "clientCAFile")


@dataclass(frozen=True, slots=True)
class KubeletSeen:
    """How one kubelet gets its certificates. None stands for what is not known; `source` says what told it.

    `rotates` is whether it asks for client certificates by CSRs, `asks` whether for serving ones. `client` and
    `serving` are its certificates in use.
    """

    node: str
    rotates: bool | None
    asks: bool | None
    client_ca: str | None
    source: str
    client: InUse | None = None
    serving: InUse | None = None


def seen(found: ClusterInventory) -> Iterator[KubeletSeen]:
    """Yield every kubelet that has a Node object."""
    clients = {each.node: each for each in found.certificates if each.row == "kubelet-client"}
    serving = {each.node: each for each in reversed(found.certificates) if each.row == "kubelet"}
    for node in found.whole.nodes:
        configuration, source = _configuration(found, node.name)
        known = bool(configuration)
        yield KubeletSeen(
            node=node.name,
            rotates=_true(configuration, "rotateCertificates") if known else None,
            asks=_true(configuration, "serverTLSBootstrap") if known else None,
            client_ca=_text(configuration, *_CLIENT_CA) if known else None,
            source=source,
            client=clients.get(node.name),
            serving=serving.get(node.name),
        )


def asks_for_serving(found: ClusterInventory, node: str) -> bool:
    """Return whether a kubelet asks for its serving certificate by CSRs."""
    return _true(_configuration(found, node)[0], "serverTLSBootstrap")


def problems(found: ClusterInventory, draft: Cluster | None) -> Iterator[tuple[str, str]]:
    """Yield the node and the rest of a sentence about each kubelet that would be locked out."""
    managers = [pod for pod in found.static if pod.component == "kube-controller-manager"]
    signs = not managers or any(signing_files(pod.flags, "cert") for pod in managers)
    bundle = f"{found.directory}/ca.crt"
    for each in seen(found):
        # What kubeadm gives to those that join says nothing of one that has joined long ago.
        own = each.source != _DEFAULTS
        if each.rotates and not signs:
            yield each.node, "asks for client certificates by CSRs, and no controller manager signs them"
        if own and each.client_ca is not None and posixpath.normpath(each.client_ca or ".") != bundle:
            held = f"trusts clients by {each.client_ca}" if each.client_ca else "trusts no client certificate"
            yield each.node, f"{held}, and kube-apiserver's next certificate is of a CA that comes to {bundle} only"
        if each.client is not None:
            yield from ((each.node, problem) for problem in _client_problems(each.client, each.node, found))
    for machine in found.machines:
        for config in machine.kubeconfigs:
            if config.path.endswith("/kubelet.conf") and config.parts is not None and config.parts.certificate_pem:
                yield machine.node, f"has its client certificate in {config.path} itself, so it never takes another"
    yield from _not_named(found, draft)


def client_cure(name: str) -> str:
    """Return how a kubelet with this user's name gets another client certificate (kubeadm's troubleshooting page)."""
    node = name.removeprefix("system:node:")
    return (
        "make its kubelet.conf anew where ca.key is (`kubeadm kubeconfig user --org system:nodes --client-name "
        f"system:node:{node}`), remove /var/lib/kubelet/pki/kubelet-client-* there, and `systemctl restart kubelet`"
    )


def _client_problems(client: InUse, node: str, found: ClusterInventory) -> Iterator[str]:
    if client.facts.not_after <= found.now:
        yield f"has a client certificate that expired on {client.facts.not_after:%Y-%m-%d}: {client_cure(node)}"
    elif not client.ca:
        yield f"has a client certificate of {client.facts.issuer_text}, which is no CA of the cluster"
    name = client.facts.subject.common_name
    if name != f"system:node:{node}":
        yield f"logs in as {name}"


def _not_named(found: ClusterInventory, draft: Cluster | None) -> Iterator[tuple[str, str]]:
    """Yield kubelets that kube-apiserver would call by what their certificate does not name."""
    if draft is None:
        return
    row = certificates.row_named(draft, "kubelet")
    holders = {node.name: node for node in draft.nodes}
    for node in found.whole.nodes:
        at = called_at(node, found)
        if node.name not in holders:
            continue
        subject = certificates.resolve(row, draft, holders[node.name]).subject
        named = at.lower() in subject.dns or hosts.is_same_address(at, subject.ips)
        if not at:
            yield node.name, "has no address of a type that kube-apiserver calls"
        elif not named:
            yield node.name, f"is called at {at}, which its certificate would not name"


_DEFAULTS: Final = "kubelet-config"


def _configuration(found: ClusterInventory, node: str) -> tuple[Mapping[str, Any], str]:
    """Return the configuration of a kubelet, and what told it: itself, its file, or kubeadm's for those that join."""
    if node in found.whole.live.kubelets:
        return found.whole.live.kubelets[node], "configz"
    for machine in found.machines:
        if machine.node == node and machine.kubelet:
            return machine.kubelet, "its file"
    return found.whole.defaults, _DEFAULTS if found.whole.defaults else ""


def _true(configuration: Mapping[str, Any], name: str) -> bool:
    # A file is read as text.
    return str(configuration.get(name, "")).lower() == "true"


def _text(configuration: Mapping[str, Any], *path: str) -> str:
    found: object = configuration
    for part in path:
        found = mapping(found).get(part)
    return found if isinstance(found, str) else ""
