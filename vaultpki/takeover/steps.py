"""The steps that lead a machine to what a state asks, in their order; each is judged by what is there.

New trust comes before certificates that need it, and old trust goes after them. What CSRs are signed with comes before
any bundle with two CAs: a controller manager whose file holds two certificates ends when it becomes the leader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from vaultpki.disk import exchange, files
from vaultpki.disk.files import private_folder
from vaultpki.errors import StateConflict
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.records.adoption import AdoptionState
from vaultpki.takeover import exchanging, folders, key_copies, kubelet_pair, old_pairs, plain_files, starts
from vaultpki.takeover.arrangement import SIGNER_FOLDER, FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import JOURNAL, files_in, read


@dataclass(frozen=True, slots=True)
class MachineStep:
    """One step: what it does, what of it is to be seen in detail, whether it is done, and how it is done.

    `restarts` is the component that it restarts, "" for none. A step that changes folders holds the lock under which
    the agent makes its passes.
    """

    what: str
    done: Callable[[], bool]
    do: Callable[[], None]
    details: Callable[[], Iterator[str]] = field(default=lambda: iter(()))
    restarts: str = ""
    locked: bool = False


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
            lambda: _signer_is_there(run),
            lambda: _copy_signer(run),
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
    for component in pods:
        yield MachineStep(
            f"restart {component}",
            lambda component=component: _pod_is_ready(run, component),  # type: ignore[misc]
            lambda component=component: starts.start_pod(run, component),  # type: ignore[misc]
            lambda component=component: _sentences(run, component),  # type: ignore[misc]
            restarts=component,
        )
    if machine.has_kubelet():
        yield MachineStep(
            "change the kubelet's certificates and settings",
            lambda: not list(_kubelet_changes(run)),
            lambda: _change_kubelet(run),
            lambda: _kubelet_changes(run),
            locked=True,
        )
        yield MachineStep(
            "restart kubelet",
            lambda: starts.kubelet_is_ready(run),
            lambda: starts.start_kubelet(run),
            lambda: iter(["systemctl restart kubelet; pods go on running"]),
            restarts="kubelet",
        )
        yield MachineStep(
            "remove the copy of the kubelet's old pair",
            lambda: not kubelet_pair.copies(run),
            lambda: kubelet_pair.remove_copies(run),
            lambda: (f"{path}: removed" for path in kubelet_pair.copies(run)),
            locked=True,
        )
    if target.state is AdoptionState.DONE and not run.kept_keys:
        yield MachineStep(
            "delete the old keys and pairs",
            lambda: not list(_left(run)),
            lambda: _delete(run),
            lambda: _left(run),
            locked=True,
        )
    if target.home:
        yield _removal(run)


def _removal(run: TakeOver) -> MachineStep:
    return MachineStep(
        "remove what was prepared",
        lambda: not list(_left_at_home(run)),
        lambda: _remove_prepared(run),
        lambda: _left_at_home(run),
        locked=True,
    )


def _takes_place(path: str, kind: FolderKind) -> str:
    return f"{path}: the folder {exchanging.IN_WORDS[kind]} takes its place in one step"


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


def _pod_is_ready(run: TakeOver, component: str) -> bool:
    """Return whether a static pod needs no restart of its own: it had it, or the one before is all that it needs."""
    if starts.pod_is_ready(run, component):
        return True
    alone = run.target.signer and run.target.folder is FolderKind.KUBEADM and run.machine.kind() is FolderKind.KUBEADM
    return alone and component == "kube-controller-manager" and not starts.signer_is_ready(run)


def needs_turn(run: TakeOver) -> bool:
    """Return whether etcd or kube-apiserver of this machine is restarted by a step that is left."""
    planes = [component for component in run.machine.static_pods() if component in ("etcd", "kube-apiserver")]
    if not planes:
        return False
    return run.machine.kind() is not run.target.folder or not all(starts.pod_is_ready(run, each) for each in planes)


# -- what is kept ----------------------------------------------------------------------------------------------------


def _to_keep(run: TakeOver) -> Iterator[str]:
    for path in plain_files.plain_files(run):
        if path not in run.journal.value.kept:
            yield f"{path}: a copy in {run.journal.folder}"


def _all_kept(run: TakeOver) -> bool:
    known = run.journal.value.prepared
    return not list(_to_keep(run)) and all(component in known for component in run.machine.components())


def _keep(run: TakeOver) -> None:
    if run.machine.kind() is not FolderKind.KUBEADM and not run.journal.value.kept:
        raise StateConflict(f"{run.journal.folder} is lost, which says how to go back; restore it from a backup")
    for path in plain_files.plain_files(run):
        run.journal.keep(path)
    starts.note_origin(run)


# -- the signer ------------------------------------------------------------------------------------------------------


def _key_folder(run: TakeOver) -> str | None:
    """Return the folder in which the key of the old CA lies; None if there is none on this machine."""
    places = [run.where.directory, *(f"{run.where.aside}/{kind.value}" for kind in FolderKind)]
    return next((path for path in places if os.path.exists(f"{path}/ca.key") and _one_old_ca(run, path)), None)


def _one_old_ca(run: TakeOver, path: str) -> bool:
    return bool(run.machine.certificates(f"{path}/ca.crt"))


def can_sign(run: TakeOver) -> bool:
    """Return whether the controller manager of this machine has, or must have, the old CA's key to sign CSRs with.

    It need not where that key is in Vault, and on no disk here. At the end of the way back it cannot, wherever the key
    is: a controller manager whose flags name a key that is missing does not start, and kubeadm leaves them empty then.
    """
    if "kube-controller-manager" not in run.machine.static_pods() or not run.target.signer:
        return True
    if not run.target.home and "kubernetes" not in run.imported:
        return True
    copied = not run.target.home and os.path.exists(folders.signer_files(run.where.aside)[1])
    return copied or _key_folder(run) is not None or not _signs_by_copy(run)


def _signer_is_there(run: TakeOver) -> bool:
    cert, key = folders.signer_files(run.where.aside)
    if not _signs_by_copy(run):
        return True
    source, found, held = _key_folder(run), read(cert), read(key)
    if found is None or held is None:
        return False
    same_key = source is None or held[0] == (read(f"{source}/ca.key") or (b"", None))[0]
    return found[0] == _old_ca(run) and same_key


def _signs_by_copy(run: TakeOver) -> bool:
    """Return whether the controller manager signs with kubeadm's CA, and not with one that the user gave it."""
    path = run.machine.static_pods()["kube-controller-manager"]
    flags = PodManifest(plain_files.original(run, path) or b"", path).flags
    return f"{run.where.directory}/ca.key" in flags.values()


def _old_ca(run: TakeOver) -> bytes:
    """Return the old CA alone, with the key that lies here."""
    return "".join(facts.pem for facts in run.cas.old["kubernetes"][:1]).encode()


def _copy_signer(run: TakeOver) -> None:
    source = _key_folder(run)
    if source is None:
        raise StateConflict(
            f"the key of the old CA is not on this machine ({run.where.directory}/ca.key), and its controller manager "
            "signs with it; copy it here from another control plane"
        )
    cert, key = folders.signer_files(run.where.aside)
    private_folder(run.where.aside)
    with files.closing(files.open_folder(os.path.dirname(cert), create=True)) as folder, files.storage_errors(cert):
        data, about = read(f"{source}/ca.key") or (b"", os.stat(source))
        files.swap(os.path.basename(key), folder, data, about.st_mode & 0o777, about.st_uid, about.st_gid)
        files.swap(os.path.basename(cert), folder, _old_ca(run), 0o644)


def _sentences(run: TakeOver, component: str, *, signs_only: bool = False) -> Iterator[str]:
    path = run.machine.static_pods()[component]
    wanted, edits = plain_files.manifest(run, component, signs_only=signs_only)
    found = read(path)
    held = PodManifest(found[0] if found else b"", path)
    after = PodManifest(wanted, path).flags
    gone = {name: None for name in held.flags if name not in after}
    told = list(type(edits)({**after, **gone}, edits.folders).sentences(held))
    yield from (f"{path}: {each}" for each in told)
    yield f"{component} is restarted, and healthy before anything else is done"


# -- kubeconfigs -----------------------------------------------------------------------------------------------------


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


# -- the kubelet -----------------------------------------------------------------------------------------------------


def _kubelet_kind(run: TakeOver) -> FolderKind:
    return FolderKind.AGENT if run.target.ours else FolderKind.KUBEADM


def _kubelet_files(run: TakeOver) -> Iterator[tuple[str, bytes | None]]:
    path = str(run.machine.kubeconfig("kubelet"))
    yield run.machine.kubelet_settings, plain_files.kubelet_settings(run)
    yield run.machine.kubelet_flags, plain_files.kubelet_flags(run)
    yield path, plain_files.kubeconfig_of(run, path)


def _kubelet_changes(run: TakeOver) -> Iterator[str]:
    kind = _kubelet_kind(run)
    if folders.kind(run.where.kubelet) is not kind:
        yield _takes_place(run.where.kubelet, kind)
    for path, wanted in _kubelet_files(run):
        if (read(path) or (None, None))[0] != wanted:
            yield f"{path}: changed"


def _change_kubelet(run: TakeOver) -> None:
    kind = _kubelet_kind(run)
    if kind is FolderKind.AGENT:
        exchanging.refuse_unready(run)
    else:
        old_pairs.renew_kubelet(run)
    if folders.kind(run.where.kubelet) is not kind:
        # Its kubeconfig names the old pair in one folder, or ours in the other, whenever the machine is booted.
        kubelet_pair.copy(run)
    if kind is FolderKind.AGENT:
        _put_kubelet_folder(run, kind)
    for path, wanted in _kubelet_files(run):
        if run.journal.put(path, wanted):
            run.tell(f"wrote {path}")
    if kind is not FolderKind.AGENT:
        _put_kubelet_folder(run, kind)


def _put_kubelet_folder(run: TakeOver, kind: FolderKind) -> None:
    if folders.kind(run.where.kubelet) is not kind:
        private_folder(run.where.kubelet_aside)
        folders.put(run.where.kubelet, run.where.kubelet_aside, kind)
        run.tell(f"exchanged {run.where.kubelet} for the folder {exchanging.IN_WORDS[kind]}")


# -- the end ---------------------------------------------------------------------------------------------------------


def _left(run: TakeOver) -> Iterator[str]:
    """Yield what of the old CAs lies on the disk in DONE."""
    paths = [f"{run.where.aside}/{name}" for name in (FolderKind.KUBEADM.value, FolderKind.BOTH.value, SIGNER_FOLDER)]
    paths.append(f"{run.where.kubelet_aside}/{FolderKind.KUBEADM.value}")
    yield from (f"{path}: deleted, it holds a key of an old CA" for path in key_copies.elsewhere(run))
    yield from (f"{path}: deleted" for path in paths if os.path.lexists(path))
    if _copies(run):
        yield f"{run.journal.folder}: kubeadm's own files are deleted; after that there is no way back"


def _copies(run: TakeOver) -> list[str]:
    """Return the files of kubeadm's that are kept."""
    return [path for path in files_in(run.journal.folder) if not path.endswith(f"/{JOURNAL}")]


def _delete(run: TakeOver) -> None:
    # What is no key of an old CA is known as long as their certificates and kubeadm's manifests are there.
    for path in key_copies.elsewhere(run):
        exchange.remove(path)
        run.tell(f"deleted {path}, which held a key of an old CA")
    # First, since a journal that names copies which are gone says that they are lost.
    run.journal.save(kept={}, written={}, copied={}, reached=AdoptionState.DONE)
    for name in (FolderKind.KUBEADM.value, FolderKind.BOTH.value, SIGNER_FOLDER):
        exchange.remove(f"{run.where.aside}/{name}")
    exchange.remove(f"{run.where.kubelet_aside}/{FolderKind.KUBEADM.value}")
    for path in _copies(run):
        exchange.remove(path)
    run.tell("deleted the keys and pairs of the old CAs on this machine; look for copies and backups of them elsewhere")


def _left_at_home(run: TakeOver) -> Iterator[str]:
    for path in (run.where.aside, run.where.kubelet_aside, run.journal.folder):
        if os.path.lexists(path):
            yield f"{path}: removed"


def _remove_prepared(run: TakeOver) -> None:
    # First, since a journal that names copies which are gone says that they are lost.
    run.journal.save(kept={}, written={}, copied={}, prepared={}, reached=None, asked=None)
    exchange.remove(run.where.aside)
    exchange.remove(run.where.kubelet_aside)
    run.journal.remove()
