"""Whom the table lets in gets in: every client, every server and every bundle, at the components themselves."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from helpers import pages
from helpers.kube import containerd
from helpers.kube.access_matrix import SERVERS, holders
from helpers.kube.components import ETCD_PORT, KUBELET_PORT
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.machines import Machine, Process
from helpers.kube.recording_servers import register_api
from helpers.vault.servers import wait_for
from vaultpki.certificates import TABLE, bundle, chain_bundle, laid_out, pair_files, resolve, row_named
from vaultpki.model import NodeRole, Row
from vaultpki.pki import x509
from vaultpki.places import Layout

pytestmark = pytest.mark.conformance

KUBECONFIGS = [row for row in laid_out(Layout.DOCUMENT) if row.kubeconfig]
SERVER_ROWS = [row for row in TABLE if row.usage.server]
POD = "hello"
POD_PORT = 7777
# The first address of the services' range is kube-apiserver's own.
API_SERVICE = "10.96.0.1"
FORBIDDEN = "Error from server (Forbidden)"


def named(row: Row) -> str:
    return row.name


def leaf(folder: Path, row: Row) -> bytes:
    """The certificate itself, in DER."""
    return ssl.PEM_cert_to_DER_cert(x509.read_certificates((folder / pair_files(row.stem)[0]).read_bytes())[0].pem)


@pytest.fixture(scope="session")
def pod(kubernetes: Kubernetes) -> str:
    """A pod that says something, and answers at a port."""
    answer = f"while :; do echo through | nc -l -p {POD_PORT}; done"
    kubernetes.run_pod(POD, f"({answer}) & echo hello; sleep 100000", node=kubernetes.worker.name)
    return POD


@pytest.mark.parametrize("row", KUBECONFIGS, ids=named)
def test_each_kubeconfig_is_who_the_table_says(kubernetes: Kubernetes, row: Row) -> None:
    found = holders(kubernetes, row)
    assert found
    for node, folder in found:
        cluster = kubernetes.cluster.model
        subject = resolve(
            row_named(cluster, row.name),
            cluster,
            next((each for each in cluster.nodes if node and each.name == node.name), None),
        ).subject
        said = kubernetes.kubectl(folder / str(row.kubeconfig), "auth", "whoami", "-o", "json").stdout
        user = json.loads(said)["status"]["userInfo"]
        assert user["username"] == subject.common_name
        assert sorted(user["groups"]) == sorted((*subject.organization, "system:authenticated"))
        assert user["extra"]["authentication.kubernetes.io/credential-id"] == [
            f"X509SHA256={hashlib.sha256(leaf(folder, row)).hexdigest()}"
        ]


@pytest.mark.parametrize("row", SERVER_ROWS, ids=named)
def test_each_server_shows_the_tables_certificate(kubernetes: Kubernetes, row: Row) -> None:
    """By its own names and addresses, to a client that trusts the row's CA and no other."""
    for node, folder in holders(kubernetes, row):
        assert node is not None
        context = ssl.create_default_context(cafile=str(folder / bundle(row.ca)))
        # Go's clients stop at a trusted issuing CA, as the components are; OpenSSL's do if they are told to.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if row.ca == "etcd":
            crt, key, _ = pair_files("etcd-peer")
            context.load_cert_chain(folder / crt, folder / key)
        for name in (node.address, node.name):
            with (
                kubernetes.outside.connect(node.address, SERVERS[row.name]) as connection,
                context.wrap_socket(connection, server_hostname=name) as shown,
            ):
                assert shown.getpeercert(binary_form=True) == leaf(folder, row)


def test_components_are_told_what_the_page_says(kubernetes: Kubernetes) -> None:
    """Every flag of docs/components.md stands in the command line, and no other names a certificate, key or CA."""
    seen = set()
    for node in kubernetes.nodes.values():
        for name, process in node.machine.processes.items():
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")
            if name in pages.components():
                assert set(pages.flags(name, node.pki)) <= set(words)
            said = {word for word in words if str(node.pki) in word or ".crt" in word or ".pem" in word}
            assert said <= set(pages.flags(name, node.pki) if name in pages.components() else ())
            seen.add(name)
    # A list with a condition, such as service-account keys, is not for this cluster.
    assert seen >= {name for name in pages.components() if ", with " not in name} - {"etcdctl"}
    assert seen >= {"kubelet", "kube-proxy"}, "whose page is a file"


def test_an_admin_may_do_all_only_once_bound(kubernetes: Kubernetes) -> None:
    def may() -> str:
        return kubernetes.kubectl(kubernetes.admin, "auth", "can-i", "*", "*", expect=None).stdout.strip()

    assert may() == "yes"
    kubernetes.kubectl(kubernetes.super_admin, "delete", "clusterrolebinding", "kubeadm:cluster-admins")
    try:
        wait_for(lambda: may() == "no", 10, lambda: "an admin who is not bound may do all")
        refused = kubernetes.kubectl(kubernetes.admin, "get", "secrets", "-A", expect=1).stderr
        assert refused.startswith(FORBIDDEN) and 'User "kubernetes-admin" cannot list resource "secrets"' in refused
        assert kubernetes.kubectl(kubernetes.super_admin, "auth", "can-i", "*", "*").stdout == "yes\n"
    finally:
        kubernetes.kubectl(kubernetes.super_admin, "apply", "-f", kubernetes.operator / "manifests")
    wait_for(lambda: may() == "yes", 10, lambda: "a bound admin may not do all")
    kubernetes.kubectl(kubernetes.admin, "get", "secrets", "-A")


@pytest.mark.parametrize("row", ["kube-controller-manager", "kube-scheduler"])
def test_leases_are_held(kubernetes: Kubernetes, row: str) -> None:
    """By the component itself: kube-apiserver's audit log has the renewals under the row's own name."""
    since = kubernetes.audit_position()

    def renewed() -> bool:
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{row}"
        return any(
            event["verb"] == "update"
            and event["requestURI"].partition("?")[0] == path
            and event["user"]["username"] == f"system:{row}"
            and event["responseStatus"]["code"] == 200
            for event in kubernetes.audit(since)
            if event["stage"] == "ResponseComplete"
        )

    wait_for(renewed, 30, lambda: f"{row} does not renew its lease:\n{kubernetes.component(row).last_words()}", 0.2)
    assert kubernetes.get("lease", row, "-n", "kube-system")["spec"]["holderIdentity"]


def test_each_kubelet_has_registered_its_node(kubernetes: Kubernetes) -> None:
    workers = {node.name for node in kubernetes.having(NodeRole.WORKER)}
    nodes = {node["metadata"]["name"]: node["status"]["conditions"] for node in kubernetes.get("nodes")["items"]}
    assert nodes.keys() == workers
    assert all({each["type"]: each["status"] for each in said}["Ready"] == "True" for said in nodes.values())
    creators = {
        event["user"]["username"]
        for event in kubernetes.audit()
        if event["verb"] == "create" and event["requestURI"] == "/api/v1/nodes" and event["stage"] == "ResponseComplete"
        if event["responseStatus"]["code"] == 201
    }
    assert creators == {f"system:node:{name}" for name in workers}


def test_logs_and_exec(kubernetes: Kubernetes, pod: str) -> None:
    wait_for(lambda: kubernetes.kubectl(kubernetes.admin, "logs", pod).stdout == "hello\n", 20, lambda: "no logs")
    command = ("exec", "-i", pod, "--", "cat")
    assert kubernetes.kubectl(kubernetes.admin, *command, stdin="there and back\n").stdout == "there and back\n"


def test_kube_apiserver_reaches_kubelets_only_once_bound(kubernetes: Kubernetes, pod: str) -> None:
    def logs() -> str:
        ran = kubernetes.kubectl(kubernetes.admin, "logs", pod, expect=None)
        return ran.stdout + ran.stderr

    binding = ("clusterrolebinding", "kubeadm:kubelet-api-admin")
    kubernetes.kubectl(kubernetes.super_admin, "delete", *binding)
    try:
        # The kubelet remembers a yes for five minutes (KubeletConfiguration's cacheAuthorizedTTL).
        kubernetes.restart("kubelet", kubernetes.worker.name)
        refusal = "Forbidden (user=kube-apiserver-kubelet-client, verb=get, resource=nodes, subresource(s)=[proxy])"
        wait_for(lambda: refusal in logs(), 30, logs, pause=0.3)
    finally:
        kubernetes.kubectl(kubernetes.super_admin, "apply", "-f", kubernetes.operator / "manifests")
    # And a no for half a minute.
    kubernetes.restart("kubelet", kubernetes.worker.name)
    wait_for(lambda: logs() == "hello\n", 30, logs, pause=0.3)
    kubernetes.await_node(kubernetes.worker.name)


def test_port_forward(kubernetes: Kubernetes, pod: str) -> None:
    with forwarding(kubernetes, pod, POD_PORT) as port, kubernetes.outside.connect("127.0.0.1", port) as connection:
        assert connection.recv(100) == b"through\n"


@contextlib.contextmanager
def forwarding(kubernetes: Kubernetes, pod: str, port: int) -> Iterator[int]:
    """`kubectl port-forward` outside, and the port of its choice there."""
    command = kubernetes.kubectl_command(kubernetes.admin, "port-forward", f"pod/{pod}", f":{port}")
    process: Process = kubernetes.outside.start("port-forward", *command)
    try:
        wait_for(lambda: "Forwarding from" in process.said(), 20, process.last_words)
        yield int(process.said().partition("Forwarding from 127.0.0.1:")[2].split()[0])
    finally:
        process.kill()


def test_the_kubelets_metrics_come_through_kube_apiserver(kubernetes: Kubernetes) -> None:
    path = f"/api/v1/nodes/{kubernetes.worker.name}/proxy/metrics"
    assert "\nkubelet_running_pods" in kubernetes.kubectl(kubernetes.admin, "get", "--raw", path).stdout


@pytest.mark.parametrize("key", [bundle("kubelet"), chain_bundle("kubelet")])
def test_a_metrics_server_trusts_kubelets_by_the_config_map(kubernetes: Kubernetes, tmp_path: Path, key: str) -> None:
    """As metrics-server scrapes: a service account's token, and the kubelets' CA from the ConfigMap of `issue`."""
    account = "scraper"
    kubernetes.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": "default"}},
        rbac("ClusterRole", account, rules=[{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]),
        rbac(
            "ClusterRoleBinding",
            account,
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account},
            subjects=[{"kind": "ServiceAccount", "name": account, "namespace": "default"}],
        ),
    )
    token = kubernetes.kubectl(kubernetes.admin, "create", "token", account).stdout.strip()
    trusted = kubernetes.get("configmap", "kubelet-serving-ca", "-n", "kube-system")["data"]
    (tmp_path / "ca.crt").write_text(trusted[key])
    url = f"https://{kubernetes.worker.address}:{KUBELET_PORT}/metrics/resource"
    said = by_python(kubernetes.outside, url, tmp_path / "ca.crt", token, tmp_path, partial=key == bundle("kubelet"))
    assert said.startswith("200 ") and "node_cpu_usage_seconds_total" in said
    other = kubernetes.worker.pki / bundle("etcd")
    assert "CERTIFICATE_VERIFY_FAILED" in by_python(kubernetes.outside, url, other, token, tmp_path, partial=True)


def rbac(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, **fields}


@pytest.fixture
def inside_pod(kubernetes: Kubernetes, pod: str, tmp_path: Path) -> tuple[Path, str]:
    """What the pod itself finds: the CA file, and its token."""
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    ca, token = (
        kubernetes.kubectl(kubernetes.admin, "exec", pod, "--", "cat", f"{folder}/{name}").stdout
        for name in ("ca.crt", "token")
    )
    (tmp_path / "pod-ca.crt").write_text(ca)
    return tmp_path / "pod-ca.crt", token


def test_pods_get_the_chain_bundle(kubernetes: Kubernetes, inside_pod: tuple[Path, str]) -> None:
    given = (kubernetes.control_plane.pki / chain_bundle("kubernetes")).read_text()
    assert inside_pod[0].read_text() == given
    assert kubernetes.get("configmap", "kube-root-ca.crt")["data"]["ca.crt"] == given


@pytest.mark.parametrize("host", [API_SERVICE, "API"])
def test_a_pods_python_trusts_kube_apiserver(
    kubernetes: Kubernetes, inside_pod: tuple[Path, str], tmp_path: Path, host: str
) -> None:
    """At the service's address, which kube-proxy leads there, and at the endpoint itself."""
    ca, token = inside_pod
    at = f"{host}:443" if host == API_SERVICE else "{}:{}".format(*kubernetes.api)
    said = by_python(kubernetes.worker.machine, f"https://{at}/api", ca, token, tmp_path)
    assert said.startswith("200 ") and json.loads(said[4:])["kind"] == "APIVersions"


def test_a_pods_node_js_trusts_kube_apiserver(
    kubernetes: Kubernetes, inside_pod: tuple[Path, str], tmp_path: Path
) -> None:
    ca, token = inside_pod
    program = tmp_path / "client.js"
    program.write_text(_NODE_JS)
    (tmp_path / "token").write_text(token)
    command = ("node", program, f"https://{API_SERVICE}/api", ca, tmp_path / "token")
    said = kubernetes.worker.machine.run(*command).stdout
    assert said.startswith("200 ") and json.loads(said[4:])["kind"] == "APIVersions"


_PYTHON = """\
import ssl, sys, urllib.request
url, ca, token, partial = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if partial == "True":
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {open(token).read()}"})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
with opener.open(request, timeout=10) as answer:
    print(answer.status, answer.read().decode())
"""

_NODE_JS = """\
const fs = require('fs'), https = require('https');
const [url, ca, token] = process.argv.slice(2);
const headers = {Authorization: `Bearer ${fs.readFileSync(token)}`};
https.get(url, {ca: fs.readFileSync(ca), headers}, answer => {
  let body = '';
  answer.on('data', part => body += part).on('end', () => console.log(answer.statusCode, body));
}).on('error', error => { console.error(error); process.exit(1); });
"""


def by_python(machine: Machine, url: str, ca: Path, token: str, folder: Path, *, partial: bool = False) -> str:
    """What Python's own client gets there, as status and body, or its complaint."""
    program = folder / "client.py"
    program.write_text(_PYTHON)
    (folder / "token").write_text(token)
    ran = machine.run(sys.executable, "-I", program, url, ca, folder / "token", str(partial), expect=None)
    return ran.stdout or ran.stderr


def test_an_aggregated_api_sees_the_callers_name(one_node: Kubernetes, tmp_path: Path) -> None:
    group, service = "conformance.invalid", "extension"
    ca = trustme.CA()
    with extension(one_node, ca, f"{service}.default.svc", tmp_path) as (port, seen):
        register_api(one_node, group, service, port, ca.cert_pem.bytes())
        try:
            said: list[dict[str, Any]] = []

            def answered() -> bool:
                ran = one_node.kubectl(one_node.admin, "get", "--raw", f"/apis/{group}/v1/caller", expect=None)
                said[:] = [json.loads(ran.stdout)] if ran.returncode == 0 else []
                return bool(said)

            def condition() -> str:
                return str(one_node.get("apiservice", f"v1.{group}")["status"])

            wait_for(answered, 30, condition, pause=0.3)
        finally:
            one_node.kubectl(one_node.admin, "delete", "apiservice", f"v1.{group}")
            one_node.kubectl(one_node.admin, "delete", "service,endpointslice", service)
    assert said[0]["user"] == "kubernetes-admin"
    assert sorted(said[0]["groups"]) == ["kubeadm:cluster-admins", "system:authenticated"]
    assert seen == {row_named(one_node.cluster.model, "front-proxy-client").common_name}


@contextlib.contextmanager
def extension(kubernetes: Kubernetes, ca: trustme.CA, name: str, folder: Path) -> Iterator[tuple[int, set[str]]]:
    """An API server outside that lets in front-proxy's clients only, and says who asks: its port, and their CNs."""
    seen: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            shown: Any = self.connection.getpeercert()
            seen.update(value for part in shown["subject"] for key, value in part if key == "commonName")
            body = {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": self.path.removeprefix("/apis/"),
                "resources": [],
                "user": self.headers.get("X-Remote-User"),
                "groups": self.headers.get_all("X-Remote-Group"),
            }
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
            pass

    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(kubernetes.control_plane.pki / bundle("front-proxy"))
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    pair = folder / "extension.pem"
    pair.write_bytes(ca.issue_cert(name).private_key_and_cert_chain_pem.bytes())
    context.load_cert_chain(pair)
    listening = kubernetes.outside.listen()
    port = listening.getsockname()[1]
    server = ThreadingHTTPServer(listening.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield port, seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_etcds_health_check(kubernetes: Kubernetes) -> None:
    """Every member's own pair, as etcdctl has it from the page, is let in by every member."""
    for node in kubernetes.members:
        found = json.loads(kubernetes.etcdctl(node, "endpoint", "health", "--write-out=json").stdout)
        assert [one["health"] for one in found] == [True] * len(kubernetes.members)
    listed = json.loads(kubernetes.etcdctl(node, "member", "list", "--write-out=json").stdout)
    assert {member["name"] for member in listed["members"]} == {node.name for node in kubernetes.members}


def test_etcds_gateway(kubernetes: Kubernetes) -> None:
    """etcd's JSON gateway dials its own server with the server pair, which is why that is a client's too."""
    everything = {
        "key": base64.b64encode(b"/registry/").decode(),
        "range_end": base64.b64encode(b"/registry0").decode(),
    }
    for node in kubernetes.members:
        crt, key, _ = pair_files("etcd-healthcheck-client")
        trust = ("--cacert", node.pki / bundle("etcd"), "--cert", node.pki / crt, "--key", node.pki / key)
        url = f"https://{node.address}:{ETCD_PORT}/v3/kv/range"
        body = json.dumps(everything | {"count_only": True})
        said = node.machine.run("curl", "-sS", "--fail-with-body", *trust, "--data", body, url).stdout
        assert int(json.loads(said)["count"]) > 100


def test_the_only_image_is_ours(kubernetes: Kubernetes, pod: str) -> None:
    status = kubernetes.get("pod", pod)["status"]["containerStatuses"][0]
    assert (status["image"], status["restartCount"]) == (containerd.IMAGE, 0)
