"""The steps that lead a machine to what a state asks, in their order; each is judged by what is there.

New trust comes before certificates that need it, and old trust goes after them. What CSRs are signed with comes before
any bundle with two CAs: a controller manager whose file holds two certificates ends when it becomes the leader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from vaultpki.errors import StateConflict
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.records.adoption import AdoptionState, ClusterShape
from vaultpki.rotation.adoption_outages import outage_of
from vaultpki.takeover import beside, csr_signer, exchanging, kubelet_files, old_pairs, plain_files, removal, starts
from vaultpki.takeover.arrangement import SIGNER_FOLDER, FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read

_SERVING: Final = ("etcd", "kube-apiserver")


@dataclass(frozen=True, slots=True)
class MachineStep:
    """One step: what it does, what of it is to be seen in detail, whether it is done, and how it is done.

    `restarts` is the component that it restarts, "" for none. `after` are the steps, by `what`, that make this one
    needed when they are done, though it is done as things are now. A step that changes folders holds the lock under
    which the agent makes its passes. `final` is whether there is no way back from it.
    """

    what: str
    done: Callable[[], bool]
    do: Callable[[], None]
    details: Callable[[], Iterator[str]] = field(default=lambda: iter(()))
    restarts: str = ""
    locked: bool = False
    after: frozenset[str] = frozenset()
    final: bool = False


def steps(run: TakeOver) -> Iterator[MachineStep]:
    """Yield the steps to the target, the done ones too."""
    machine, target, where = run.machine, run.target, run.where
    if target.home and not run.journal.value.kept:
        # Everything is as kubeadm left it, or was never changed.
        yield _removal(run)
        return
    pods = machine.static_pods()
    if not target.home and run.journal.value.reached is not AdoptionState.DONE:
        yield MachineStep("keep kubeadm's own files", lambda: _all_kept(run), lambda: _keep(run), lambda: _to_keep(run))
    signer = "kube-controller-manager"
    if target.signer and not target.home and signer in pods:
        yield MachineStep(
            "copy the old CA for the CSR signer",
            lambda: csr_signer.is_there(run),
            lambda: csr_signer.copy(run),
            lambda: iter(
                [f"{where.aside}/{SIGNER_FOLDER}/ca.crt and ca.key: a copy of {where.directory}/ca.crt and ca.key"]
            ),
            locked=True,
        )
        yield MachineStep(
            "sign CSRs by that copy",
            lambda: starts.signer_is_ready(run),
            lambda: starts.start_pod(run, signer, signs_only=True),
            lambda: _sentences(run, signer, signs_only=True),
            restarts=signer,
        )
    if target.folder is FolderKind.BOTH:
        yield MachineStep(
            "prepare a folder in which bundles hold the old and the new CAs",
            lambda: exchanging.both_is_there(run),
            lambda: exchanging.build_both(run),
            lambda: (f"{name}: with both CAs" for name in exchanging.bundles(run)),
            locked=True,
        )
    if target.state is AdoptionState.RETURNING:
        yield MachineStep(
            "sign old pairs again that have ended",
            lambda: not old_pairs.ended(run),
            lambda: old_pairs.sign_again(run),
            lambda: (f"{name}: a year longer" for name in old_pairs.ended(run)),
            locked=True,
        )
    exchanged = MachineStep(
        f"exchange {where.directory}",
        lambda: machine.kind() is target.folder,
        lambda: exchanging.exchange_folders(run),
        lambda: iter(
            [f"{where.directory}: the folder {exchanging.IN_WORDS[target.folder]} takes its place in one step"]
        ),
        locked=True,
    )
    configs = MachineStep(
        "write kubeconfigs",
        lambda: not list(_kubeconfigs_to_write(run)),
        lambda: _write_kubeconfigs(run),
        lambda: _kubeconfigs_to_write(run),
        locked=True,
        final=target.state is AdoptionState.DONE,
    )
    # A machine that is booted in between comes up: nothing names a file that is not there.
    if target.ours:
        yield exchanged
        yield from _first(run, [each for each in pods if each == "kube-scheduler"], "mount its certificate in")
        yield configs
    else:
        yield configs
        if target.folder is FolderKind.KUBEADM and machine.kind() is not FolderKind.KUBEADM:
            yield from _first(run, pods, "name no file of vaultpki's in")
        if target.folder is FolderKind.KUBEADM:
            yield MachineStep(
                "take the new CAs out of kubeadm's own folder",
                lambda: not exchanging.too_new(run),
                lambda: exchanging.remove_too_new(run),
                lambda: (f"{name}: the old CA alone" for name in exchanging.too_new(run)),
                locked=True,
            )
        yield exchanged
    for together in _at_once(run, pods):
        yield MachineStep(
            f"restart {' and '.join(together)}",
            lambda together=together: all(_pod_is_ready(run, each) for each in together),  # type: ignore[misc]
            lambda together=together: starts.start_together(run, together),  # type: ignore[misc]
            lambda together=together: _sentences(run, *together),  # type: ignore[misc]
            restarts=" ".join(together),
            after=frozenset({exchanged.what}),
        )
    if machine.has_kubelet():
        changed = MachineStep(
            "change the kubelet's certificates and settings",
            lambda: not list(kubelet_files.changes(run)),
            lambda: kubelet_files.change(run),
            lambda: kubelet_files.changes(run),
            locked=True,
        )
        yield changed
        yield MachineStep(
            "restart kubelet",
            lambda: starts.kubelet_is_ready(run),
            lambda: starts.start_kubelet(run),
            lambda: iter(["systemctl restart kubelet; pods go on running"]),
            restarts="kubelet",
            after=frozenset({exchanged.what, changed.what}),
        )
        yield MachineStep(
            "remove the copy of the kubelet's old pair",
            lambda: not kubelet_files.copies(run),
            lambda: kubelet_files.remove_copies(run),
            lambda: (f"{path}: removed" for path in kubelet_files.copies(run)),
            locked=True,
        )
    # Those that mount what was exchanged come last: they call the API server of this machine.
    for pod in beside.pods(machine):
        yield MachineStep(
            f"restart {pod.name}, which mounts {', '.join(pod.paths)}",
            lambda pod=pod: starts.mounting_pod_is_ready(run, pod),  # type: ignore[misc]
            lambda pod=pod: starts.start_mounting_pod(run, pod),  # type: ignore[misc]
            lambda pod=pod: iter([f"{pod.manifest}: an annotation, so that the kubelet starts it anew"]),  # type: ignore[misc]
            restarts=pod.name,
            after=frozenset({exchanged.what, configs.what}),
        )
    if target.state is AdoptionState.DONE and not run.kept_keys:
        yield MachineStep(
            "delete the old keys and pairs",
            lambda: not list(removal.old_files(run)),
            lambda: removal.delete_old(run),
            lambda: removal.old_files(run),
            locked=True,
            final=True,
        )
    if target.home:
        yield _removal(run)


def _removal(run: TakeOver) -> MachineStep:
    return MachineStep(
        "remove what was prepared",
        lambda: not list(removal.prepared_files(run)),
        lambda: removal.remove_prepared(run),
        lambda: removal.prepared_files(run),
        locked=True,
    )


def _first(run: TakeOver, components: Iterable[str], what: str) -> Iterator[MachineStep]:
    """Yield the restarts that come before what lies on the disk changes, for manifests that are not the target's."""
    for component in components:
        yield MachineStep(
            f"{what} {component}",
            lambda component=component: starts.manifest_is_ready(run, component),  # type: ignore[misc]
            lambda component=component: starts.start_pod(run, component, marked=True),  # type: ignore[misc]
            lambda component=component: _sentences(run, component),  # type: ignore[misc]
            restarts=component,
        )


def _at_once(run: TakeOver, pods: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield the static pods in their order, those together that restart at once.

    Where the API is away anyway, it is away for the shortest time so; elsewhere each is healthy before the next.
    """
    both = run.shape is ClusterShape.ONE_PLANE and set(_SERVING) <= set(pods)
    if both:
        yield _SERVING
    yield from ((each,) for each in pods if not both or each not in _SERVING)


def _pod_is_ready(run: TakeOver, component: str) -> bool:
    """Return whether a static pod needs no restart of its own: it had it, or the one before is all that it needs."""
    if starts.pod_is_ready(run, component):
        return True
    # At home there is no such step before: its manifest is kubeadm's again before what it signs with is removed.
    signs = run.target.signer and not run.target.home
    alone = signs and run.target.folder is FolderKind.KUBEADM and run.machine.kind() is FolderKind.KUBEADM
    return alone and component == "kube-controller-manager" and not starts.signer_is_ready(run)


def needs_turn(run: TakeOver) -> bool:
    """Return whether a step that is left restarts etcd, kube-apiserver, or a pod that mounts their files here."""
    planes = [component for component in run.machine.static_pods() if component in _SERVING]
    if not planes:
        return False
    if run.machine.kind() is not run.target.folder or not all(starts.pod_is_ready(run, each) for each in planes):
        return True
    # What balances the API server runs on every control plane.
    return not all(starts.mounting_pod_is_ready(run, each) for each in beside.pods(run.machine))


# -- what is kept ----------------------------------------------------------------------------------------------------


def _to_keep(run: TakeOver) -> Iterator[str]:
    for path in plain_files.plain_files(run):
        if path not in run.journal.value.kept:
            yield f"{path}: a copy in {run.journal.folder}"


def _all_kept(run: TakeOver) -> bool:
    known = run.journal.value.prepared
    noted = (*run.machine.components(), *(pod.manifest for pod in beside.pods(run.machine)))
    return not list(_to_keep(run)) and all(each in known for each in noted)


def _keep(run: TakeOver) -> None:
    if run.machine.kind() is not FolderKind.KUBEADM and not run.journal.value.kept:
        raise StateConflict(f"{run.journal.folder} is lost, which says how to go back; restore it from a backup")
    for path in plain_files.plain_files(run):
        run.journal.keep(path)
    starts.note_origin(run)


# -- manifests and kubeconfigs ---------------------------------------------------------------------------------------


def _sentences(run: TakeOver, *components: str, signs_only: bool = False) -> Iterator[str]:
    for component in components:
        path = run.machine.static_pods()[component]
        wanted, edits = plain_files.manifest(run, component, signs_only=signs_only)
        found = read(path)
        held = PodManifest(found[0] if found else b"", path)
        after = PodManifest(wanted, path).flags
        gone = {name: None for name in held.flags if name not in after}
        told = list(type(edits)({**after, **gone}, edits.folders).sentences(held))
        yield from (f"{path}: {each}" for each in told)
    if outage := outage_of(components, run.shape):
        yield outage
    are = "are restarted at once" if len(components) > 1 else "is restarted"
    yield f"{' and '.join(components)} {are}, and healthy before anything else is done"


def _kubeconfigs_to_write(run: TakeOver) -> Iterator[str]:
    for path in run.machine.kubeconfigs():
        wanted = plain_files.kubeconfig_of(run, path)
        if (read(path) or (None, None))[0] != wanted:
            what = "names files" if run.target.ours and wanted else f"trusts the {run.target.trust.value} CAs"
            yield f"{path}: {what}" if wanted is not None else f"{path}: removed, its certificate is of the old CA"


def _write_kubeconfigs(run: TakeOver) -> None:
    for path in run.machine.kubeconfigs():
        if run.journal.put(path, plain_files.kubeconfig_of(run, path)):
            run.tell(f"wrote {path}")
