"""Defines the values that say where a file lies: layouts, folders and places; without input and output."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

AGENT_FILE: Final = "/etc/vaultpki/agent.yaml"
"""Where a node's agent.yaml is, unless -c says otherwise."""

SIGNER_STATE: Final = "/var/lib/vaultpki-signer"
SIGNER_FILE: Final = "signer.yaml"
"""The folder of a signer's own files, and its configuration there, unless its node's agent.yaml lies elsewhere."""

CLUSTER_FILE: Final = "cluster.yaml"
"""Where an operator's cluster.yaml is, unless -f says otherwise."""

PKI, ETCD, SCHEDULER, KUBELET, KUBECONFIGS = "pki", "etcd", "scheduler", "kubelet", "kubeconfigs"
"""The folders of a node's files, by name. The layout document has PKI only."""


HIDDEN_FOLDER: Final = ".vaultpki"
"""The folder in each folder of certificates that holds their generations."""

TAKEOVER_FOLDER: Final = "vaultpki"
"""The folder beside a folder that is exchanged in a take-over: it holds those that are not in place."""


class Layout(enum.Enum):
    """The names and folders of a node's files, as written in cluster.yaml."""

    DOCUMENT = "document"
    KUBEADM = "kubeadm"

    @property
    def version(self) -> int:
        """The version of records and join files for this layout."""
        # A vaultpki that knows no layouts accepts version 1 only.
        return 1 if self is Layout.DOCUMENT else 2


class KubeconfigFile(enum.Enum):
    """How the file of a kubeconfig is written.

    LINKED belongs to the file set with the bundles. PLAIN is a plain file, replaced in one step. FIXED is a plain file
    that a container mounts as a single file: a replaced one would never reach the container, so it is written once.
    """

    LINKED = "linked"
    PLAIN = "plain"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class KubeadmPlace:
    """Where kubeadm's layout has a pair: the folder, and the file name without `.crt`."""

    folder: str
    stem: str
    kubeconfig: KubeconfigFile = KubeconfigFile.LINKED


def file_option(file: str) -> str:
    """Return ` -f FILE` for a command that operators run, and nothing for the default; `file` may be empty for that."""
    return "" if file in ("", CLUSTER_FILE) else f" -f {file}"


def inner_folders(directory: str) -> dict[str, str]:
    """Return the paths of the folders that kubeadm's layout has in the folder PKI, by name."""
    return {name: f"{directory}/{name}" for name in (ETCD, SCHEDULER)}


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is a folder, or in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
