"""Compares the flags with which a running cluster's components run with the page Components: pure."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from vaultpki.certificates import laid_out, pair_files
from vaultpki.host import component_flags
from vaultpki.layout import DIRECTORY, TRUST_BUNDLES, node_folders
from vaultpki.model import Cluster, NodeRole
from vaultpki.places import PKI, Layout, inner_folders
from vaultpki.redact import printable
from vaultpki.spec.kube_cluster import LiveCluster
from vaultpki.verify.live_checks import found, not_checked
from vaultpki.verify.on_disk import Check

NAME: Final = "flags"

_LONGEST: Final = 400
_OF_ROLE: Final = {
    NodeRole.CONTROL_PLANE: ("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    NodeRole.ETCD: ("etcd",),
}
_ELSEWHERE: Final = "it is no static pod that the API server shows; run `vaultpki doctor` on the node"


def flag_checks(cluster: Cluster, live: LiveCluster, directories: Mapping[str, Mapping[str, str]]) -> Iterator[Check]:
    """Check the static pods and kubelets of a cluster.

    `directories` are the folders of the nodes' files by node, where an agent.yaml says them. Elsewhere they are where
    most flags of the component say.
    """
    seen = set()
    for pod in live.pods:
        seen.add((pod.node, pod.component))
        paths = directories.get(pod.node) or _paths(cluster.layout, pod.arguments)
        whys = [_words(each) for each in component_flags.findings(pod.component, pod.arguments, cluster.layout, paths)]
        yield found(NAME, f"{pod.node}/{pod.component}", "docs/components.md", refusal="; ".join(whys))
    for node in cluster.nodes:
        for role, components in _OF_ROLE.items():
            for component in components if role in node.roles else ():
                if (node.name, component) not in seen:
                    why = live.unread.get("static pods", _ELSEWHERE)
                    yield not_checked(NAME, f"{node.name}/{component}", "docs/components.md", why)
    for name, configuration in live.kubelets.items():
        values = [str(value) for value in _files(configuration).values()]
        paths = directories.get(name) or _paths(cluster.layout, values)
        whys = [_words(each) for each in component_flags.kubelet_findings(configuration, cluster.layout, paths)]
        yield found(NAME, f"{name}/kubelet", "docs/components.md", refusal="; ".join(whys))
    for part, why in live.unread.items():
        name = part.removeprefix("kubelet of ")
        if name != part:
            yield not_checked(NAME, f"{name}/kubelet", "docs/components.md", why)


def _words(finding: component_flags.Finding) -> str:
    return f"{printable(finding.problem[:_LONGEST])}; {finding.remedy}"


def _files(configuration: Mapping[str, Any]) -> dict[str, object]:
    return {key: value for key, value in component_flags.kubelet_files(configuration).items() if value}


def _paths(layout: Layout, words: Sequence[str]) -> dict[str, str]:
    """Return the folders of a node whose agent.yaml is not known: the one in which most of these are."""
    inner = {PKI: "", **({} if layout is Layout.DOCUMENT else inner_folders(""))}
    places = {(each.file, inner[each.folder]) for each in TRUST_BUNDLES[layout] if each.folder in inner}
    for row in laid_out(layout):
        folder = PKI if layout is Layout.DOCUMENT or row.kubeadm is None else row.kubeadm.folder
        places |= {(name, inner[folder]) for name in pair_files(row.stem) if folder in inner}
    names = Counter(name for name, _ in places)
    # A name that more than one folder has says nothing.
    known = {name: below for name, below in places if names[name] == 1}
    votes: Counter[str] = Counter()
    for word in words:
        folder, name = posixpath.split(word.partition("=")[2] or word)
        if name in known and folder.startswith("/") and folder.endswith(known[name]):
            votes[folder.removesuffix(known[name])] += 1
    directory = votes.most_common(1)[0][0] if votes else DIRECTORY
    if layout is Layout.DOCUMENT:
        return {PKI: directory}
    return {PKI: directory, **inner_folders(directory), **node_folders(directory)}
