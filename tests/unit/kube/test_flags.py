"""Which flags of components are wrong for the files of a node, and that those of the page are right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from vaultpki.kube import flags
from vaultpki.kube.flags import FLAGS, Expect, findings
from vaultpki.layout import DIRECTORY, node_folders
from vaultpki.places import PKI, Layout, inner_folders

PAGE = Path(__file__).parents[3] / "docs/components.md"
DOCUMENT = {PKI: DIRECTORY}
KUBEADM = {PKI: DIRECTORY, **inner_folders(DIRECTORY), **node_folders(DIRECTORY)}


def of_page(component: str) -> list[str]:
    """The flags that the page has for a component."""
    block = re.search(rf"```text\n{component}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return block[1].split()


def problems(component: str, arguments: Sequence[str], layout: Layout = Layout.DOCUMENT) -> list[str]:
    paths = DOCUMENT if layout is Layout.DOCUMENT else KUBEADM
    return [each.problem for each in findings(component, arguments, layout, paths)]


@pytest.mark.parametrize("component", ["kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler"])
def test_the_flags_of_the_page_are_right(component: str) -> None:
    assert problems(component, of_page(component)) == []


def test_every_flag_of_the_table_is_on_the_page() -> None:
    for flag in FLAGS:
        assert any(word.startswith(f"--{flag.name}=") for word in of_page(flag.component)), flag


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: f"{flag.component}-{flag.name}")
def test_another_file_is_found(flag: flags.Flag) -> None:
    arguments = [
        f"--{flag.name}=/etc/other.pem" if word.startswith(f"--{flag.name}=") else word
        for word in of_page(flag.component)
    ]
    (found,) = problems(flag.component, arguments)
    assert found.startswith(f"--{flag.name} is /etc/other.pem: ")


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.missing], ids=lambda flag: flag.name)
def test_a_missing_flag_is_found(flag: flags.Flag) -> None:
    arguments = [word for word in of_page(flag.component) if not word.startswith(f"--{flag.name}=")]
    (found,) = problems(flag.component, arguments)
    assert found == f"--{flag.name} is not set, so {flag.missing}"


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.expect is Expect.ISSUING], ids=lambda flag: flag.name)
def test_the_root_where_clients_are_checked_is_found(flag: flags.Flag) -> None:
    arguments = [
        word.replace("-ca.crt", "-ca-chain.crt") if word.startswith(f"--{flag.name}=") else word
        for word in of_page(flag.component)
    ]
    (found,) = problems(flag.component, arguments)
    assert found.endswith("the root in this file lets in the clients of every CA of the cluster")


@pytest.mark.parametrize(
    ("component", "without", "further", "expected"),
    [
        ("etcd", "--client-cert-auth", (), "--client-cert-auth is not set, so it lets in any client"),
        ("etcd", "--client-cert-auth", ("--client-cert-auth=false",), "lets in any client"),
        ("etcd", "--peer-client-cert-auth", (), "lets in any peer"),
        ("kube-apiserver", "--requestheader-allowed-names", (), "may speak for any user"),
        ("kube-apiserver", "--requestheader-allowed-names", ("--requestheader-allowed-names=",), "speak for any user"),
        ("kube-apiserver", "--authorization-mode", (), "--authorization-mode is AlwaysAllow"),
        ("kube-apiserver", "--authorization-mode", ("--authorization-mode=RBAC",), "other rights than they should"),
        (
            "kube-controller-manager",
            "-",
            ("--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",),
            "a CA outside Vault",
        ),
        (
            "kube-controller-manager",
            "-",
            ("--cluster-signing-kubelet-client-cert-file=/ca.crt", "--cluster-signing-kubelet-client-key-file=/ca.key"),
            "a CA outside Vault",
        ),
    ],
)
def test_what_decides_who_is_let_in_is_found(
    component: str, without: str, further: tuple[str, ...], expected: str
) -> None:
    kept = [word for word in of_page(component) if word.partition("=")[0] != without]
    (found,) = problems(component, [*kept, *further])
    assert expected in found


def test_flags_may_have_one_dash_and_a_value_of_their_own() -> None:
    words = [part for word in of_page("etcd") for part in word.replace("--", "-", 1).split("=")]
    assert problems("etcd", words) == []


def test_kubeadms_files_are_right_in_its_layout() -> None:
    etcd = [
        "--client-cert-auth=true",
        "--peer-client-cert-auth=true",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
    ]
    assert problems("etcd", etcd, Layout.KUBEADM) == []
    assert len(problems("etcd", etcd, Layout.DOCUMENT)) == 6
    (found,) = problems("kube-controller-manager", ["--root-ca-file=/etc/kubernetes/pki/ca.crt"], Layout.KUBEADM)
    assert found.endswith("pods whose TLS library is OpenSSL need the root in this file")


def test_a_signer_that_has_no_files_signs_nothing() -> None:
    """So does kubeadm tell kube-controller-manager that the CA is elsewhere."""
    kept = of_page("kube-controller-manager")
    assert (
        problems("kube-controller-manager", [*kept, "--cluster-signing-cert-file=", "--cluster-signing-key-file="])
        == []
    )


def test_a_file_of_authorizers_stands_in_place_of_the_mode() -> None:
    kept = [word for word in of_page("kube-apiserver") if not word.startswith("--authorization-mode=")]
    assert problems("kube-apiserver", [*kept, "--authorization-config=/etc/kubernetes/authorization.yaml"]) == []
    (found,) = problems("kube-apiserver", [*kept, "--authorization-config="])
    assert found.startswith("--authorization-mode is AlwaysAllow")


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["Node", "RBAC"], ""),
        (["Webhook", "RBAC", "Node", "Webhook"], ""),
        (["RBAC"], "has the types RBAC, so certificates give other rights than they should"),
        (["Node", "RBAC", "AlwaysAllow"], "has the types Node,RBAC,AlwaysAllow, so"),
        ([], "has the types none, so"),
    ],
)
def test_the_types_of_authorizers_are_checked(types: list[str], expected: str) -> None:
    configuration = {"kind": "AuthorizationConfiguration", "authorizers": [{"type": each} for each in types]}
    assert expected in "".join(each.problem for each in flags.authorization_findings(configuration))
    assert bool(expected) == bool(list(flags.authorization_findings(configuration)))


@pytest.mark.parametrize("configuration", [{}, {"authorizers": "RBAC"}, {"authorizers": ["RBAC", None]}])
def test_a_file_without_authorizers_is_no_mode(configuration: dict[str, object]) -> None:
    assert list(flags.authorization_findings(configuration))
