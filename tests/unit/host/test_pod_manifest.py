"""Flags, folders and the annotation change in a manifest, and nothing else: back again it is byte for byte the same."""

from __future__ import annotations

import json
import re

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


def two_items(text: str) -> str:
    """Each flag and its value as two items."""

    def apart(found: re.Match[str]) -> str:
        dash, flag, value = found.groups()
        return f"{dash}{flag}\n{dash}{value if value.startswith('/') else json.dumps(value)}"

    return re.sub(r"(?m)^( *- )(--[a-z-]+)=(.*)$", apart, text)


def with_sidecar(text: str, *, first: bool) -> str:
    """A second container, which names the same flags and volumes."""
    lines = (
        "  - {name: logs, image: logs, args: [--root-ca-file, /a], volumeMounts: [{name: k8s-certs, mountPath: /a}]}\n"
    )
    place = "  containers:\n" if first else "  hostNetwork: true\n"
    assert text.count(place) == 1
    return text.replace(place, f"{place}{lines}" if first else f"{lines}{place}")


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("form", ["block", "json", "crlf", "hooked", "two items", "sidecar first", "sidecar last"])
def test_back_again_it_is_the_same_to_the_byte(component: str, form: str) -> None:
    text = manifest(component)
    if form == "two items":
        text = two_items(text)
    if form.startswith("sidecar"):
        text = with_sidecar(text, first=form.endswith("first"))
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
            "    - --root-ca-file\n",
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


def test_a_flag_and_its_value_stay_two_items() -> None:
    before = two_items(manifest("kube-controller-manager"))
    held = PodManifest(before.encode(), "m")
    assert held.flags == PodManifest(manifest("kube-controller-manager").encode(), "m").flags
    after = held.edited(EDITS).decode()
    assert "    - --root-ca-file\n    - /etc/kubernetes/pki/ca-chain.crt\n" in after
    off = PodManifest(after.encode(), "m").edited(PodEdits({"root-ca-file": "", "cluster-signing-key-file": None}))
    assert '    - --root-ca-file\n    - ""\n' in off.decode() and b"cluster-signing-key-file" not in off
    assert f"{SIGNER}/ca.key" not in off.decode() and PodManifest(off, "m").flags["root-ca-file"] == ""


def test_a_new_flag_comes_between_no_flag_and_its_value() -> None:
    pod = yaml.safe_load(manifest("kube-scheduler"))
    pod["spec"]["containers"][0] |= {"command": ["kube-scheduler", "--v"], "args": ["2"]}
    after = PodManifest(json.dumps(pod).encode(), "m").edited(PodEdits({"root-ca-file": "/a"}))
    assert PodManifest(after, "m").flags == {"v": "2", "root-ca-file": "/a"}


@pytest.mark.parametrize("first", [True, False])
def test_other_containers_stay_as_they_are(first: bool) -> None:
    text = with_sidecar(manifest("kube-controller-manager"), first=first)
    after = PodManifest(text.encode(), "m").edited(EDITS)
    before, now = (yaml.safe_load(each)["spec"]["containers"] for each in (text, after))
    other = 0 if first else 1
    assert now[other] == before[other] and now[1 - other] != before[1 - other]


def test_which_container_is_the_components() -> None:
    pod = yaml.safe_load(manifest("kube-scheduler"))
    (own,) = pod["spec"]["containers"]

    def component(*containers: dict[str, object]) -> str:
        pod["spec"]["containers"] = list(containers)
        return PodManifest(json.dumps(pod).encode(), "m").component

    renamed = {**own, "name": "mine"}
    assert component({"name": "kube-apiserver", "command": ["sh"]}, renamed) == "kube-scheduler"
    # Somebody proves another version beside it.
    assert component(renamed, own) == "kube-scheduler"
    with pytest.raises(
        StoreError, match=r"^m: the pod has 2 containers, and several of them run a component\. Let one"
    ):
        component(own, own)
    with pytest.raises(StoreError, match="and none of them runs a component"):
        component({"name": "a"}, {"name": "b"})


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
