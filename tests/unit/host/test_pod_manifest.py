"""Flags, folders and the annotation change in a manifest, and nothing else: back again it is byte for byte the same."""

from __future__ import annotations

import json

import pytest
import yaml

from helpers.kube.kubeadm_manifests import COMPONENTS, manifest
from vaultpki.errors import StoreError
from vaultpki.host import static_pod
from vaultpki.host.pod_manifest import PodEdits, PodManifest, plain

SIGNER = "/etc/kubernetes/vaultpki/signer"
EDITS = PodEdits(
    flags={
        "cluster-signing-cert-file": f"{SIGNER}/ca.crt",
        "cluster-signing-key-file": f"{SIGNER}/ca.key",
        "root-ca-file": "/etc/kubernetes/pki/ca-chain.crt",
        "kubelet-certificate-authority": "/etc/kubernetes/pki/kubelet-ca.crt",
    },
    folders={"vaultpki-signer": SIGNER},
    mark="published-0123456789abcdef",
)
BACK = PodEdits(
    flags={
        "cluster-signing-cert-file": "/etc/kubernetes/pki/ca.crt",
        "cluster-signing-key-file": "/etc/kubernetes/pki/ca.key",
        "root-ca-file": "/etc/kubernetes/pki/ca.crt",
        "kubelet-certificate-authority": None,
    },
    folders={"vaultpki-signer": SIGNER},
)


def test_only_the_lines_of_the_edits_change() -> None:
    before = manifest("kube-controller-manager")
    after = PodManifest(before.encode(), "m").edited(EDITS).decode()
    gone = set(before.splitlines()) - set(after.splitlines())
    assert {line.strip() for line in gone} == {
        "- --cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
        "- --cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
        "- --root-ca-file=/etc/kubernetes/pki/ca.crt",
    }
    spec = yaml.safe_load(after)["spec"]
    assert spec["volumes"][0] == {"hostPath": {"path": SIGNER, "type": "Directory"}, "name": "vaultpki-signer"}
    assert spec["containers"][0]["volumeMounts"][0] == {
        "mountPath": SIGNER,
        "name": "vaultpki-signer",
        "readOnly": True,
    }
    assert PodManifest(after.encode(), "m").flags["kubelet-certificate-authority"].endswith("kubelet-ca.crt")
    assert yaml.safe_load(after)["metadata"]["annotations"] == {"vaultpki/taken-over": "published-0123456789abcdef"}


def back_of(before: bytes) -> PodEdits:
    held = PodManifest(before, "m").flags
    return PodEdits({name: held.get(name) for name in EDITS.flags}, EDITS.folders)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("form", ["block", "json", "crlf", "hooked"])
def test_back_again_it_is_the_same_to_the_byte(component: str, form: str) -> None:
    text = manifest(component)
    if form == "json":
        text = json.dumps(yaml.safe_load(text))
    if form == "crlf":
        text = text.replace("\n", "\r\n")
    before = text.encode()
    after = PodManifest(before, "m").edited(EDITS)
    again = PodManifest(after, "m").edited(PodEdits(EDITS.flags, EDITS.folders, "retired-1"))
    if form == "hooked":
        # A hook of the agent restarts the pod meanwhile.
        again = static_pod.annotated(again, {"etcd-ca": "0123"}, "m") or b""
    assert PodManifest(again, "m").mark == "retired-1"
    assert PodManifest(again, "m").undone(back_of(before)) == before
    assert PodManifest(again, "m").component == component


def test_what_is_so_already_changes_nothing() -> None:
    after = PodManifest(manifest("kube-controller-manager").encode(), "m").edited(EDITS)
    assert PodManifest(after, "m").edited(EDITS) == after


def test_comments_and_flags_of_the_user_stay() -> None:
    before = manifest("kube-controller-manager").replace(
        "    - --use-service-account-credentials=true\n",
        "    - --use-service-account-credentials=true\n    - --v=4  # as the support team asked\n"
        '    - "--feature-gates=A=true"\n',
    )
    after = PodManifest(before.encode(), "m").edited(EDITS).decode()
    assert "    - --v=4  # as the support team asked\n" in after and '    - "--feature-gates=A=true"\n' in after
    assert PodManifest(after.encode(), "m").undone(BACK) == before.encode()


def test_an_empty_flag_turns_a_signer_off() -> None:
    before = manifest("kube-controller-manager").encode()
    off = PodEdits({"cluster-signing-cert-file": "", "cluster-signing-key-file": ""})
    after = PodManifest(before, "m").edited(off)
    assert PodManifest(after, "m").flags["cluster-signing-cert-file"] == ""
    assert b"- --cluster-signing-cert-file=\n" in after


@pytest.mark.parametrize(
    "change",
    [
        (
            "    - --root-ca-file=/etc/kubernetes/pki/ca.crt\n",
            "    - --root-ca-file\n    - /etc/kubernetes/pki/ca.crt\n",
        ),
        ("    - --leader-elect=true\n", "    - --root-ca-file=/etc/a.crt\n"),
        ("kind: Pod\n", "kind: Deployment\n"),
        ("  namespace: kube-system\n", "  namespace: kube-system\n  uid: a\n"),
        ("  namespace: kube-system\n", "  namespace: &n kube-system\n  other: *n\n"),
        ("kind: Pod\n", "kind: [\n"),
    ],
)
def test_an_uncertain_form_is_refused(change: tuple[str, str]) -> None:
    text = manifest("kube-controller-manager").replace(*change)
    with pytest.raises(StoreError, match=r"^m: "):
        PodManifest(text.encode(), "m").edited(EDITS)


def test_what_changes_is_said_before() -> None:
    held = PodManifest(manifest("kube-controller-manager").encode(), "m")
    assert list(EDITS.sentences(held)) == [
        "--cluster-signing-cert-file=/etc/kubernetes/vaultpki/signer/ca.crt instead of /etc/kubernetes/pki/ca.crt",
        "--cluster-signing-key-file=/etc/kubernetes/vaultpki/signer/ca.key instead of /etc/kubernetes/pki/ca.key",
        "--root-ca-file=/etc/kubernetes/pki/ca-chain.crt instead of /etc/kubernetes/pki/ca.crt",
        "--kubelet-certificate-authority=/etc/kubernetes/pki/kubelet-ca.crt",
        "mounts /etc/kubernetes/vaultpki/signer read-only",
    ]


def test_annotations_alone_are_taken_out() -> None:
    before = manifest("kube-scheduler").encode()
    hooked = static_pod.annotated(before, {"kubernetes-ca": "01"}, "m")
    assert hooked is not None and plain(hooked, "m") == before and plain(before, "m") == before
