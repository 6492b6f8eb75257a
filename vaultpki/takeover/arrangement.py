"""Says what each state of an adoption asks of one machine: folders and flags of static pods; pure.

Flags and volumes are those that kubeadm writes (cmd/kubeadm/app/phases/controlplane/manifests.go, 1.31 to 1.37).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vaultpki.host.pod_manifest import PodEdits
from vaultpki.kube.flags import signing_flags
from vaultpki.model import TakenOver
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.rotation.adoption_states import LEAVES_OF, SIGNER_ON, TRUSTED

_HELD: Final = {Side.OLD: Held.OLD, Side.NEW: Held.NEW, Side.BOTH: Held.BOTH}

SIGNER_FOLDER: Final = "signer"
"""The folder with the copy of the old CA by which the controller manager signs CSRs."""
SIGNER_VOLUME: Final = "vaultpki-signer"
SCHEDULER_VOLUME: Final = "scheduler-pki"
"""The volume with the scheduler's pair; in a new cluster kubeadm's configuration has one of this name."""

VERIFY: Final = "kubelet-certificate-authority"
ROOT_CA: Final = "root-ca-file"
_SIGNING_CERT, _SIGNING_KEY = "cluster-signing-cert-file", "cluster-signing-key-file"


class FolderKind(enum.Enum):
    """A folder of certificates: kubeadm's own, a copy of it whose bundles hold both CAs, or the agent's."""

    KUBEADM = "kubeadm"
    BOTH = "both"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What a machine shall be. `state` is None for the one that kubeadm left, before and after all states.

    `folder` takes the place of kubeadm's folder. `trust` is what bundles and kubeconfigs hold, `leaves` whose
    certificates components show. `signer` is whether the controller manager signs CSRs, by a copy of the old CA; where
    the key of that CA is on no disk it does not, whatever the state.
    `verify` is whether kube-apiserver checks the certificates of kubelets, which kubeadm's does not.
    """

    state: AdoptionState | None
    folder: FolderKind
    trust: Held
    leaves: Held
    signer: bool
    verify: bool

    @property
    def home(self) -> bool:
        """Whether every file is as kubeadm left it."""
        return self.state is None

    @property
    def name(self) -> str:
        """A word for the annotation of manifests."""
        return self.state.value if self.state is not None else "kubeadm"

    @property
    def ours(self) -> bool:
        """Whether the certificates in use are the agent's."""
        return self.folder is FolderKind.AGENT


HOME: Final = Arrangement(None, FolderKind.KUBEADM, Held.OLD, Held.OLD, signer=True, verify=False)
"""The machine as kubeadm left it."""


def arrangement(state: AdoptionState) -> Arrangement:
    """Return what a state asks of a machine."""
    trust, leaves = _HELD[TRUSTED[state]], _HELD[LEAVES_OF[state]]
    folder = FolderKind.AGENT if leaves is Held.NEW else FolderKind.BOTH if trust is Held.BOTH else FolderKind.KUBEADM
    return Arrangement(
        state=state,
        folder=folder,
        trust=trust,
        leaves=leaves,
        signer=state in SIGNER_ON,
        # kubeadm's kubelets sign their own: the gate to closed asks that each one serves a certificate of ours, and
        # re-trusting ends the checks before they change back in returning.
        verify=trust is Held.NEW,
    )


def edits(
    component: str, wanted: Arrangement, before: Mapping[str, str], machine: TakenOver, *, signs_only: bool = False
) -> PodEdits:
    """Return what the manifest of a component shall have; `before` are its flags as kubeadm or the user wrote them.

    With `signs_only` nothing changes but how the controller manager signs.
    """
    flags: dict[str, str | None] = {}
    folders: dict[str, str] = {}
    if wanted.home:
        lost = component == "kube-controller-manager" and not wanted.signer
        return PodEdits(dict.fromkeys(_signing_flags(before), "") if lost else {})
    if component == "kube-controller-manager":
        copied = f"{machine.aside}/{SIGNER_FOLDER}"
        for name in _signing_flags(before):
            flags[name] = _signing(before.get(name, ""), machine.directory, copied) if wanted.signer else ""
        if wanted.signer and any((value or "").startswith(f"{copied}/") for value in flags.values()):
            folders[SIGNER_VOLUME] = copied
        if not signs_only and wanted.folder is not FolderKind.KUBEADM:
            # Pods whose TLS library is OpenSSL need the root; Python refuses our issuing CA without it.
            flags[ROOT_CA] = f"{machine.directory}/ca-chain.crt"
    if component == "kube-apiserver" and (
        wanted.verify or (VERIFY in before and wanted.folder is not FolderKind.KUBEADM)
    ):
        flags[VERIFY] = f"{machine.directory}/kubelet-ca.crt"
    if component == "kube-scheduler" and wanted.folder is not FolderKind.KUBEADM:
        # Also before its kubeconfig names files there: the pod must come up whenever the machine is booted.
        folders[SCHEDULER_VOLUME] = f"{machine.directory}/scheduler"
    return PodEdits(flags, folders)


def _signing_flags(before: Mapping[str, str]) -> tuple[str, ...]:
    """Return the flags that name what CSRs are signed with: those of all signers, and those of single ones."""
    # Those of all signers come first.
    return tuple(sorted(signing_flags(before), key=lambda name: name not in (_SIGNING_CERT, _SIGNING_KEY)))


def edited_flags(component: str, flags: Mapping[str, str]) -> dict[str, str | None]:
    """Return those flags of a manifest that some state edits, with their values there; None for one without."""
    names = {
        "kube-controller-manager": (*_signing_flags(flags), ROOT_CA),
        "kube-apiserver": (VERIFY,),
    }.get(component, ())
    return {name: flags.get(name) for name in names}


def own_volumes(volumes: Mapping[str, str]) -> dict[str, str]:
    """Return those volumes of a manifest that only a take-over mounts, with their paths."""
    return {name: path for name, path in volumes.items() if name in (SIGNER_VOLUME, SCHEDULER_VOLUME)}


def _signing(value: str, directory: str, copied: str) -> str:
    """Return the value of a signing flag: the copy in place of kubeadm's own CA; another file stays."""
    own = {f"{directory}/ca.crt": f"{copied}/ca.crt", f"{directory}/ca.key": f"{copied}/ca.key"}
    return own.get(value, value)


def undoing(component: str, before: Mapping[str, str], machine: TakenOver) -> PodEdits:
    """Return what takes every edit of any state out of a manifest, whose flags were `before`."""
    names: dict[str, str | None] = {}
    folders: dict[str, str] = {}
    for state in AdoptionState:
        each = edits(component, arrangement(state), before, machine)
        names |= {name: before.get(name) for name in each.flags}
        folders |= each.folders
    return PodEdits(names, folders)
