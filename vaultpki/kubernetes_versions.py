"""Says what differs between the minor versions of Kubernetes 1, and reads the version that a component reports."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

TRIED: Final = (34, 35, 36, 37)
"""The minor versions whose source and programs this table was held against; docs/versions.md says what was run."""

# client-go reads the CA file of a kubeconfig again, and kube-apiserver that of kubelets (transport/ca_rotation.go, gate
# ClientsAllowCARotation, on since it came).
CA_OF_SERVERS: Final = 36
"""From here on clients notice a new CA of the server that they talk to, within `CLIENT_LOOK` seconds."""

# Before, the kubelet checks its clients with the new file at once too, and goes on naming the old CAs in its handshakes
# (pkg/kubelet/kubelet.go, gate ReloadKubeletClientCAFile, on since it came). Some clients then send no certificate.
NAMES_OF_KUBELET: Final = 36
"""From here on the kubelet names the CAs of its new client CA file in its handshakes."""

# Before, the pair of its start stays in its TLS settings, since it gives its files to ListenAndServeTLS (net/http), and
# Go asks the function that reads the new ones only for clients that send a name (crypto/tls, Config.getCertificate).
PAIR_OF_KUBELET: Final = 36
"""From here on the kubelet shows a renewed serving pair to callers by address too."""

KUBEADM_API: Final = "kubeadm.k8s.io/v1beta4"
"""The version of kubeadm's configuration that kubeadm reads from `KUBEADM_FIRST` on."""

# cmd/kubeadm/app/apis/kubeadm. kubeadm 1.37 reads no other.
KUBEADM_FIRST: Final = 31

KUBEADM_KEYS: Final[Mapping[str, tuple[str, int]]] = {
    "rsa-2048": ("RSA-2048", KUBEADM_FIRST),
    "rsa-3072": ("RSA-3072", KUBEADM_FIRST),
    "rsa-4096": ("RSA-4096", KUBEADM_FIRST),
    "ec-p256": ("ECDSA-P256", KUBEADM_FIRST),
    # cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go, EncryptionAlgorithmECDSAP384.
    "ec-p384": ("ECDSA-P384", 34),
}
"""kubeadm's `encryptionAlgorithm` by key type, and the first minor version that knows it."""

# A distribution writes its own build after the three numbers (v1.34.3-eks-1a2b3c, v1.34.3+k3s1), and in the tag of an
# image, which has no `+`, a `-` or `_` for that.
_VERSION: Final = re.compile(r"v1\.(0|[1-9][0-9]{0,2})\.[0-9]{1,4}(?:[-+_][0-9A-Za-z.+_-]{1,64})?")
_SAID: Final = re.compile(r"Kubernetes (\S+)")


def is_version(text: object) -> bool:
    """Return whether this is a version of Kubernetes 1 as a component reports it, such as v1.36.3."""
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


def said(output: str) -> str:
    """Return the version in what a program of Kubernetes prints with `--version`; "" if there is none."""
    found = _SAID.match(output)
    return found[1] if found and is_version(found[1]) else ""


def tagged(image: str) -> str:
    """Return the version in the tag of an image; "" if it has none, as where only a digest names the image."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    return tag if is_version(tag) else ""


def minor(version: str) -> int | None:
    """Return the minor version of a version of Kubernetes 1; None for anything else."""
    found = _VERSION.fullmatch(version)
    return int(found[1]) if found else None


def minors(versions: Mapping[str, str]) -> dict[str, int]:
    """Return the minor versions by the same names, without those that are none."""
    return {name: number for name, text in versions.items() if (number := minor(text)) is not None}


def oldest(components: Collection[str], known: Mapping[str, int]) -> str:
    """Return in words the oldest version that one of these components has; "" if that is not known of any."""
    found = [known[each] for each in components if each in known]
    return f"Kubernetes 1.{min(found)}" if found else ""
