"""Refuse folders that kubeadm or a kubelet has filled with CAs and pairs of its own; reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vaultpki.certificates import ca_subject, laid_out, pair_files
from vaultpki.disk import files
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import link_of
from vaultpki.disk.plain_files import PlainFolder
from vaultpki.errors import StoreError
from vaultpki.issue.bundles_and_kubeconfigs import names_pair
from vaultpki.layout import CA_KEYS, OLD_CA_FILES, TRUST_BUNDLES
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.trust import named
from vaultpki.places import KUBECONFIGS, KUBELET, PKI, Layout

if TYPE_CHECKING:
    from vaultpki.records.join_file import Join


def refuse(layout: Layout, paths: Mapping[str, str]) -> None:
    """Raise StoreError if the folders hold certificates, CA keys or kubeconfigs that are not ours.

    Nothing is checked once there are file sets of ours. The service-account keys of kubeadm may lie there.
    """
    if layout is not Layout.KUBEADM or _ours(paths):
        return
    for path in _foreign(paths):
        raise StoreError(
            f"{path}: it was made by kubeadm or a kubelet, and the join file does not know the CA of their cluster. "
            "Nothing was changed. To take the cluster over, write its CAs into `ca.also_trust` of cluster.yaml and "
            "enrol the machine again. Else use a machine without one, or run `kubeadm reset` if it may go"
        )


def to_take_over(join: Join, paths: Mapping[str, str]) -> bool:
    """Return whether this is a machine of a kubeadm cluster whose CAs the join file knows, so that it is taken over.

    Raises StoreError if its CA is one that the join file does not know: then nothing says that the machine belongs to
    this cluster, and it would be locked out. Beside the known one a file may hold a CA with the name of the cluster's
    own, which a machine has that joined while everybody trusted both; `refuse_other_cas` compares that one with
    Vault's.
    """
    if join.layout is not Layout.KUBEADM or not join.also_trust or _ours(paths) or not any(_foreign(paths)):
        return False
    for ca, path, held in _held(paths):
        known = {facts.fingerprint for facts in held} & set(join.also_trust.get(ca, ()))
        for facts in held:
            if facts.fingerprint not in known and not (known and named(facts, ca_subject(join.cluster, ca))):
                raise _unknown(path, facts)
    return True


def refuse_other_cas(join: Join, paths: Mapping[str, str], below: Mapping[str, Trust]) -> None:
    """Raise StoreError if a CA on a machine that is taken over is neither known to the join file nor Vault's.

    `below` are the CAs below the pinned root, by domain.
    """
    for ca, path, held in _held(paths):
        own = {facts.fingerprint for facts in below[ca].issuing} | set(join.also_trust.get(ca, ()))
        for facts in held:
            if facts.fingerprint not in own:
                raise _unknown(path, facts)


def _unknown(path: str, facts: Facts) -> StoreError:
    return StoreError(
        f"{path}: its CA {facts.subject_text} (SHA-256 {facts.fingerprint}) is not in the join file, so this machine "
        "is not of the cluster that is taken over. If it is, write that CA into `ca.also_trust` of cluster.yaml, run "
        "`vaultpki apply`, and enrol the machine again"
    )


def _held(paths: Mapping[str, str]) -> Iterator[tuple[str, str, tuple[Facts, ...]]]:
    """Yield domain, path and CAs of each file of kubeadm's with CAs."""
    for ca, each in OLD_CA_FILES.items():
        path = f"{paths[each.folder]}/{each.crt}"
        yield ca, path, _certificates(path)


def _certificates(path: str) -> tuple[Facts, ...]:
    from vaultpki.pki import x509

    found = read(path) if files.exists(path) else None
    return x509.readable(found.decode("ascii", "replace")) if found is not None else ()


def read(path: str) -> bytes:
    """Return a file of kubeadm's. Raises StoreError."""
    folder, name = path.rpartition("/")[::2]
    with files.closing(files.open_folder(folder, create=False)) as opened, files.storage_errors(path):
        return files.read_at(name, opened)[0]


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
