"""How a static pod's manifest is changed: by one annotation, at one place, with all else as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from vaultpki.errors import StoreError
from vaultpki.host import static_pod

# As kubeadm 1.36 writes it (`kubeadm init phase etcd local`, `... control-plane controller-manager`), shortened.
ETCD_YAML = """\
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.11:2379
  labels:
    component: etcd
    tier: control-plane
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --trusted-ca-file=/etc/kubernetes/pki/etcd-ca.crt
    image: registry.example.com/etcd:3.6.6-0
    name: etcd
  hostNetwork: true
status: {}
"""
MANAGER_YAML = """\
apiVersion: v1
kind: Pod
metadata:
  labels:
    component: kube-controller-manager
    tier: control-plane
  name: kube-controller-manager
  namespace: kube-system
spec:
  containers: []
status: {}
"""
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "etcd", "annotations": {"a": "b"}}, "spec": {}}
CHANGE = {"etcd-ca": "4f1c9a0e" * 8}
VALUE = "etcd-ca=4f1c9a0e4f1c9a0e"

MANIFESTS = {
    "kubeadm": ETCD_YAML,
    "no annotations": MANAGER_YAML,
    "older kubeadm": MANAGER_YAML.replace("metadata:\n", "metadata:\n  creationTimestamp: null\n"),
    "empty annotations": MANAGER_YAML.replace("  labels:", "  annotations:\n  labels:"),
    "empty annotations, said": MANAGER_YAML.replace("  labels:", "  annotations: ~ # none\n  labels:"),
    "annotations in braces": MANAGER_YAML.replace("  labels:", "  annotations: {}\n  labels:"),
    "more in braces": MANAGER_YAML.replace("  labels:", "  annotations: {a: b,\n    c: 'd'}\n  labels:"),
    "comments": "# top\n---\n"
    + ETCD_YAML.replace("annotations:\n", "annotations: # here\n    # and here\n\n")
    + "# end",
    "deep indent": ETCD_YAML.replace("    kubeadm", "            kubeadm"),
    "other line ends": ETCD_YAML.replace("\n", "\r\n"),
    "no last line end": ETCD_YAML.rstrip("\n"),
    "mark of order": "\ufeff" + ETCD_YAML,
    "beyond ASCII": ETCD_YAML.replace("metadata:", "# für etcd \U0001f511\nmetadata:"),
    "json": json.dumps(POD),
    "json, indented": json.dumps(POD, indent=4) + "\n",
    "json, tabs": json.dumps(POD, indent="\t"),
    "json, nothing there": json.dumps({**POD, "metadata": {"name": "etcd"}}),
    "json, empty": json.dumps({**POD, "metadata": {"annotations": {}, "name": "etcd"}}, indent=2),
    "json, null": json.dumps({**POD, "metadata": {"annotations": None, "name": "etcd"}}),
}


def annotated(text: str, changes: Mapping[str, str] = CHANGE) -> str | None:
    made = static_pod.annotated(text.encode(), changes, "/m/etcd.yaml")
    return None if made is None else made.decode()


def parsed(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else yaml.safe_load(text)


def held(text: str) -> Any:
    return parsed(text)["metadata"]["annotations"]


@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_gets_the_annotation_and_keeps_every_byte_of_its_own(text: str) -> None:
    made = annotated(text)
    assert made is not None
    before, after = parsed(text), parsed(made)
    assert after["metadata"]["annotations"].pop(static_pod.ANNOTATION) == VALUE
    before["metadata"]["annotations"] = before["metadata"].get("annotations") or {}
    assert after == before
    start = next(i for i, (a, b) in enumerate(zip(text, made, strict=False)) if a != b)
    put_in = len(made) - len(text)
    said_nothing = "~" if "~ #" in text else "null" if '"annotations": null' in text else ""
    assert text[:start] + text[start + len(said_nothing) :] == made[:start] + made[start + put_in + len(said_nothing) :]
    assert ("\r\n" in text) == ("\r\n" in made) and made.count("\n") - made.count("\r\n") == (
        0 if "\r\n" in text else made.count("\n")
    )
    assert annotated(made) is None


def test_the_line_of_kubeadms_manifests_reads_well() -> None:
    made = annotated(ETCD_YAML)
    assert made is not None
    assert made.splitlines()[3:6] == [
        "  annotations:",
        f'    "vaultpki/restarted-for": "{VALUE}"',
        "    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.11:2379",
    ]
    made = annotated(MANAGER_YAML)
    assert made is not None
    assert made.splitlines()[2:6] == [
        "metadata:",
        "  annotations:",
        f'    "vaultpki/restarted-for": "{VALUE}"',
        "  labels:",
    ]


@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS)
def test_the_next_change_replaces_the_value_alone(text: str) -> None:
    first = annotated(text)
    assert first is not None
    second = annotated(first, {"etcd-ca": "ff" * 32})
    assert second == first.replace(VALUE, "etcd-ca=ffffffffffffffff")


def test_each_key_keeps_its_own_change_so_that_none_restarts_for_another() -> None:
    made = annotated(ETCD_YAML, {"etcd-ca": "1" * 64, "etcd-server": "2" * 64})
    assert made is not None
    assert held(made)[static_pod.ANNOTATION] == f"etcd-ca={'1' * 16},etcd-server={'2' * 16}"
    assert annotated(made, {"etcd-ca": "1" * 64}) is None
    again = annotated(made, {"etcd-ca": "3" * 64})
    assert again is not None
    assert held(again)[static_pod.ANNOTATION] == f"etcd-ca={'3' * 16},etcd-server={'2' * 16}"


@pytest.mark.parametrize(
    "there", ["''", "", "hello", "'a=b=c,,='", "17", "|\n      x", ">-\n      x\n      y", "'x\n\n y'"]
)
def test_what_somebody_wrote_there_is_no_obstacle(there: str) -> None:
    text = ETCD_YAML.replace("    kubeadm", f"    vaultpki/restarted-for: {there}\n    kubeadm")
    made = annotated(text)
    assert made is not None
    before, after = parsed(text), parsed(made)
    assert VALUE in after["metadata"]["annotations"].pop(static_pod.ANNOTATION)
    del before["metadata"]["annotations"][static_pod.ANNOTATION]
    assert before == after
    assert annotated(made) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not the manifest of a pod"),
        ("[]", "not the manifest of a pod"),
        ("kind: Deployment\nmetadata: {name: a}\n", "not the manifest of a pod"),
        ("kind: Pod\n", "not the manifest of a pod"),
        ("kind: Pod\nmetadata:\n", "not the manifest of a pod"),
        ("kind: Pod\nmetadata: {annotations: [a]}\n", "not the manifest of a pod"),
        (ETCD_YAML + "---\n" + MANAGER_YAML, "not YAML or JSON of one pod"),
        (ETCD_YAML.replace("metadata:", "metadata: ]"), "not YAML or JSON of one pod"),
        (ETCD_YAML.replace("  name: etcd", "\tname: etcd"), "not YAML or JSON of one pod"),
        ("a: &a [*a]\nkind: Pod\nmetadata: {name: x}\n" + "x: " + "[" * 5000, "not YAML or JSON of one pod"),
        (ETCD_YAML.replace("  name: etcd", "  name: etcd\n  uid: 0a1b"), "metadata.uid"),
        ("x: &a {b: c}\nkind: Pod\nmetadata: {name: a, annotations: *a}\n", "once by hand"),
        ("x: &a\n  b: c\nkind: Pod\nmetadata:\n  name: a\n  annotations: *a\n", "once by hand"),
        ("kind: Pod\nmetadata: !!map {name: a}\n", "once by hand"),
        ("kind: Pod\nmetadata:\n  ? name\n  : a\n", "once by hand"),
        ("kind: Pod\nmetadata: {}\nmetadata: {name: a}\n", "once by hand"),
    ],
)
def test_a_manifest_that_cannot_be_changed_safely_is_left_and_named(text: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as caught:
        annotated(text)
    assert str(caught.value).startswith("/m/etcd.yaml: ") and str(caught.value).isprintable()


def test_no_manifest_at_all() -> None:
    with pytest.raises(StoreError, match="not YAML or JSON"):
        static_pod.annotated(b"\xff\xfe\x00", CHANGE, "/m/etcd.yaml")


def test_where_a_static_pod_lies() -> None:
    assert static_pod.manifest("etcd") == "/etc/kubernetes/manifests/etcd.yaml"
    assert static_pod.manifest("/srv/pods/e.json") == "/srv/pods/e.json"
