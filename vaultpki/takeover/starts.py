"""Restarts the components of a machine that is taken over, each only for what it reads, and waits until it is healthy.

What a process holds is what it was prepared to read before it was started. That is written down before the manifest
is, so a run that was killed in between goes on, and restarts nothing twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from vaultpki.errors import StateConflict
from vaultpki.host import boot_time, pod_manifest
from vaultpki.host.pod_manifest import PodEdits, PodManifest
from vaultpki.kube.flags import signing_files
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import arrangement, beside, plain_files, settings
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.beside import MountingPod
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import Prepared, later, read

_PAUSE: Final = 0.5


def note_origin(run: TakeOver) -> None:
    """Write down what each component reads as kubeadm left it, once."""
    known = run.journal.value
    for component in run.machine.components():
        if component not in known.prepared:
            known = replace(known, prepared=later(known, component, _origin(run, component)))
    for pod in beside.pods(run.machine):
        if pod.manifest not in known.prepared:
            # An older release, or somebody, may have exchanged what its containers still have.
            digest = "" if beside.has_old(run) else beside.digest(run, pod)
            entry = Prepared(digest, Held.UNKNOWN, Held.UNKNOWN, None, "", None)
            known = replace(known, prepared=later(known, pod.manifest, entry))
    run.journal.save(prepared=known.prepared)


def _origin(run: TakeOver, component: str) -> Prepared:
    """Return what a component that was never prepared was started with: what lies there."""
    entry = prepared(run, component)
    return replace(entry, active=signs(run)) if component == "kube-controller-manager" else entry


def signs(run: TakeOver) -> bool:
    """Return whether the controller manager's manifest names what CSRs are signed with."""
    path = run.machine.static_pods().get("kube-controller-manager")
    found = read(path) if path is not None else None
    flags = PodManifest(found[0], path or "").flags if found is not None else {}
    return bool(signing_files(flags, "key"))


def rotates(run: TakeOver) -> bool:
    """Return whether the kubelet's settings and flags let it renew its certificate by CSRs."""
    found, flags = read(run.machine.kubelet_settings), read(run.machine.kubelet_flags)
    if flags is not None and settings.without_flag(flags[0]) != flags[0]:
        return False
    return settings.values_of(found[0] if found else b"").get("rotateCertificates") is True


def prepared(run: TakeOver, component: str, wanted: bytes | None = None) -> Prepared:
    """Return what a component would read if it was started now, by the manifest `wanted` or else by its own.

    Two manifests that are the same give the same digest, whatever led to them: the kubelet restarts nothing for those.
    """
    flags: Mapping[str, str] = {}
    edited: list[object] = []
    path = run.machine.static_pods().get(component)
    active = None
    if path is not None:
        if wanted is None:
            wanted = (read(path) or (b"", None))[0]
        manifest = PodManifest(wanted, path)
        flags = manifest.flags
        edited = [arrangement.edited_flags(component, flags), arrangement.own_volumes(manifest.volumes)]
    if component == "kubelet":
        active = rotates(run)
    elif component == "kube-controller-manager":
        active = run.target.signer
    trust = run.machine.trust(component, run.cas, flags)
    leaves = run.machine.leaves(component, run.cas, flags)
    kind = run.machine.kind()
    said: list[object] = [kind.value if kind else "", trust.value, leaves.value, *edited]
    said += [active] if component == "kubelet" else []
    digest = sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    return Prepared(digest, trust, leaves, active, "", None)


def last(run: TakeOver, component: str) -> Prepared | None:
    """Return what a component was prepared to read last.

    Before the first step nothing is written down, and no component has to be restarted for what it reads already.
    """
    found = run.journal.value.prepared.get(component, ())
    if found:
        return found[-1]
    ended = run.target.home or run.journal.value.reached is AdoptionState.DONE
    return None if ended else _origin(run, component)


def is_new(run: TakeOver, component: str, entry: Prepared) -> bool:
    """Return whether the component runs, and each of its processes was started after it was prepared."""
    starts = run.components.started(component)
    return bool(starts) and all(entry.moment is None or each.later_than(entry.moment) for each in starts)


def held(run: TakeOver, component: str) -> Prepared | None:
    """Return what the processes of a component were started with; None if none runs, or if that is not known."""
    starts = run.components.started(component)
    for entry in reversed(run.journal.value.prepared.get(component, ()) if starts else ()):
        if all(entry.moment is None or each.later_than(entry.moment) for each in starts):
            return entry
    return None


def pod_is_ready(run: TakeOver, component: str) -> bool:
    """Return whether a static pod is as the target has it, runs with what lies there now, and nothing is left to do."""
    wanted, _ = plain_files.manifest(run, component)
    path = run.machine.static_pods()[component]
    found, entry = read(path), last(run, component)
    if found is None or entry is None or pod_manifest.plain(found[0], path) != wanted:
        return False
    if run.target.home and entry.mark:
        return False
    same = entry.digest == prepared(run, component, wanted).digest and PodManifest(found[0], path).mark == entry.mark
    return same and is_new(run, component, entry)


def manifest_is_ready(run: TakeOver, component: str) -> bool:
    """Return whether the manifest of a static pod says what the target asks, but for its mark, and it runs so."""
    wanted, _ = plain_files.manifest(run, component)
    path = run.machine.static_pods()[component]
    found, entry = read(path), last(run, component)
    if found is None or pod_manifest.plain(found[0], path) != wanted:
        return False
    return entry is None or (PodManifest(found[0], path).mark == entry.mark and is_new(run, component, entry))


def signer_is_ready(run: TakeOver) -> bool:
    """Return whether the controller manager signs as the target says, and was started so."""
    component = "kube-controller-manager"
    path = run.machine.static_pods()[component]
    wanted, _ = plain_files.manifest(run, component, signs_only=True)
    found, entry = read(path), last(run, component)
    if found is None or pod_manifest.plain(found[0], path) != wanted:
        return False
    return entry is None or (PodManifest(found[0], path).mark == entry.mark and is_new(run, component, entry))


@dataclass(frozen=True, slots=True)
class _NotedStart:
    """A start that is written down: of which component, by which manifest, and what it is prepared to read."""

    component: str
    path: str
    wanted: bytes
    entry: Prepared


def start_pod(run: TakeOver, component: str, *, signs_only: bool = False, marked: bool = False) -> None:
    """Have the kubelet start a static pod as the target has it, and wait until it is healthy. Raises StateConflict.

    With `marked` the manifest gets a mark even where the target's has none, since another restart follows.
    """
    _start(run, [_noted(run, component, signs_only=signs_only, marked=marked)])


def start_together(run: TakeOver, components: Sequence[str]) -> None:
    """Have the kubelet start several static pods at once, and wait until each is healthy. Raises StateConflict.

    Before it starts a changed etcd, the kubelet has kube-apiserver delete the old one's mirror pod. That waits for etcd
    until its timeout of 34 s (pkg/kubelet/kubelet.go, tryReconcileMirrorPods), unless kube-apiserver ends meanwhile.
    """
    _start(run, [_noted(run, each) for each in components if not pod_is_ready(run, each)])


def _noted(run: TakeOver, component: str, *, signs_only: bool = False, marked: bool = False) -> _NotedStart:
    """Write down what a static pod is prepared to read, unless a run that was killed has done so."""
    path = run.machine.static_pods()[component]
    wanted, _ = plain_files.manifest(run, component, signs_only=signs_only)
    next_ = prepared(run, component, wanted)
    entry = last(run, component)
    # At home no manifest has a mark.
    if entry is None or entry.digest != next_.digest or (run.target.home and entry.mark):
        marked = marked or (wanted != plain_files.original(run, path) and not run.target.home)
        marked = marked or _would_not_change(path, wanted)
        if component == "etcd" and (problem := run.components.problem(component)):
            raise StateConflict(f"etcd is not healthy before its restart ({problem}), so it is not restarted")
        entry = _write_down(run, component, next_, marked=marked)
    return _NotedStart(component, path, wanted, entry)


def _start(run: TakeOver, pods: Sequence[_NotedStart]) -> None:
    """Write the manifests of all, and wait for one after the other."""
    for each in pods:
        _write(run, each.component, each.path, each.wanted, each.entry)
    for each in pods:
        component, entry = each.component, each.entry
        if not _wait(run, component, entry):
            # It was started between the two lines of a run that was killed there, or the kubelet missed the change.
            entry = _write_down(run, component, entry, marked=bool(entry.mark))
            _write(run, component, each.path, each.wanted, entry)
            if not entry.mark or not _wait(run, component, entry):
                raise StateConflict(
                    f"{component} was not started anew within {run.timeout:g} s for {each.path}: does the kubelet run? "
                    "Look at its log, and run this again"
                )
        _healthy(run, component)


def _would_not_change(path: str, wanted: bytes) -> bool:
    """Return whether a manifest says this already, so that the kubelet would see no change without a mark."""
    found = read(path)
    return found is not None and found[0] == wanted


def _write_down(run: TakeOver, component: str, wanted: Prepared, *, marked: bool) -> Prepared:
    mark = f"{run.target.name}-{os.urandom(4).hex()}" if marked or run.target.folder is not FolderKind.KUBEADM else ""
    entry = replace(wanted, mark=mark, moment=boot_time.now())
    run.journal.save(prepared=later(run.journal.value, component, entry))
    return entry


def _write(run: TakeOver, component: str, path: str, wanted: bytes, entry: Prepared) -> None:
    data = PodManifest(wanted, path).edited(PodEdits(mark=entry.mark)) if entry.mark else wanted
    if run.journal.put(path, data, known_as=wanted):
        # A process that was started before the manifest was there does not count.
        entries = run.journal.value.prepared[component]
        fresh = replace(entry, moment=boot_time.now())
        run.journal.save(prepared={**run.journal.value.prepared, component: (*entries[:-1], fresh)})
        run.tell(f"wrote {path}; {component} is started anew")


def _wait(run: TakeOver, component: str, entry: Prepared) -> bool:
    return _until(run, lambda: is_new(run, component, last(run, component) or entry))


def _healthy(run: TakeOver, component: str) -> None:
    if not _until(run, lambda: not run.components.problem(component)):
        problem = run.components.problem(component)
        raise StateConflict(
            f"{component} was started anew and is not healthy after {run.timeout:g} s: {problem}; look at its log, and "
            "run this again"
        )
    run.tell(f"{component} is healthy")


def mounting_pod_is_ready(run: TakeOver, pod: MountingPod) -> bool:
    """Return whether a static pod beside the components has the files of now, and nothing is left to do for it."""
    entry = next(reversed(run.journal.value.prepared.get(pod.manifest, ())), None)
    if run.journal.value.reached is AdoptionState.DONE or (entry is None and run.journal.value.asked is None):
        return True
    if entry is None or (entry.moment is not None and not beside.is_started(run, pod, entry.moment)):
        return False
    return not entry.mark if run.target.home else entry.digest == beside.digest(run, pod)


def start_mounting_pod(run: TakeOver, pod: MountingPod) -> None:
    """Have the kubelet start such a static pod with the files of now. Raises StateConflict."""
    path, digest = pod.manifest, beside.digest(run, pod)
    entry = next(reversed(run.journal.value.prepared.get(path, ())), None)
    wanted = plain_files.original(run, path) or b""
    if entry is None or entry.digest != digest or (run.target.home and entry.mark):
        # Where the manifest has a mark, that it has none any more is a change too.
        plain = run.target.folder is FolderKind.KUBEADM and not _would_not_change(path, wanted)
        mark = "" if plain else f"{run.target.name}-{os.urandom(4).hex()}"
        entry = Prepared(digest, Held.UNKNOWN, Held.UNKNOWN, None, mark, boot_time.now())
        run.journal.save(prepared=later(run.journal.value, path, entry))
    data = pod_manifest.marked(wanted, entry.mark, path) if entry.mark else wanted
    if run.journal.put(path, data, known_as=wanted):
        run.tell(f"wrote {path}; {pod.name} is started anew")
    moment = entry.moment
    if moment is not None and not _until(run, lambda: beside.is_started(run, pod, moment)):
        raise StateConflict(
            f"{pod.name} was not started anew within {run.timeout:g} s for {path}: look at its log and at the "
            "kubelet's, and run this again"
        )


def _until(run: TakeOver, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + run.timeout
    while not condition():
        if time.monotonic() >= end:
            return False
        run.components.pause(_PAUSE)
    return True


def kubelet_is_ready(run: TakeOver) -> bool:
    """Return whether the kubelet was started with what lies there now."""
    entry = last(run, "kubelet")
    return entry is not None and entry.digest == prepared(run, "kubelet").digest and is_new(run, "kubelet", entry)


def start_kubelet(run: TakeOver) -> None:
    """Restart the kubelet for what lies there now, and wait until it is healthy. Raises StateConflict."""
    next_ = prepared(run, "kubelet")
    entry = last(run, "kubelet")
    if entry is None or entry.digest != next_.digest or not is_new(run, "kubelet", entry):
        entry = replace(next_, moment=boot_time.now())
        run.journal.save(prepared=later(run.journal.value, "kubelet", entry))
        if problem := run.components.restart_kubelet():
            raise StateConflict(f"`systemctl restart kubelet` {problem}")
    if not _wait(run, "kubelet", entry):
        raise StateConflict(f"the kubelet does not run {run.timeout:g} s after its restart; look at its log")
    _healthy(run, "kubelet")
