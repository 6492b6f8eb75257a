"""Changes kubeconfigs and the kubelet's settings as text, and takes the changes back; what is not named stays; pure."""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from vaultpki.errors import StoreError
from vaultpki.model import TakenOver
from vaultpki.pki import x509
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

_DATA: Final = "certificate-authority-data"
_FLAG: Final = "--rotate-certificates=false"
_ARGS: Final = re.compile(rb'(?m)^(KUBELET_KUBEADM_ARGS=")([^"\n]*)(")')

SettingValue = str | bool


def with_cas(data: bytes, cas: bytes, own: Collection[str], path: str) -> bytes:
    """Return a kubeconfig that trusts exactly the certificates `cas` (PEM) where it held a CA of this cluster itself.

    `own` are the SHA-256 of the cluster's CAs. An entry that names a file with CAs stays as it is, and so does one with
    none of these CAs: people merge kubeconfigs, and whoever calls this cluster by another CA is refused already. Raises
    StoreError, about `path`, if it cannot be changed safely.
    """
    try:
        text = YamlText(data)
        wanted = copy.deepcopy(text.value)
        value = base64.b64encode(cas).decode()
        changes = []
        for index, entry in enumerate(_clusters(wanted)):
            scalar = text.at("clusters", index, "cluster", _DATA)
            if scalar is not None and entry[_DATA] != value and _is_own(entry, own):
                changes.append(text.replaced(scalar, value))
                entry[_DATA] = value
        return text.apply(changes, wanted) if changes else data
    except (UnsafePlace, AttributeError, KeyError, TypeError):
        raise StoreError(f"{path}: it is not a kubeconfig as kubeadm writes it; write it anew with kubeadm") from None


def cas_of(data: bytes, own: Collection[str] | None = None) -> bytes:
    """Return the CAs that a kubeconfig holds itself, as PEM; empty if it holds none, or is no kubeconfig.

    With `own`, as in `with_cas`, only those of this cluster's entries count.
    """
    try:
        entries = _clusters(YamlText(data).value)
        found = [_held(entry) for entry in entries if own is None or _is_own(entry, own)]
    except (UnsafePlace, AttributeError, KeyError, TypeError, binascii.Error, ValueError):
        return b""
    # Several entries may be of one cluster.
    return b"".join(dict.fromkeys(found))


def _held(entry: Mapping[str, Any]) -> bytes:
    return base64.b64decode(entry.get(_DATA) or "", validate=True)


def _is_own(entry: Mapping[str, Any], own: Collection[str]) -> bool:
    """Return whether an entry of a kubeconfig holds a CA of this cluster."""
    with contextlib.suppress(binascii.Error, ValueError, TypeError):
        return any(facts.fingerprint in own for facts in x509.readable(_held(entry).decode("ascii", "replace")))
    return False


def _clusters(value: Any) -> list[dict[str, Any]]:
    found = value.get("clusters") if isinstance(value, dict) and value.get("kind") == "Config" else None
    if not isinstance(found, list):
        raise UnsafePlace("no kubeconfig")
    return [entry["cluster"] for entry in found]


def kubelet_values(machine: TakenOver) -> dict[str, SettingValue]:
    """Return what the settings of a kubelet say that uses our pairs (kubelet.config.k8s.io/v1beta1)."""
    return {
        "rotateCertificates": False,
        "serverTLSBootstrap": False,
        "tlsCertFile": f"{machine.kubelet}/kubelet.crt",
        "tlsPrivateKeyFile": f"{machine.kubelet}/kubelet.key",
    }


def with_values(data: bytes, values: Mapping[str, SettingValue | None], path: str) -> bytes:
    """Return settings of a kubelet with these values; None takes a key out.

    Raises StoreError, about `path`, if they cannot be changed safely.
    """
    try:
        text = YamlText(data)
        wanted = copy.deepcopy(text.value)
        changes = []
        for key, value in values.items():
            scalar = text.at(key)
            if value is None and scalar is not None:
                changes.append(text.without_entry(text.root, key))
                del wanted[key]
            elif value is not None and scalar is None:
                changes.append(text.entry(text.root, key, value))
                wanted[key] = value
            elif value is not None and wanted[key] != value:
                changes.append(text.replaced(scalar, value))
                wanted[key] = value
        return text.apply(changes, wanted) if changes else data
    except (UnsafePlace, AttributeError, KeyError, TypeError):
        raise StoreError(f"{path}: it is not the kubelet's configuration as kubeadm writes it") from None


def values_of(data: bytes) -> dict[str, Any]:
    """Return the settings; empty if they cannot be read."""
    try:
        found = YamlText(data).value
    except UnsafePlace:
        return {}
    return found if isinstance(found, dict) else {}


def with_flag(data: bytes, path: str) -> bytes:
    """Return kubeadm-flags.env with the flag that stops the kubelet's own renewal, whatever kubeadm writes elsewhere.

    kubeadm sets `rotateCertificates: true` whenever it writes the kubelet's configuration
    (cmd/kubeadm/app/componentconfigs/kubelet.go). Raises StoreError if it is not kubeadm's file.
    """
    found = _ARGS.search(data)
    if found is None:
        raise StoreError(f'{path}: it has no line KUBELET_KUBEADM_ARGS="...", as kubeadm writes it')
    words = found[2].split(b" ")
    if _FLAG.encode() in words:
        return data
    args = f"{_FLAG} ".encode() + found[2] if found[2] else _FLAG.encode()
    return data[: found.start(2)] + args + data[found.end(2) :]


def without_flag(data: bytes) -> bytes:
    """Return kubeadm-flags.env without that flag."""
    found = _ARGS.search(data)
    if found is None:
        return data
    args = re.sub(rf"(?:^|(?<= )){re.escape(_FLAG)}(?: |$)".encode(), b"", found[2], count=1)
    return data[: found.start(2)] + args + data[found.end(2) :]
