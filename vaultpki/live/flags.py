"""Compares the flags with which a running cluster's components run with the page Components; pure."""

from __future__ import annotations

import functools
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from vaultpki.certificates import laid_out, pair_files
from vaultpki.csr_roles import token_pool_of
from vaultpki.kube import flags
from vaultpki.kube.cluster import LiveCluster
from vaultpki.kubeadm.configuration import BY_REQUESTS
from vaultpki.layout import DIRECTORY, TRUST_BUNDLES, node_folders
from vaultpki.live.checks import found, not_checked
from vaultpki.model import Cluster, NodeRole
from vaultpki.places import PKI, Layout, inner_folders
from vaultpki.redact import printable
from vaultpki.verify.on_disk import Check

FLAGS_CHECK: Final = "flags"

_LONGEST: Final = 400
# Controllers by their names, and those of before 1.28, which work too (cmd/kube-controller-manager/names).
_NEEDED: Final = {
    "certificatesigningrequest-approving-controller": "csrapproving",
    "certificatesigningrequest-cleaner-controller": "csrcleaner",
}
_OF_ROLE: Final = {
    NodeRole.CONTROL_PLANE: ("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    NodeRole.ETCD: ("etcd",),
}
_IN_A_FILE: Final = "the API server does not show it; run `vaultpki doctor` on the node"
_ELSEWHERE: Final = "it is not a static pod that the API server shows; run `vaultpki doctor` on the node"


def flag_checks(cluster: Cluster, live: LiveCluster, directories: Mapping[str, Mapping[str, str]]) -> Iterator[Check]:
    """Check the static pods and kubelets of a cluster.

    `directories` are the folders of the nodes' files by node, where an agent.yaml says them. Elsewhere they are where
    most flags of the component say; those of a kubelet of kubeadm do not tell, and then the whole cluster's do.
    """
    seen = set()
    kubelets = {
        name: [str(value) for value in flags.kubelet_files(configuration).values() if value]
        for name, configuration in live.kubelets.items()
    }
    everywhere = [word for pod in live.pods for word in pod.arguments]
    everywhere += [word for words in kubelets.values() for word in words]
    usual = _directory(cluster.layout, everywhere) or DIRECTORY

    def paths(node: str, words: Iterable[str]) -> Mapping[str, str]:
        return directories.get(node) or _paths(cluster.layout, _directory(cluster.layout, words) or usual)

    for pod in live.pods:
        seen.add((pod.node, pod.component))
        folders = paths(pod.node, pod.arguments)
        own = cluster.service_account_keys
        findings = flags.findings(pod.component, pod.arguments, cluster.layout, folders, token_keys=own)
        wrong = [*map(_words, findings), *(_controllers(pod.arguments) if _approves(cluster, pod.component) else ())]
        yield found(FLAGS_CHECK, f"{pod.node}/{pod.component}", "docs/components.md", refusal="; ".join(wrong))
        if pod.component == "kube-apiserver" and flags.flags_of(pod.arguments).get(flags.AUTHORIZATION_FILE):
            where = f"the file of its --{flags.AUTHORIZATION_FILE}"
            yield not_checked(FLAGS_CHECK, f"{pod.node}/{pod.component}", where, _IN_A_FILE)
    for node in cluster.nodes:
        for role, components in _OF_ROLE.items():
            for component in components if role in node.roles else ():
                if (node.name, component) not in seen:
                    why = live.unread.get("static pods", _ELSEWHERE)
                    yield not_checked(FLAGS_CHECK, f"{node.name}/{component}", "docs/components.md", why)
    for name, configuration in live.kubelets.items():
        if token_pool_of(name, cluster.token_pools) is not None:
            missing = [key for key, value in BY_REQUESTS.items() if configuration.get(key) is not value]
            refusal = f"{' and '.join(missing)} must be true, or its certificates expire; set it in kubelet-config"
            yield found(FLAGS_CHECK, f"{name}/kubelet", "docs/signer.md", refusal=refusal if missing else "")
            continue
        folders = paths(name, kubelets[name])
        findings = flags.kubelet_findings(configuration, cluster.layout, folders)
        yield found(FLAGS_CHECK, f"{name}/kubelet", "docs/components.md", refusal="; ".join(map(_words, findings)))
    for part, why in live.unread.items():
        name = part.removeprefix("kubelet of ")
        if name != part:
            yield not_checked(FLAGS_CHECK, f"{name}/kubelet", "docs/components.md", why)


def _approves(cluster: Cluster, component: str) -> bool:
    return cluster.signer is not None and component == "kube-controller-manager"


def _controllers(arguments: tuple[str, ...]) -> Iterator[str]:
    """Yield a sentence for each controller that a signer needs and that is off."""
    value = {*flags.flags_of(arguments).get("controllers", "*").split(",")}
    for name, old in _NEEDED.items():
        if {f"-{name}", f"-{old}"} & value or not {"*", name, old} & value:
            yield f"--controllers switches {old} off, which the signer needs; take that out of the flag"


def _words(finding: flags.FlagProblem) -> str:
    return f"{printable(finding.problem[:_LONGEST])}; {finding.remedy}"


def _paths(layout: Layout, directory: str) -> dict[str, str]:
    if layout is Layout.DOCUMENT:
        return {PKI: directory}
    return {PKI: directory, **inner_folders(directory), **node_folders(directory)}


@functools.cache
def _known(layout: Layout) -> Mapping[str, str]:
    """Return the files by which a directory is known: the folder below it, by name."""
    inner = {PKI: "", **({} if layout is Layout.DOCUMENT else inner_folders(""))}
    places = {(each.file, inner[each.folder]) for each in TRUST_BUNDLES[layout] if each.folder in inner}
    for row in laid_out(layout):
        folder = PKI if layout is Layout.DOCUMENT or row.kubeadm is None else row.kubeadm.folder
        places |= {(name, inner[folder]) for name in pair_files(row.stem) if folder in inner}
    names = Counter(name for name, _ in places)
    # A name that more than one folder has says nothing.
    return {name: below for name, below in places if names[name] == 1}


def _directory(layout: Layout, words: Iterable[str]) -> str | None:
    """Return the directory of a node's files in which most of these flags' values are; None where none tells."""
    known = _known(layout)
    votes: Counter[str] = Counter()
    for word in words:
        folder, name = posixpath.split(word.partition("=")[2] or word)
        if name in known and folder.startswith("/") and folder.endswith(known[name]):
            votes[folder.removesuffix(known[name])] += 1
    return votes.most_common(1)[0][0] if votes else None
