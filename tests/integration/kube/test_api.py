"""What pods trust is read from an API server with a person's kubeconfig; a bad one ends in one sentence."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from helpers.kube import answering_api
from vaultpki.errors import SpecError, Unavailable, Untrusted, VaultpkiError
from vaultpki.kube import api as kube_api
from vaultpki.kube import kubeconfig
from vaultpki.kube.objects import ClusterTrustBundle, PodStart, RootCopy

CA = trustme.CA()
SERVING = "namespaces/kube-system/configmaps"
WHEN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


class Paged:
    """What an API server lists, two objects a page, to clients with a certificate or the token."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {"namespaces": [], "configmaps": [], "pods": [], SERVING: []}
        # By version what the group of certificates has beside lists, as a kind's name; a number is a status.
        self.group: dict[str, str | int] = {"v1": "certificatesigningrequests"}
        self.refuses = 0
        self.refused: dict[str, int] = {}
        self.server_address: tuple[str, int] = ("", 0)
        self.asked: dict[str, str] = {}

    def answer(self, path: str, known: bool) -> Any:
        url = urlsplit(path)
        kind = url.path.removeprefix("/prefix/api/v1/").removeprefix("/prefix/apis/")
        items, refused = self.lists.get(kind), self.refuses or self.refused.get(kind, 0)
        if refused or not known:
            return refused or 401
        if items is None:
            group, _, version = kind.partition("/")
            there = self.group.get(version, 404) if group == "certificates.k8s.io" else 404
            return there if isinstance(there, int) else {"resources": [{"name": there}]}
        at = int(parse_qs(url.query).get("continue", ["0"])[0])
        more = str(at + 2) if at + 2 < len(items) else ""
        return {"items": items[at : at + 2], "metadata": {"continue": more}}


@pytest.fixture
def api() -> Iterator[Paged]:
    def configure(tls: ssl.SSLContext) -> None:
        CA.issue_cert("127.0.0.1").configure_cert(tls)
        CA.configure_trust(tls)
        tls.verify_mode = ssl.CERT_OPTIONAL

    paged = Paged()
    with answering_api.serving({}, configure) as server:
        server.answers, paged.asked = paged.answer, server.asked
        paged.server_address = ("127.0.0.1", server.server_address[1])
        yield paged


def document(server: str, cluster: Mapping[str, Any] | None = None, user: Mapping[str, Any] | None = None) -> str:
    ca = base64.b64encode(CA.cert_pem.bytes()).decode()
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "admin@prod",
            "contexts": [{"name": "admin@prod", "context": {"cluster": "prod", "user": "admin"}}],
            "clusters": [{"name": "prod", "cluster": cluster or {"server": server, "certificate-authority-data": ca}}],
            "users": [{"name": "admin", "user": {"token": "s3cret"} if user is None else user}],
        }
    )


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def access(api: Paged, folder: Path, user: Mapping[str, Any] | None = None) -> kubeconfig.KubeAccess:
    address = f"https://127.0.0.1:{api.server_address[1]}/prefix"
    return kubeconfig.read(written(folder / "admin.conf", document(address, user=user)))


def pair(folder: Path) -> Mapping[str, Any]:
    """A client certificate and its key, in files that the kubeconfig names by paths beside it."""
    mine = CA.issue_cert("admin@example.com")
    (folder / "admin.crt").write_bytes(b"".join(blob.bytes() for blob in mine.cert_chain_pems))
    mine.private_key_pem.write_to_path(folder / "admin.key")
    return {"client-certificate": "admin.crt", "client-key": "admin.key"}


def configmap(namespace: str, pem: str, time: str | None = "2026-05-01T12:00:00Z") -> dict[str, Any]:
    fields = [
        {"fieldsV1": {"f:data": {}}, "time": time},
        {"fieldsV1": {"f:metadata": {}}, "time": "2026-06-01T12:00:00Z"},
    ]
    about = {"name": "kube-root-ca.crt", "namespace": namespace, "managedFields": fields if time else []}
    return {"metadata": about, "data": {"ca.crt": pem}}


def pod(name: str, *, phase: str = "Running", mounts: bool = True, state: str = "running") -> dict[str, Any]:
    volume = {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}} if mounts else {"emptyDir": {}}
    when = "2026-05-01T12:00:00Z"
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"volumes": [volume]},
        "status": {
            "phase": phase,
            "startTime": when,
            "containerStatuses": [{"state": {state: {"startedAt": when}}}, {"state": {"waiting": {}}}],
        },
    }


def fill(api: Paged) -> None:
    names = [f"ns-{number}" for number in range(5)]
    api.lists["namespaces"] = [{"metadata": {"name": name}, "status": {"phase": "Active"}} for name in names]
    api.lists["namespaces"].append({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}})
    api.lists["configmaps"] = [configmap("ns-0", "PEM"), configmap("ns-1", "", None), {"metadata": {"name": "x"}}]
    api.lists[SERVING] = [
        {"metadata": {"name": "kubelet-serving-ca"}, "data": {"kubelet-ca.crt": "PEM", "kubelet-ca-chain.crt": "MORE"}}
    ]
    api.lists["pods"] = [
        pod("runs"),
        pod("ended", phase="Succeeded"),
        pod("without", mounts=False),
        pod("begins", state="waiting"),
        {"spec": "kube-root-ca.crt", "status": []},
    ]


@pytest.mark.parametrize("way", ["token", "pair"])
def test_all_pages_are_read_and_only_pods_that_read_a_root_count(api: Paged, tmp_path: Path, way: str) -> None:
    fill(api)
    found = kube_api.read_trust(access(api, tmp_path, pair(tmp_path) if way == "pair" else None))
    assert found.namespaces == tuple(f"ns-{number}" for number in range(5))
    assert found.copies == (RootCopy("ns-0", "PEM", WHEN), RootCopy("ns-1", "", None))
    assert found.pods == (PodStart("default", "runs", WHEN, WHEN),)
    assert found.serving == ("PEM", "MORE")
    assert sum("continue=" in path for path in api.asked) == 2 + 1 + 2
    assert all("s3cret" not in path for path in api.asked)


BUNDLE: dict[str, Any] = {"metadata": {"name": "example.com:own:1"}, "spec": {"signerName": "example.com/own"}}


def bundle(pem: object) -> dict[str, Any]:
    return {**BUNDLE, "spec": {**BUNDLE["spec"], "trustBundle": pem}}


def listed_at(version: str) -> str:
    return f"certificates.k8s.io/{version}/clustertrustbundles"


@pytest.mark.parametrize(
    ("group", "version"),
    [
        ({"v1": "clustertrustbundles", "v1beta1": "clustertrustbundles"}, "v1"),
        ({"v1": "certificatesigningrequests", "v1beta1": "clustertrustbundles"}, "v1beta1"),
        ({"v1": "certificatesigningrequests", "v1beta1": "x", "v1alpha1": "clustertrustbundles"}, "v1alpha1"),
        ({"v1": 403, "v1beta1": 403}, "v1beta1"),
    ],
)
def test_trust_bundles_are_read_by_the_newest_version_that_is_served(
    api: Paged, tmp_path: Path, group: dict[str, str | int], version: str
) -> None:
    fill(api)
    api.group = group
    api.lists[listed_at(version)] = [bundle(f"PEM {number}") for number in range(3)]
    found = kube_api.read_trust(access(api, tmp_path))
    assert [each.pem for each in found.bundles] == ["PEM 0", "PEM 1", "PEM 2"] and found.bundles_unread == ""
    assert found.bundles[0] == ClusterTrustBundle("example.com:own:1", "example.com/own", "PEM 0")
    assert found.namespaces and found.copies


def test_a_cluster_without_trust_bundles_shows_none(api: Paged, tmp_path: Path) -> None:
    fill(api)
    groups: tuple[dict[str, str | int], ...] = ({"v1": "certificatesigningrequests"}, {}, {"v1": 403})
    for group in groups:
        api.group = group
        found = kube_api.read_trust(access(api, tmp_path))
        assert (found.bundles, found.bundles_unread) == ((), "") and found.copies
    # Who may not list them reads the rest.
    api.group = {"v1": "clustertrustbundles"}
    api.lists[listed_at("v1")], api.refused[listed_at("v1")] = [bundle("PEM")], 403
    found = kube_api.read_trust(access(api, tmp_path))
    assert found.bundles == () and found.copies and found.pods
    why = f"the user of {tmp_path / 'admin.conf'} may not list clustertrustbundles of certificates.k8s.io"
    assert found.bundles_unread == why


def test_trust_bundles_that_are_not_answered_end_the_look(api: Paged, tmp_path: Path) -> None:
    fill(api)
    groups: tuple[dict[str, str | int], ...] = ({"v1": 500}, {"v1": "clustertrustbundles"})
    for group in groups:
        api.group = group
        api.lists[listed_at("v1")], api.refused[listed_at("v1")] = [], 500
        with pytest.raises(Unavailable, match="answers 500 to a list of"):
            kube_api.read_trust(access(api, tmp_path))


def test_hostile_trust_bundles_are_bounded_and_of_one_form(api: Paged, tmp_path: Path) -> None:
    fill(api)
    api.group = {"v1": "clustertrustbundles"}
    odd = [{}, [], "text", {"metadata": 1, "spec": []}, bundle(7), bundle(["PEM"]), bundle("A" * 2_000_000)]
    odd.append({"metadata": {"name": "\x1b[31m" + "n" * 999}, "spec": {"signerName": {"a": 1}, "trustBundle": None}})
    api.lists[listed_at("v1")] = odd
    found = kube_api.read_trust(access(api, tmp_path)).bundles
    assert [len(each.pem) for each in found] == [0, 0, 0, 0, 0, 0, 1024 * 1024, 0]
    assert "\x1b" not in found[-1].name and len(found[-1].name) < 400 and found[-1].signer == ""
    api.lists[listed_at("v1")] = [bundle("A" * 1024 * 1024)] * 65
    flooded = kube_api.read_trust(access(api, tmp_path))
    assert flooded.bundles == () and flooded.bundles_unread == "they are longer than 64 MiB" and flooded.copies


@pytest.mark.parametrize(
    ("status", "says"), [(401, "does not accept the user"), (403, "may not list namespaces"), (500, "answers 500")]
)
def test_who_may_not_list_reads_one_sentence(api: Paged, tmp_path: Path, status: int, says: str) -> None:
    api.refuses = status
    with pytest.raises(VaultpkiError, match=says) as error:
        kube_api.read_trust(access(api, tmp_path))
    assert "\n" not in str(error.value) and "s3cret" not in str(error.value)


def test_another_ca_is_not_trusted(api: Paged, tmp_path: Path) -> None:
    other = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    cluster = {"server": f"https://127.0.0.1:{api.server_address[1]}", "certificate-authority-data": other}
    with pytest.raises(Untrusted, match="is not of a CA in"):
        kube_api.read_trust(kubeconfig.read(written(tmp_path / "admin.conf", document("", cluster))))


def listening(answer: Callable[[ssl.SSLSocket], None]) -> tuple[str, threading.Thread]:
    """A server that does anything with one connection."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(tls)
    plain = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with plain, contextlib.suppress(OSError), tls.wrap_socket(plain.accept()[0], server_side=True) as connection:
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"https://127.0.0.1:{plain.getsockname()[1]}", thread


def test_a_server_without_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_api, "_SECONDS", 1.0)
    monkeypatch.setattr(kube_api, "LARGEST_PAGE", 100_000)

    def drips(connection: ssl.SSLSocket) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            time.sleep(0.05)
            connection.send(b"A: b\r\n")

    def pours(connection: ssl.SSLSocket) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.send(b" " * 65536)

    def babbles(connection: ssl.SSLSocket) -> None:
        connection.send(b"220 hello\r\n")

    def closes(connection: ssl.SSLSocket) -> None:
        connection.recv(1000)

    for answer in (drips, pours, babbles, closes):
        address, thread = listening(answer)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            kube_api.read_trust(kubeconfig.read(written(tmp_path / "admin.conf", document(address))))
        assert time.monotonic() - began < 10
        thread.join(10)


ENTRY = {"server": "https://x", "certificate-authority-data": "AAAA"}
BAD = {
    "no YAML": "{",
    "a list": "[]",
    "no context": json.dumps({"current-context": "x"}),
    "plain http": document("", ENTRY | {"server": "http://x"}),
    "no check": document("", ENTRY | {"insecure-skip-tls-verify": True}),
    "no CA": document("", {"server": "https://x"}),
    "a program": document("", ENTRY, {"exec": {"command": "aws"}}),
    "a pair without a key": document("", ENTRY, {"client-certificate-data": "AAAA"}),
    "no base64": document("", ENTRY, {"client-certificate-data": "?"}),
    "a file that is not there": document("", ENTRY, {"client-certificate": "nowhere.crt"}),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    file = written(tmp_path / "admin.conf", text)
    with pytest.raises(SpecError, match=r"admin\.conf") as error:
        kubeconfig.read(file)
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind_has_no_current_context(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no current-context"):
        kubeconfig.read(written(tmp_path / "cluster.yaml", "cluster: prod"))


@pytest.mark.parametrize("bad", [b"\n", b"no PEM"])
def test_what_is_no_certificate_is_named(api: Paged, tmp_path: Path, bad: bytes) -> None:
    data = base64.b64encode(bad).decode()
    with pytest.raises(SpecError, match=r"admin\.conf"):
        kube_api.read_trust(access(api, tmp_path, {"client-certificate-data": data, "client-key-data": data}))
