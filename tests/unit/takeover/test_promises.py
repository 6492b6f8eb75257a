"""What is promised of the kubelet's own files, which kubeadm and people write too."""

from __future__ import annotations

import pytest

from vaultpki.errors import StoreError
from vaultpki.takeover import settings

PATH = "/var/lib/kubelet/config.yaml"


@pytest.mark.parametrize("data", [b"- kind: KubeletConfiguration\n", b"text\n", b"", b"a: &x 1\nb: *x\n"])
def test_what_is_no_configuration_of_a_kubelet_stays_as_it_is(data: bytes) -> None:
    with pytest.raises(StoreError, match=f"{PATH}: it is not the kubelet's configuration"):
        settings.with_values(data, {"rotateCertificates": False}, PATH)


@pytest.mark.parametrize("args", [b"", b"--container-runtime-endpoint=unix:///run/c.sock --v=2"])
def test_a_flag_is_added_once_and_taken_back(args: bytes) -> None:
    """A run that is repeated after a kill writes it no second time."""
    data = b'# kubeadm\nKUBELET_KUBEADM_ARGS="' + args + b'"\n'
    once = settings.with_flag(data, PATH)
    assert once != data and args in once
    assert settings.with_flag(once, PATH) == once
    assert settings.without_flag(once) == data
