"""Finds where the agent's files lie on a machine that is taken over: aside, or in the place of kubeadm's.

That is told by the disk alone, so it is right after every kill. Folders of the agent have a hidden folder.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import Final

from vaultpki.model import AgentConfig, TakenOver
from vaultpki.places import HIDDEN_FOLDER, KUBECONFIGS, KUBELET

ASIDE_FOLDER: Final = "agent"
"""The name of the agent's own folder while it lies aside."""

KUBELET_CONF: Final = "kubelet.conf"

_LARGEST: Final = 64 * 1024


def located(config: AgentConfig) -> AgentConfig:
    """Return the configuration with the folders in which the agent's files lie now; as it is without a take-over.

    The kubeconfigs are the agent's once that of the kubelet names its files; until then it has no folder for them.
    """
    machine = config.taken_over
    if machine is None:
        return config
    directory = machine.directory if in_place(machine.directory) else f"{machine.aside}/{ASIDE_FOLDER}"
    kubelet = machine.kubelet if in_place(machine.kubelet) else f"{machine.kubelet_aside}/{ASIDE_FOLDER}"
    folders = {KUBELET: kubelet}
    if directory == machine.directory and _kubeconfigs_are_ours(machine):
        folders[KUBECONFIGS] = machine.kubeconfigs
    return replace(config, directory=directory, folders=folders)


def final(config: AgentConfig) -> AgentConfig:
    """Return the configuration with the folders in which the agent's files lie in the end."""
    machine = config.taken_over
    if machine is None:
        return config
    folders = {KUBELET: machine.kubelet, KUBECONFIGS: machine.kubeconfigs}
    return replace(config, directory=machine.directory, folders=folders)


def in_place(folder: str) -> bool:
    """Return whether a folder is the agent's."""
    return os.path.isdir(f"{folder}/{HIDDEN_FOLDER}")


def _kubeconfigs_are_ours(machine: TakenOver) -> bool:
    with contextlib.suppress(OSError), open(f"{machine.kubeconfigs}/{KUBELET_CONF}", "rb") as file:
        return f"{machine.kubelet}/kubelet-client.crt".encode() in file.read(_LARGEST)
    return False
