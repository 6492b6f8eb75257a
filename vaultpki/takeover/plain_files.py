"""The plain files of a machine that is taken over, as each arrangement has them: manifests, kubeconfigs, settings.

Each is made from kubeadm's own, which is kept. A file that somebody else has changed since, such as `kubeadm upgrade`,
is taken as kubeadm's own from then on, without what was written here.
"""

from __future__ import annotations

import os

from vaultpki.disk import files
from vaultpki.disk.files import closing, open_folder, storage_errors
from vaultpki.errors import StateConflict, StoreError
from vaultpki.host import pod_manifest
from vaultpki.host.pod_manifest import PodEdits, PodManifest
from vaultpki.issue.bundles_and_kubeconfigs import Site, kubeconfig
from vaultpki.issue.signing import FileOwner
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.places import KUBECONFIGS, KUBELET, PKI, Layout, inner_folders
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import arrangement, beside, settings
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read
from vaultpki.takeover.machine import COMPONENT_KUBECONFIGS, PEOPLE

KUBECONFIG_ROWS = {
    "controller-manager.conf": "kube-controller-manager",
    "scheduler.conf": "kube-scheduler",
    "kubelet.conf": "kubelet-client",
}
"""The certificate that each kubeconfig of a component logs in with."""


def plain_files(run: TakeOver) -> list[str]:
    """Return the paths of all files of kubeadm's that a take-over changes on this machine."""
    paths = [*run.machine.static_pods().values(), *run.machine.kubeconfigs()]
    paths += [pod.manifest for pod in beside.pods(run.machine)]
    if run.machine.has_kubelet():
        paths += [run.machine.kubelet_settings, run.machine.kubelet_flags, str(run.machine.kubeconfig("kubelet"))]
    return paths


def remove_leftovers(run: TakeOver) -> None:
    """Remove what a killed run left of these files when it was about to put them in place: some hold keys."""
    names: dict[str, set[str]] = {}
    also = (f"{run.where.kubeconfigs}/{name}" for name in (*COMPONENT_KUBECONFIGS.values(), *PEOPLE))
    for path in (*plain_files(run), *also):
        folder, name = os.path.split(path)
        names.setdefault(folder, set()).add(name)
    for folder, held in names.items():
        # A machine of etcd's alone need not have every one.
        if files.exists(folder):
            with closing(open_folder(folder, create=False)) as fd, storage_errors(folder):
                files.remove_leftovers(fd, held)


def original(run: TakeOver, path: str) -> bytes | None:
    """Return a file as kubeadm or the user has it, without what was written here; None if there was none.

    A file that somebody else has changed since it was kept is kept anew.
    """
    found = read(path)
    kept = run.journal.original(path) if path in run.journal.value.kept else None
    if found is None:
        return kept
    data, about = found
    compared = pod_manifest.plain(data, path) if path.startswith(f"{run.machine.manifests}/") else data
    if path not in run.journal.value.kept:
        return compared
    if run.journal.is_ours(path, compared):
        return kept
    back = _undone(run, path, data, kept)
    if back is not None and back != kept:
        run.journal.renew(path, back, about)
        run.journal.save(changed=tuple(dict.fromkeys((*run.journal.value.changed, path))))
        return back
    return kept


def _undone(run: TakeOver, path: str, data: bytes, kept: bytes | None) -> bytes | None:
    """Return a file that somebody else has changed, without what was written here; None if that cannot be told."""
    machine = run.machine
    if path in {pod.manifest for pod in beside.pods(machine)}:
        return pod_manifest.plain(data, path)
    if path.startswith(f"{machine.manifests}/"):
        manifest = PodManifest(data, path)
        flags = PodManifest(kept, path).flags if kept is not None else manifest.flags
        return manifest.undone(arrangement.undoing(manifest.component, flags, run.where))
    if path == machine.kubelet_settings:
        before = settings.values_of(kept or b"")
        return settings.with_values(data, {key: before.get(key) for key in settings.kubelet_values(run.where)}, path)
    if path == machine.kubelet_flags:
        return settings.without_flag(data)
    # A kubeconfig that holds or names an old pair is kubeadm's; another one is somebody's of our side.
    leaf = machine.kubeconfig_leaf(path)
    if kept is None or not leaf or run.cas.signer(leaf[0], "kubernetes") is not Held.OLD:
        return None
    own = _own_cas(run)
    held = settings.cas_of(kept, own)
    return settings.with_cas(data, held, own, path) if held else data


def _own_cas(run: TakeOver) -> frozenset[str]:
    """Return the SHA-256 of the CAs of the API server, the old and the new ones."""
    return frozenset(facts.fingerprint for side in (run.cas.old, run.cas.new) for facts in side.get("kubernetes", ()))


def manifest(run: TakeOver, component: str, *, signs_only: bool = False) -> tuple[bytes, PodEdits]:
    """Return the manifest of a component as the target has it, without a mark, and what differs from kubeadm's.

    With `signs_only` the present one, in which only what CSRs are signed with is the target's.
    """
    path = run.machine.static_pods()[component]
    before = original(run, path)
    if before is None:
        raise StateConflict(f"{path} is missing; put it back (`kubeadm init phase`)")
    flags = PodManifest(before, path).flags
    edits = arrangement.edits(component, run.target, flags, run.where, signs_only=signs_only)
    if signs_only:
        return pod_manifest.plain(PodManifest(_bytes(path), path).edited(edits), path), edits
    return PodManifest(before, path).edited(edits), edits


def kubeconfig_of(run: TakeOver, path: str) -> bytes | None:
    """Return a kubeconfig as the target has it; None if it shall not be there.

    It names files only where the certificates are ours: kubeadm renews no pair but one that a kubeconfig holds itself
    (cmd/kubeadm/app/phases/certs/renewal/readwriter.go), and until then the old pairs are kubeadm's to renew.
    """
    name = path.rpartition("/")[2]
    before = original(run, path)
    if run.target.ours and name in KUBECONFIG_ROWS:
        return ours(run, name)
    if before is None:
        return None
    if run.target.state is AdoptionState.DONE and name in PEOPLE:
        data = _bytes(path)
        leaf = run.machine.kubeconfig_leaf(path)
        # One without a pair is somebody's own, such as one with a token. In the place of one that is mounted the
        # kubelet would make a folder (hostPath without a type).
        old = leaf and run.cas.signer(leaf[0], "kubernetes") is Held.OLD
        return None if old and path not in beside.paths(run) else data
    if run.target.trust is Held.OLD:
        return _without_new(run, before, path)
    if name in PEOPLE:
        # A person may have put a new one in its place.
        leaf = run.machine.kubeconfig_leaf(path)
        if not leaf or run.cas.signer(leaf[0], "kubernetes") is not Held.OLD:
            # A pod that mounts it must have kubeadm's again before nobody lets the new one in.
            home = run.target.state is AdoptionState.RETURNING and path in beside.paths(run)
            return settings.with_cas(before, trusted(run), _own_cas(run), path) if home else _bytes(path)
    return settings.with_cas(before, trusted(run), _own_cas(run), path)


def _without_new(run: TakeOver, data: bytes, path: str) -> bytes:
    """Return a kubeconfig of kubeadm's with the old CAs alone.

    One that holds both was written by `kubeadm join` while everybody trusted both.
    """
    old = list(run.cas.old.get("kubernetes", ()))
    cas = settings.cas_of(data, _own_cas(run)).decode("ascii", "replace")
    held = {facts.fingerprint for facts in x509.readable(cas)}
    new = {facts.fingerprint for facts in run.cas.new.get("kubernetes", ())}
    if not (old and held & new and held - new):
        return data
    return settings.with_cas(data, b"".join(facts.pem.encode() for facts in old), _own_cas(run), path)


def ours(run: TakeOver, name: str) -> bytes:
    """Return the kubeconfig of a component that names our pair."""
    want = next((each for each in run.assignment.certificates if each.name == KUBECONFIG_ROWS[name]), None)
    if want is None:
        raise StateConflict(
            f"cluster.yaml gives this node no certificate {KUBECONFIG_ROWS[name]}, and {name} needs one; correct its "
            "roles, and run `vaultpki apply`"
        )
    where = run.where
    paths = {PKI: where.directory, **inner_folders(where.directory), KUBELET: where.kubelet}
    site = Site(
        run.config.cluster,
        run.assignment.server,
        Layout.KUBEADM,
        {**paths, KUBECONFIGS: where.kubeconfigs},
        FileOwner(None, None),
    )
    return kubeconfig(site, want).data


def trusted(run: TakeOver) -> bytes:
    """Return the CAs of the API server that the target trusts, the old one first, as PEM.

    kubeadm compares its certificates with the first one.
    """
    return b"".join(facts.pem.encode() for facts in trusted_cas(run, "kubernetes"))


def trusted_cas(run: TakeOver, ca: str) -> list[Facts]:
    """Return the CAs of a domain that the target trusts, the old ones first."""
    old, new = list(run.cas.old.get(ca, ())), list(run.cas.new.get(ca, ()))
    return {Held.OLD: old, Held.NEW: new}.get(run.target.trust, [*old, *new])


def kubelet_settings(run: TakeOver) -> bytes:
    """Return the kubelet's settings as the target has them."""
    path = run.machine.kubelet_settings
    before = original(run, path)
    if before is None:
        raise StoreError(f"{path} is missing; write it anew with `kubeadm upgrade node phase kubelet-config`")
    return settings.with_values(before, settings.kubelet_values(run.where), path) if run.target.ours else before


def kubelet_flags(run: TakeOver) -> bytes | None:
    """Return the kubelet's flags as the target has them; None if kubeadm left none."""
    before = original(run, run.machine.kubelet_flags)
    return settings.with_flag(before, run.machine.kubelet_flags) if run.target.ours and before is not None else before


def _bytes(path: str) -> bytes:
    found = read(path)
    return found[0] if found is not None else b""
