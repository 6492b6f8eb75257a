"""Merges what a cluster of Vault's CAs needs into kubeadm's own settings of a cluster that was taken over; pure.

`kubeadm upgrade` writes manifests from the ConfigMap `kubeadm-config`, and a kubelet that joins gets its configuration
from `kubelet-config`. What a person has written there stays.
"""

from __future__ import annotations

from typing import Any

from vaultpki.kubeadm import configuration
from vaultpki.kubeadm.configuration import KubeadmFolders
from vaultpki.model import Cluster
from vaultpki.values import yaml_text, yaml_tree

SETTINGS = "ClusterConfiguration"
"""The key in `kubeadm-config`."""

KUBELET_DEFAULTS = "kubelet"
"""The key in `kubelet-config`."""

AFTERWARDS = (
    (
        "an admin.conf that was issued while cluster.yaml had `ca.also_trust` trusts the old CAs still. After that "
        "apply make it and its copies anew: `vaultpki issue admin --dir DIR`"
    ),
    (
        "`kubeadm certs check-expiration` fails from now on, since kubeconfigs name their pair by its path; `vaultpki "
        "status` on a machine says when each certificate ends"
    ),
)
"""What a person must know of kubeadm's commands and files once a cluster is adopted, as sentences."""

_PAIR = ("tlsCertFile", "tlsPrivateKeyFile")

# kubeadm writes them empty where it finds no key of a CA (cmd/kubeadm/app/phases/controlplane/manifests.go).
_SIGNING = ("cluster-signing-cert-file", "cluster-signing-key-file")


def settings(text: str, cluster: Cluster, places: KubeadmFolders) -> str:
    """Return kubeadm's settings of the cluster with ours; the same text if they are right. SpecError if not YAML."""
    found = yaml_tree.typed_mapping(text, "kubeadm-config")
    made = dict(found)
    # What it says of etcd stays: that may be one that others run, of which cluster.yaml says nothing.
    for part, ours in configuration.components(cluster, places).items():
        made[part] = _component(found.get(part), ours)
    manager = made["controllerManager"]
    manager["extraArgs"] = _without(manager["extraArgs"], _SIGNING)
    return text if made == found else yaml_text.dump(made)


def defaults(text: str, places: KubeadmFolders, *, tokens: bool = False) -> str:
    """Return the configuration of kubelets that join with ours; otherwise as `settings`.

    With `tokens` nodes join by it that have no agent, and so no pair of its own; the others have patches.
    """
    found = kept = yaml_tree.typed_mapping(text, "kubelet-config")
    (ours,) = configuration.patches(places).values()
    if tokens:
        kept = {key: value for key, value in found.items() if key not in _PAIR or value != ours[key]}
        ours = {key: value for key, value in ours.items() if key not in _PAIR} | configuration.BY_REQUESTS
    made = _merged(kept, ours)
    return text if made == found else yaml_text.dump(made)


def _component(found: Any, ours: dict[str, Any]) -> dict[str, Any]:
    made = dict(found) if isinstance(found, dict) else {}
    for key, value in ours.items():
        if key == "extraArgs":
            made[key] = _args(made.get(key), value)
        elif key == "certSANs":
            made[key] = list(dict.fromkeys([*(made.get(key) or []), *value]))
        else:
            made[key] = _named(made.get(key), value)
        if not made[key] and key not in (found or {}):
            del made[key]
    return made


def _args(found: Any, ours: list[dict[str, str]]) -> Any:
    """Return arguments with ours: a list of names and values since v1beta4, a mapping before."""
    if isinstance(found, dict):
        return {**found, **{each["name"]: each["value"] for each in ours}}
    return _named(found, ours)


def _named(found: Any, ours: list[dict[str, Any]]) -> list[Any]:
    """Return a list of objects with names; ours take the place of those of the same name."""
    by_name = {each["name"]: each for each in ours}
    held = [each for each in found or [] if isinstance(each, dict)]
    kept = [by_name.pop(each.get("name"), each) for each in held]
    return [*kept, *by_name.values()]


def _without(args: Any, names: tuple[str, ...]) -> Any:
    if isinstance(args, dict):
        return {name: value for name, value in args.items() if name not in names}
    return [each for each in args if each.get("name") not in names]


def _merged(found: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    made = dict(found)
    for key, value in ours.items():
        below = made.get(key)
        made[key] = _merged(below if isinstance(below, dict) else {}, value) if isinstance(value, dict) else value
    return made
