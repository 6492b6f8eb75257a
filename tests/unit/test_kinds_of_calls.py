"""Which system calls count as the same for the trials of `make conformance`."""

from __future__ import annotations

import pytest

from helpers.faults.system_calls import Call, of_each_kind

PKI = "/node/pki"
PAIR, OTHER = f"{PKI}/.vaultpki/kubelet.06f80f9972d5e518", f"{PKI}/.vaultpki/etcd-peer.7a80b74849d3cfaa"


def calls(*lines: str) -> list[Call]:
    return [Call(line.partition("(")[0], number, line) for number, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"fsync(8<{PAIR}/kubelet.key>) = 0", f"fsync(9<{OTHER}/etcd-peer.key>) = 0"),
        (f'write(8<{PAIR}/kubelet.crt>, "MIIC"..., 1025) = 1025', f'write(8<{PAIR}/kubelet.crt>, "AA"..., 7) = 7'),
        (
            f'renameat(4<{PKI}/.vaultpki>, "kubelet.06f80f9972d5e518.link", 4<{PKI}/.vaultpki>, "kubelet") = 0',
            f'renameat(4<{PKI}/.vaultpki>, "etcd-peer.7a80b74849d3cfaa.link", 4<{PKI}/.vaultpki>, "etcd-peer") = 0',
        ),
        (f'symlinkat("data", 8<{PAIR}>, "link-1") = 0', f'symlinkat("data", 8<{OTHER}>, "link-24") = 0'),
    ],
)
def test_what_is_done_for_every_pair_is_of_one_kind(one: str, other: str) -> None:
    first, second, third = calls(one, other, one)
    assert of_each_kind([first, second, third]) == [first, third]


def test_other_places_and_other_calls_are_of_another_kind() -> None:
    points = calls(
        f"fsync(8<{PAIR}/kubelet.key>) = 0",
        f"fsync(8<{PAIR}/kubelet.crt>) = 0",
        f"fsync(8<{PAIR}>) = 0",
        f"fsync(8<{PKI}/.vaultpki>) = 0",
        f"fsync(8<{PKI}>) = 0",
        f"fchmod(8<{PAIR}/kubelet.crt>, 0644) = 0",
        f'unlinkat(4<{PAIR}>, "kubelet.key", 0) = 0',
        f'unlinkat(4<{PAIR}>, "kubelet.crt", 0) = 0',
        f'symlinkat(".vaultpki/kubelet/kubelet.key", 3<{PKI}>, "kubelet.key") = 0',
    )
    assert of_each_kind(points) == points
