"""What `vaultpki ca` does: the root and the issuing CAs by the same four commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from vaultpki.certificates import ROOT
from vaultpki.model import Cluster
from vaultpki.provision import root_run, rotation_run
from vaultpki.provision.old_trust import Look
from vaultpki.provision.rotation_run import CaStatus, Step
from vaultpki.provision.rotation_scene import Scene, read_scene
from vaultpki.spec.kube_objects import KubeTrust
from vaultpki.spec.rotation_record import Method, RotationRecord
from vaultpki.vault import Vault


def status(cluster: Cluster, vault: Vault, now: datetime, pods: KubeTrust | None = None) -> tuple[CaStatus, ...]:
    """Return where each CA stands; writes nothing. `pods` is what the cluster shows of the root."""
    return status_of(read_scene(cluster, vault, now), pods)


def status_of(scene: Scene, pods: KubeTrust | None = None) -> tuple[CaStatus, ...]:
    """Return where each CA of a scene that was read stands; as `status`."""
    return (root_run.status(scene, pods), *rotation_run.status(scene))


def rotate(cluster: Cluster, vault: Vault, domain: str, method: Method, spread: int, now: datetime) -> RotationRecord:
    """Begin the rotation of a CA; see `rotation_run.rotate` and `root_run.rotate`. `now` is the server's time."""
    scene = read_scene(cluster, vault, now)
    if domain == ROOT:
        return root_run.rotate(scene, method, spread)
    return rotation_run.rotate(scene, domain, method, spread)


def advance(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    without: Sequence[str] = (),
    restarted: Sequence[str] = (),
    pods: KubeTrust | None = None,
    look: Look | None = None,
) -> Step:
    """Take the next step of the rotation that is under way; see `rotation_run.step` and `root_run.step`."""
    return _step(cluster, vault, now, without, restarted, pods, look, back=False)


def abort(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    without: Sequence[str] = (),
    restarted: Sequence[str] = (),
    pods: KubeTrust | None = None,
) -> Step:
    """Take the next step of the way back; as `advance`."""
    return _step(cluster, vault, now, without, restarted, pods, None, back=True)


def _step(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    without: Sequence[str],
    restarted: Sequence[str],
    pods: KubeTrust | None,
    look: Look | None,
    *,
    back: bool,
) -> Step:
    scene = read_scene(cluster, vault, now)
    if recovered := root_run.recover(scene, without):
        return recovered
    if root_run.active(scene):
        return root_run.step(scene, back=back, without=without, restarted=restarted, pods=pods)
    return root_run.rest(scene) or rotation_run.step(scene, back=back, without=without, restarted=restarted, look=look)
