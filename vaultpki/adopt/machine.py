"""Reads the disk of a machine of a kubeadm cluster: manifests, certificates, kubeconfigs; no key is kept, none written.

`root` may be where a machine's disk is mounted, so links are followed inside it.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vaultpki.adopt.found import ROWS, Machine, MachineKubeconfig
from vaultpki.host.static_pod import MANIFEST_FOLDER
from vaultpki.kube import details, kubeconfig
from vaultpki.kube.details import StaticPod
from vaultpki.kube.flags import COMPONENTS
from vaultpki.kube.kubelet_flags import flag_files
from vaultpki.kube.pod_files import named_files, named_in
from vaultpki.layout import CA_KEYS, DIRECTORY, OLD_CA_FILES
from vaultpki.live.trust import readable_certificates
from vaultpki.model import TakenOver
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.places import KUBECONFIGS, KUBELET, PKI, inner_folders
from vaultpki.takeover import unfit
from vaultpki.values import input_file, yaml_tree

KUBERNETES: Final = "/etc/kubernetes"
_KUBELET: Final = "/var/lib/kubelet"
_FLAGS_FILE: Final = f"{_KUBELET}/kubeadm-flags.env"

_NOT_ALLOWED: Final = "this user may not read it; run as root"
_LARGEST: Final = 1024 * 1024
_MOST_LINKS: Final = 40
_MOST_FILES: Final = 200

# The kubelet's own names for its pairs (client-go util/certificate/certificate_store.go).
_KUBELETS_OWN: Final = {"kubelet-client": "kubelet-client-current.pem", "kubelet": "kubelet-server-current.pem"}
_SELF_SIGNED: Final = "kubelet.crt"
# The flags of kube-apiserver that name the same files.
_CA_FLAGS: Final = {
    "kubernetes": "client-ca-file",
    "front-proxy": "requestheader-client-ca-file",
    "etcd": "etcd-cafile",
}
_NODE_USER: Final = "system:node:"


def there(root: str = "/") -> bool:
    """Return whether this is the root folder of a machine of a kubeadm cluster."""
    return os.path.isdir(f"{root.rstrip('/')}{KUBERNETES}") and (
        os.path.isdir(f"{root.rstrip('/')}{MANIFEST_FOLDER}")
        or os.path.exists(f"{root.rstrip('/')}{KUBERNETES}/kubelet.conf")
    )


def read(root: str, directory: str = "") -> Machine:
    """Return what the disk below `root` holds.

    `directory` is the folder of the certificates as the cluster says it; the machine's manifest of kube-apiserver comes
    first, and kubeadm's default last. What cannot be read is missing, with a reason.
    """
    disk = _Disk(root)
    kubelet = yaml_tree.plain_mapping(disk.text(f"{_KUBELET}/config.yaml") or "", "config.yaml")
    manifests = tuple(_manifests(disk, str(kubelet.get("staticPodPath") or MANIFEST_FOLDER)))
    static = tuple(each for _, pod in manifests for each in details.components_of(pod, COMPONENTS))
    flags = next((pod.flags for pod in static if pod.component == "kube-apiserver"), {})
    folder = posixpath.dirname(flags.get("client-ca-file", "")) or directory or DIRECTORY
    kubeconfigs = tuple(_kubeconfigs(disk))
    table = tuple(_leaves(disk, folder, kubeconfigs))
    flags_of_kubelet = {_FLAGS_FILE: disk.text(_FLAGS_FILE) or "", **flag_files(disk.names, disk.text)}
    leaves = (*table, *_beside(disk, manifests, flags_of_kubelet, {path for _, path, _ in table}))
    return Machine(
        root=root,
        node=_node(leaves, static),
        directory=folder,
        leaves=leaves,
        cas={ca: found for ca, path in _ca_paths(folder, flags) if (found := disk.certificates(path))},
        ca_keys=tuple(path for path in _key_paths(folder) if disk.exists(path)),
        kubeconfigs=kubeconfigs,
        static=static,
        kubelet=kubelet,
        unread=dict(disk.unread),
        unfit=_unfit(disk, folder),
        keys_named=frozenset(path for _, pod in manifests for _, path in named_files(pod) if path.endswith(".key")),
    )


def _unfit(disk: _Disk, folder: str) -> tuple[str, ...]:
    """Return what a join would refuse there; nothing of a machine that has joined, or that this user may not read."""
    # A flag that names another folder is what is looked for.
    where = TakenOver(
        False, DIRECTORY if disk.is_file(f"{DIRECTORY}/ca.crt") else folder, f"{_KUBELET}/pki", KUBERNETES
    )
    joined = disk.exists(where.aside) or disk.exists(where.kubelet_aside)
    if joined or _NOT_ALLOWED in disk.unread.values():
        return ()
    return unfit.on_disk(where, None, disk.place)


def _node(leaves: tuple[tuple[str, str, Facts], ...], static: tuple[StaticPod, ...]) -> str:
    """Return the name of the node: its kubelet's certificate has it, else the manifest of etcd."""
    for row, _, facts in leaves:
        name = facts.subject.common_name
        if row == "kubelet-client" and name.startswith(_NODE_USER):
            return name.removeprefix(_NODE_USER)
    return next((pod.flags.get("name", "") for pod in static if pod.component == "etcd"), "")


def _ca_paths(folder: str, flags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    folders = {PKI: folder, **inner_folders(folder)}
    for ca, each in OLD_CA_FILES.items():
        yield ca, flags.get(_CA_FLAGS[ca]) or f"{folders[each.folder]}/{each.crt}"


def _key_paths(folder: str) -> Iterator[str]:
    folders = {PKI: folder, **inner_folders(folder)}
    yield from (f"{folders[where]}/{name}" for where, name in CA_KEYS)


def _leaves(disk: _Disk, folder: str, kubeconfigs: tuple[MachineKubeconfig, ...]) -> Iterator[tuple[str, str, Facts]]:
    """Yield the certificates of the table that lie there, with their row and path."""
    folders = {PKI: folder, **inner_folders(folder), KUBELET: f"{_KUBELET}/pki", KUBECONFIGS: KUBERNETES}
    for row in ROWS.values():
        paths = []
        if row.name in _KUBELETS_OWN:
            paths.append(f"{folders[KUBELET]}/{_KUBELETS_OWN[row.name]}")
        elif row.kubeadm is not None and row.kubeconfig is None:
            paths.append(f"{folders[row.kubeadm.folder]}/{row.kubeadm.stem}.crt")
        if row.name == "kubelet" and not disk.exists(paths[0]):
            paths = [f"{folders[KUBELET]}/{_SELF_SIGNED}"]
        for path in paths:
            for facts in disk.certificates(path)[:1]:
                yield row.name, path, facts
    for config in kubeconfigs:
        named = next((row.name for row in ROWS.values() if config.path == f"{KUBERNETES}/{row.kubeconfig}"), "")
        if named and config.parts is not None and config.parts.certificate_pem:
            for facts in x509.readable(config.parts.certificate_pem)[:1]:
                yield named, config.path, facts


def _beside(
    disk: _Disk, manifests: tuple[tuple[str, Mapping[str, Any]], ...], environments: Mapping[str, str], known: set[str]
) -> Iterator[tuple[str, str, Facts]]:
    """Yield the certificates beside the table that flags of static pods and of the kubelet name: flag, path, facts."""
    named = [(f"--{flag} of {name}", path) for name, pod in manifests for flag, path in named_files(pod)]
    named += [(f"--{flag} of {file}", path) for file, text in environments.items() for flag, path in named_in(text)]
    for who, path in named:
        if path in known or not disk.is_file(path):
            continue
        known.add(path)
        text = disk.text(path) or ""
        config = kubeconfig.parts(text) if path.endswith(".conf") else None
        # Most flags name other files.
        found = x509.readable(config.certificate_pem) if config is not None else tuple(readable_certificates(text))
        yield from ((who, path, facts) for facts in found[:1] if not facts.is_ca)


def _manifests(disk: _Disk, folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each manifest and what it says."""
    for name in disk.names(folder):
        if name.endswith((".yaml", ".yml", ".json")) and not name.startswith("."):
            text = disk.text(f"{folder}/{name}")
            pod = yaml_tree.plain_mapping(text or "", name)
            if text and not pod:
                disk.unread[f"{folder}/{name}"] = "it is not YAML of one pod, or has anchors or tags"
            yield name, pod


def _kubeconfigs(disk: _Disk) -> Iterator[MachineKubeconfig]:
    """Yield the kubeconfigs of kubeadm's folder, and those in home folders."""
    for path in kubeconfig.places(KUBERNETES, disk.names):
        if disk.exists(path):
            text = disk.text(path)
            parts = kubeconfig.parts(text) if text else None
            if text is not None and parts is None:
                disk.unread[path] = "it is not a kubeconfig that can be read"
            yield MachineKubeconfig(path, parts)


class _Disk:
    """Reads files below a root folder, and keeps the reasons of those that cannot be read."""

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root).rstrip("/")
        self.unread: dict[str, str] = {}

    def exists(self, path: str) -> bool:
        try:
            os.stat(self._place(path))
        except FileNotFoundError:
            return False
        except OSError as error:
            self.unread[path] = _why(error)
            return False
        return True

    def is_file(self, path: str) -> bool:
        try:
            return os.path.isfile(self._place(path))
        except OSError:
            return False

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, none if there is none."""
        try:
            return sorted(os.listdir(self._place(path)))[:_MOST_FILES]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.unread[path] = _why(error)
            return []

    def text(self, path: str) -> str | None:
        """Return the text of a file; None if there is none, or it cannot be read."""
        try:
            return input_file.read(self._place(path), _LARGEST)[0].decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.unread[path] = _why(error)
            return None

    def certificates(self, path: str) -> tuple[Facts, ...]:
        """Return the certificates in a file, whatever else is in it; the keys beside them are not kept."""
        text = self.text(path)
        found = tuple(readable_certificates(text or ""))
        if text and not found:
            self.unread[path] = "no certificate in it can be read"
        return found

    def place(self, path: str) -> str:
        """Return where a path of the machine is, or where nothing can be read."""
        try:
            return self._place(path)
        except OSError:
            return f"{self._root}{path}"

    def _place(self, path: str) -> str:
        """Return where a path of the machine is, with all links followed inside its root folder."""
        if not self._root:
            return path
        done, left, links = "", [part for part in path.split("/") if part], 0
        while left:
            part = left.pop(0)
            if part == "..":
                done = posixpath.dirname(done.rstrip("/"))
                continue
            here = f"{self._root}{done}/{part}"
            try:
                linked = stat.S_ISLNK(os.lstat(here).st_mode)
            except OSError:
                linked = False
            if not linked:
                done = f"{done}/{part}"
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(40, "it has too many links")
            target = os.readlink(here)
            if target.startswith("/"):
                done = ""
            left = [each for each in target.split("/") if each not in ("", ".")] + left
        return f"{self._root}{done}"


def _why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return _NOT_ALLOWED
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it cannot be read"
