"""Single objects are changed over the version that was read, or not at all; refusals say what to do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.kube import answering_api
from helpers.kube.answering_api import Api
from helpers.kube.kubeadm_objects import authority, leaf
from vaultpki.errors import ChangedMeanwhile, Unavailable, Untrusted, VaultpkiError
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.writer import ClusterWriter, data_of

PATH = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
CA = authority("kubernetes")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    pair = leaf("kube-apiserver", CA, addresses=["127.0.0.1"])
    file = tmp_path / "pair.pem"
    file.write_text(pair.pem + pair.key_pem)

    def configure(tls: ssl.SSLContext) -> None:
        tls.load_cert_chain(file)

    found = {"metadata": {"name": "cluster-info", "resourceVersion": "7", "uid": "u"}, "data": {"a": "b", "n": 1}}
    with answering_api.serving({PATH: found}, configure) as api:
        yield api


def writer(api: Api, ca: str = CA.pem) -> ClusterWriter:
    return ClusterWriter(KubeAccess("admin.conf", f"https://127.0.0.1:{api.server_address[1]}", ca, token="x"))


def test_an_object_is_read_replaced_and_deleted(api: Api) -> None:
    of = writer(api)
    found = of.read(PATH)
    assert found is not None and data_of(found) == {"a": "b"}
    of.replace(PATH, {**found, "data": {"a": "c"}})
    again = of.read(PATH)
    assert again is not None and data_of(again) == {"a": "c"} and again["metadata"]["resourceVersion"] == "8"
    assert of.delete(PATH) and not of.delete(PATH)
    assert of.read(PATH) is None and data_of(None) == {}
    assert api.changed == [("PUT", PATH), ("DELETE", PATH)]


def test_what_somebody_else_has_changed_meanwhile_is_not_written_over(api: Api) -> None:
    of = writer(api)
    found = of.read(PATH)
    assert found is not None
    of.replace(PATH, found)
    with pytest.raises(ChangedMeanwhile, match="was changed meanwhile"):
        of.replace(PATH, found)
    assert api.changed == [("PUT", PATH)]


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (403, VaultpkiError, "admin.conf may not read"),
        (401, VaultpkiError, "does not accept the user"),
        (500, Unavailable, "answers 500"),
    ],
)
def test_refusals(api: Api, status: int, error: type[Exception], says: str) -> None:
    api.values[PATH] = status
    with pytest.raises(error, match=says):
        writer(api).read(PATH)
    with pytest.raises(error):
        writer(api).replace(PATH, {})


def test_an_answer_that_is_no_object(api: Api) -> None:
    api.values[PATH] = b"[]"
    with pytest.raises(Unavailable, match="no JSON object"):
        writer(api).read(PATH)


def test_nothing_is_sent_to_a_server_of_another_ca(api: Api) -> None:
    with pytest.raises(Untrusted):
        writer(api, authority("front-proxy-ca").pem).replace(PATH, {})
    assert api.changed == []
