"""What `verify --live` reads from an API server: each part for itself, by GET alone, and bounded."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from helpers.kube import answering_api
from helpers.kube.answering_api import Api, items
from vaultpki.errors import Unavailable, VaultpkiError
from vaultpki.kube import running as kube_live
from vaultpki.kube.cluster import Copied, LiveCluster

CA = trustme.CA()
PEM = "-----BEGIN CERTIFICATE-----\n"


def values() -> dict[str, Any]:
    admission = "/apis/admissionregistration.k8s.io/v1"
    system = "/api/v1/namespaces/kube-system"
    hook = {"name": "one", "clientConfig": {"caBundle": base64.b64encode(PEM.encode()).decode()}}
    return {
        "/api/v1/nodes": items({"metadata": {"name": "w-1"}, "status": {}}),
        "/api/v1/namespaces": items({"metadata": {"name": "default"}}),
        "/api/v1/configmaps": items(
            {"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": PEM}}
        ),
        f"{system}/pods": items(),
        f"{system}/configmaps/extension-apiserver-authentication": {
            "data": {"client-ca-file": PEM, "requestheader-allowed-names": '["front-proxy-client"]'}
        },
        f"{admission}/validatingwebhookconfigurations": items({"metadata": {"name": "v"}, "webhooks": [hook]}),
        f"{admission}/mutatingwebhookconfigurations": items({"metadata": {"name": "m"}, "webhooks": [hook]}),
        "/apis/apiregistration.k8s.io/v1/apiservices": items({"metadata": {"name": "v1."}, "spec": {}}),
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions": items(),
        "/api/v1/nodes/w-1/proxy/configz": {"kubeletconfig": {"readOnlyPort": 0}},
    }


@pytest.fixture
def api() -> Iterator[Api]:
    with answering_api.serving(values(), CA.issue_cert("127.0.0.1").configure_cert) as server:
        yield server


def read(api: Api, folder: Path, *, seconds: float = 60) -> LiveCluster:
    return kube_live.read(answering_api.access(api, folder, CA.cert_pem.bytes()), time.monotonic() + seconds)


def test_all_parts_are_read_by_get_alone(api: Api, tmp_path: Path) -> None:
    found = read(api, tmp_path)
    assert found.unread == {}
    assert [node.name for node in found.nodes] == ["w-1"] and found.namespaces == ("default",)
    assert [(copy.place, copy.copied) for copy in found.copies] == [
        ("kube-root-ca.crt in default", Copied.PODS),
        ("client-ca-file of extension-apiserver-authentication in kube-system", Copied.CLIENTS),
        ("requestheader-client-ca-file of extension-apiserver-authentication in kube-system", Copied.FRONT_PROXY),
        ("ValidatingWebhookConfiguration v: webhook one", Copied.SERVER),
        ("MutatingWebhookConfiguration m: webhook one", Copied.SERVER),
    ]
    assert found.allowed_names == ("front-proxy-client",) and found.kubelets == {"w-1": {"readOnlyPort": 0}}
    assert api.methods == {"GET"}


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/api/v1/nodes", "nodes"),
        ("/api/v1/namespaces", "namespaces"),
        ("/api/v1/configmaps", "kube-root-ca.crt"),
        ("/api/v1/namespaces/kube-system/pods", "static pods"),
        ("/api/v1/namespaces/kube-public/configmaps/cluster-info", "cluster-info"),
        ("/apis/apiregistration.k8s.io/v1/apiservices", "apiservices"),
        ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", "mutatingwebhookconfigurations"),
        ("/api/v1/nodes/w-1/proxy/configz", "kubelet of w-1"),
    ],
)
@pytest.mark.parametrize(("status", "says"), [(403, "may not read it"), (500, "answers 500")])
def test_a_part_that_is_refused_is_missing_with_a_reason(
    api: Api, tmp_path: Path, path: str, part: str, status: int, says: str
) -> None:
    api.values[path] = status
    found = read(api, tmp_path)
    assert list(found.unread) == [part] and says in found.unread[part]


GROUP = "/apis/certificates.k8s.io"
KINDS = {"resources": [{"name": "certificatesigningrequests"}, {"name": "clustertrustbundles"}]}
BUNDLES: tuple[dict[str, Any], ...] = (
    {"metadata": {"name": "a:b"}, "spec": {"signerName": "kubernetes.io/kube-apiserver-serving", "trustBundle": PEM}},
    {"metadata": {"name": "own"}, "spec": {"trustBundle": PEM}},
    {"metadata": {"name": "odd"}, "spec": {"trustBundle": 7}},
)


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha1"])
def test_trust_bundles_are_copies_by_the_version_that_is_served(api: Api, tmp_path: Path, version: str) -> None:
    api.values |= {f"{GROUP}/{version}": KINDS, f"{GROUP}/{version}/clustertrustbundles": items(*BUNDLES)}
    found = read(api, tmp_path)
    assert found.unread == {}
    assert [(copy.place, copy.copied, copy.pem) for copy in found.copies if "Bundle" in copy.place] == [
        ("ClusterTrustBundle a:b", Copied.PODS, PEM),
        ("ClusterTrustBundle own", Copied.BUNDLE, PEM),
        ("ClusterTrustBundle odd", Copied.BUNDLE, ""),
    ]


@pytest.mark.parametrize(
    ("status", "says"), [(403, "may not read it"), (500, "the API server answers 500"), (b"no json", "not a JSON")]
)
def test_trust_bundles_that_are_refused_are_missing_with_a_reason(
    api: Api, tmp_path: Path, status: int | bytes, says: str
) -> None:
    api.values |= {f"{GROUP}/v1": KINDS, f"{GROUP}/v1/clustertrustbundles": status}
    found = read(api, tmp_path)
    assert list(found.unread) == ["clustertrustbundles"] and says in found.unread["clustertrustbundles"]
    assert len(found.copies) == 5 and found.kubelets


def test_a_group_that_is_not_shown_may_still_have_trust_bundles(api: Api, tmp_path: Path) -> None:
    api.values |= {f"{GROUP}/v1": 403, f"{GROUP}/v1beta1": 403, f"{GROUP}/v1alpha1": 403}
    assert read(api, tmp_path).unread == {}
    api.values |= {f"{GROUP}/v1beta1/clustertrustbundles": items(*BUNDLES)}
    assert len(read(api, tmp_path).copies) == 8


def test_a_user_who_is_not_accepted_reads_one_sentence(api: Api, tmp_path: Path) -> None:
    api.values = dict.fromkeys(api.values, 401)
    with pytest.raises(VaultpkiError, match="does not accept the user of"):
        read(api, tmp_path)


def test_an_api_server_that_is_away_ends_the_command(api: Api, tmp_path: Path) -> None:
    api.shutdown()
    api.server_close()
    with pytest.raises(Unavailable, match="cannot be reached"):
        read(api, tmp_path)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        # Not the user of the API server.
        (401, "the kubelet does not accept the certificate of kube-apiserver"),
        (b"not json", "the answer is not a JSON object"),
        (b"[" * 100_000, "the answer is not a JSON object"),
        (b" " * 3_000_000, "the API server gave no answer"),
    ],
    ids=["401", "text", "deep", "flood"],
)
def test_what_a_kubelet_may_answer(api: Api, tmp_path: Path, answer: int | bytes, said: str) -> None:
    api.values["/api/v1/nodes/w-1/proxy/configz"] = answer
    assert read(api, tmp_path).unread == {"kubelet of w-1": said}


def test_nothing_is_asked_after_the_time(api: Api, tmp_path: Path) -> None:
    found = read(api, tmp_path, seconds=-1)
    assert set(found.unread.values()) == {"the time of this command is over"} and len(found.unread) == 12
    assert api.methods == set()
