"""Refuse folders that kubeadm or a kubelet has filled with CAs and pairs of its own; reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vaultpki.agent.kubeconfigs import names_pair
from vaultpki.certificates import laid_out, pair_files
from vaultpki.disk import files
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import link_of
from vaultpki.disk.plain_files import PlainFolder
from vaultpki.errors import StoreError
from vaultpki.layout import CA_KEYS, TRUST_BUNDLES
from vaultpki.places import KUBECONFIGS, KUBELET, PKI, Layout


def refuse(layout: Layout, paths: Mapping[str, str]) -> None:
    """Raise StoreError if the folders hold certificates, CA keys or kubeconfigs that are not ours.

    Nothing is checked once there are file sets of ours. The service-account keys of kubeadm may lie there.
    """
    if layout is not Layout.KUBEADM or _ours(paths):
        return
    for path in _foreign(paths):
        raise StoreError(
            f"{path}: it was made by kubeadm or a kubelet, and taking over an existing kubeadm cluster is not "
            "supported yet; nothing was changed: use a machine without one, or run `kubeadm reset` if it may go"
        )


def _ours(paths: Mapping[str, str]) -> bool:
    if not files.exists(paths[PKI]):
        return False
    with Folders.open(paths, create=False, write=False) as folders:
        return bool(folders.file_sets())


def _foreign(paths: Mapping[str, str]) -> Iterator[str]:
    """Yield the path of each file that is in the place of one of ours, or proves that the machine has another CA."""
    for folder, name in _names():
        path = f"{paths[folder]}/{name}"
        if files.exists(path) and not link_of(path):
            yield path
    kubeconfigs = PlainFolder(paths[KUBECONFIGS])
    for row in laid_out(Layout.KUBEADM):
        if row.operator or row.kubeconfig is None or row.kubeadm is None:
            continue
        stored = kubeconfigs.read(row.kubeconfig)
        own = stored.data is not None and names_pair(stored.data, paths[row.kubeadm.folder], row.kubeadm.stem)
        if stored.problem != "missing" and not own:
            yield f"{kubeconfigs.path}/{row.kubeconfig}"


def _names() -> Iterator[tuple[str, str]]:
    yield from CA_KEYS
    for each in TRUST_BUNDLES[Layout.KUBEADM]:
        yield each.folder, each.file
    for row in laid_out(Layout.KUBEADM):
        if row.kubeadm is not None and not row.operator:
            for name in pair_files(row.kubeadm.stem):
                yield row.kubeadm.folder, name
    # The pair with which a kubelet logs in to a cluster that it has joined (k8s.io/client-go util/certificate).
    yield KUBELET, "kubelet-client-current.pem"
