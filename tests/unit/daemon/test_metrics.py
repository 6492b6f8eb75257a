"""The metrics' names and values, and a server that nobody on the node can hold up."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from vaultpki import __version__
from vaultpki.daemon import metric_families, metrics_server, own_findings
from vaultpki.daemon import metrics as daemon_metrics
from vaultpki.daemon.metrics_server import Server
from vaultpki.daemon.view import CertificateView, Counts, LeafView, View
from vaultpki.errors import StoreError, VaultpkiError
from vaultpki.model import AgentConfig
from vaultpki.pki.ca_life import CaLife

NOW = 1_800_000_000.0
DAY = 86400


def at(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)


VIEW = View(
    node="w-1",
    cluster="prod",
    state="ok",
    certificates=(
        CertificateView("kubelet", NOW + 3600, NOW + 1800, 7200, 7190, "ok"),
        CertificateView("kube-proxy", None, None, 3600, None, "missing", NOW - 60),
    ),
    hooks={"kubelet": (3, NOW - 100)},
    readers=("etcd/kube-apiserver",),
    components=("etcd/etcd", "etcd/kube-apiserver"),
    hook_keys=("kubelet", "etcd-ca"),
    trust_generation="9f3a",
    trust_changed=NOW - 500,
    vault_reachable=True,
    vault_last_ok=NOW - 5,
    outage_left=3600.0,
    last_pass=NOW - 5,
    stale_after=900.0,
    ends=(CaLife("etcd", False, at(NOW - 1825 * DAY), at(NOW), 7 * DAY),),
)
COUNTS = Counts("prod", "w-1", 7, {"kubelet": 6, "kube-proxy": 0}, 2)
WELL = replace(VIEW, certificates=VIEW.certificates[:1])


def exposed(view: View) -> str:
    return generate_latest(metric_families.Collector(lambda: view, lambda: COUNTS)).decode()


@contextlib.contextmanager
def serving(view: View | None, now: float = NOW, *, address: str = "127.0.0.1:0") -> Iterator[Server]:
    server = Server(address, lambda: view, lambda: COUNTS, clock=lambda: now)
    server.start()
    try:
        yield server
    finally:
        server.close()


def connect(server: Server) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=10)


def raw(server: Server, request: bytes) -> bytes:
    """Everything that the server says to these bytes."""
    with connect(server) as caller:
        caller.sendall(request)
        return b"".join(iter(lambda: caller.recv(65536), b""))


def get(server: Server, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def its(**labels: str) -> frozenset[tuple[str, str]]:
    """The labels of a sample of this agent."""
    return frozenset({"cluster": "prod", "node": "w-1", **labels}.items())


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_by_name_and_value() -> None:
    with serving(VIEW) as server:
        status, text, headers = get(server, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = samples(text)

    def each(name: str, value: float, /, **labels: str) -> None:
        assert found.pop((f"vaultpki_{name}", its(**labels))) == value, name

    each("build_info", 1, version=__version__)
    each("node_info", 1)
    each("agent_state", 1, state="ok")
    for kind in own_findings.OWN:
        # The CA ends at this moment.
        each("finding", kind.name in ("missing", "hook-failed", "reader-behind", "ca-expires"), finding=kind.name)
    each("last_pass_timestamp_seconds", NOW - 5)
    each("certificate_not_after_timestamp_seconds", NOW + 3600, name="kubelet")
    each("certificate_renew_after_timestamp_seconds", NOW + 1800, name="kubelet")
    each("certificate_ttl_asked_seconds", 7200, name="kubelet")
    each("certificate_ttl_asked_seconds", 3600, name="kube-proxy")
    each("certificate_ttl_granted_seconds", 7190, name="kubelet")
    each("certificate_state", 1, name="kubelet", state="ok")
    each("certificate_state", 1, name="kube-proxy", state="missing")
    each("certificate_last_error_timestamp_seconds", NOW - 60, name="kube-proxy")
    each("hook_owed", 1, hook="kubelet")
    each("hook_owed", 0, hook="etcd-ca")
    each("hook_owed_since_timestamp_seconds", NOW - 100, hook="kubelet")
    each("hook_attempts", 3, hook="kubelet")
    each("reader_behind", 1, ca="etcd", component="kube-apiserver")
    each("reader_behind", 0, ca="etcd", component="etcd")
    each("trust_generation_info", 1, generation="9f3a")
    each("trust_changed_timestamp_seconds", NOW - 500)
    each("vault_reachable", 1)
    each("vault_last_contact_timestamp_seconds", NOW - 5)
    each("outage_left_seconds", 3600)
    each("signs_total", 7)
    each("tampered_total", 2)
    each("renewals_total", 6, name="kubelet")
    each("renewals_total", 0, name="kube-proxy")
    each("ca_not_after_timestamp_seconds", NOW, ca="etcd")
    for level, days in (("notice", 180), ("warning", 60), ("critical", 30)):
        each("ca_level_timestamp_seconds", NOW - days * DAY, ca="etcd", level=level)
    assert found == {}


def test_certificates_under_the_names_of_x509_certificate_exporter() -> None:
    path = "/etc/kubernetes/pki/kubelet-client.crt"
    leaf = LeafView(path, 'system:node:w"1', ("system:nodes",), "prod kubernetes CA", 2**127 + 1, NOW - 300, NOW + 3600)
    held = replace(VIEW.certificates[0], leaf=leaf)
    with serving(replace(VIEW, certificates=(held, VIEW.certificates[1]))) as server:
        status, text, headers = get(server, "/metrics/x509")
        assert "x509_" not in get(server, "/metrics")[1]
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    labels = {
        "filename": "kubelet-client.crt",
        "filepath": path,
        "issuer_CN": "prod kubernetes CA",
        # Of 128 bits, so a number of Prometheus could not hold it.
        "serial_number": "170141183460469231731687303715884105729",
        "subject_CN": 'system:node:w"1',
        "subject_O": "system:nodes",
    }
    # One that is missing has no sample.
    assert samples(text) == {
        ("x509_cert_not_before", frozenset(labels.items())): NOW - 300,
        ("x509_cert_not_after", frozenset(labels.items())): NOW + 3600,
    }


def test_a_prometheus_that_prefers_openmetrics_reads_the_same() -> None:
    with serving(VIEW) as server, connect(server) as caller:
        wanted = samples(get(server, "/metrics")[1])
        accept = b"Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n"
        caller.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + accept + b"\r\n")
        head, _, body = b"".join(iter(lambda: caller.recv(65536), b"")).decode().partition("\r\n\r\n")
    assert "Content-Type: application/openmetrics-text; version=1.0.0;" in head
    families = list(openmetrics(body))  # type: ignore[no-untyped-call]
    assert {(one.name, frozenset(one.labels.items())): one.value for each in families for one in each.samples} == wanted


def test_no_state_is_told_where_nobody_could_look() -> None:
    found = samples(exposed(replace(VIEW, unseen="no folder")))
    states = {labels for name, labels in found if name == "vaultpki_certificate_state"}
    assert states == {its(name=name, state="unknown") for name in ("kubelet", "kube-proxy")}
    # When it ends is what it was, and the alerts on that go on.
    assert found["vaultpki_certificate_not_after_timestamp_seconds", its(name="kubelet")] == NOW + 3600


def test_nothing_is_said_of_a_vault_that_was_not_asked() -> None:
    names = {name for name, _ in samples(exposed(replace(VIEW, vault_reachable=None)))}
    assert names == {name for name, _ in samples(exposed(VIEW))} - {"vaultpki_vault_reachable"}


def test_names_that_would_break_the_format_are_escaped() -> None:
    name = 'a"b\\c\nd'
    view = replace(VIEW, certificates=(CertificateView(name, NOW, None, None, None, "ok"),))
    found = samples(exposed(view))
    assert found["vaultpki_certificate_not_after_timestamp_seconds", its(name=name)] == NOW


def test_before_the_first_pass_there_are_only_the_version_and_the_counters() -> None:
    with serving(None) as server:
        assert samples(get(server, "/metrics")[1]) == {
            ("vaultpki_build_info", its(version=__version__)): 1,
            ("vaultpki_node_info", its()): 1,
            ("vaultpki_signs_total", its()): 7,
            ("vaultpki_tampered_total", its()): 2,
            ("vaultpki_renewals_total", its(name="kubelet")): 6,
            ("vaultpki_renewals_total", its(name="kube-proxy")): 0,
        }
        assert get(server, "/healthz")[:2] == (503, "the agent has not ended its first pass\n")
        assert get(server, "/livez")[:2] == (200, "ok\n")


@pytest.mark.parametrize(
    ("view", "now", "problems"),
    [
        (WELL, NOW, []),
        (replace(WELL, state="needs-join", vault_reachable=False), NOW, []),
        (VIEW, NOW, ["kube-proxy: missing"]),
        (WELL, NOW + 800, []),
        (WELL, NOW + 900, ["the agent has ended no pass for 905 s"]),
        (replace(WELL, stale_after=1800.0), NOW + 900, []),
        (WELL, NOW + 3599, ["the agent has ended no pass for 3604 s"]),
        (WELL, NOW + 3600, ["the agent has ended no pass for 3605 s", "kubelet: expired"]),
        (replace(WELL, certificates=(replace(WELL.certificates[0], state="broken"),)), NOW, ["kubelet: broken"]),
        (replace(WELL, certificates=(replace(WELL.certificates[0], state="revoked"),)), NOW, ["kubelet: revoked"]),
        (replace(WELL, certificates=(replace(WELL.certificates[0], state="due"),)), NOW, []),
        (
            replace(WELL, certificates=(replace(WELL.certificates[0], odd="kubeconfig-outdated"),)),
            NOW,
            ["kubelet: kubeconfig-outdated"],
        ),
        (
            replace(WELL, bundles=("a: it is missing",), token_keys=("b: it is empty",)),
            NOW,
            ["a: it is missing", "b: it is empty"],
        ),
        (replace(WELL, unseen="no folder"), NOW, ["the last pass was cut short: no folder"]),
        (replace(WELL, certificates=(), unseen="no folder"), NOW, ["the last pass was cut short: no folder"]),
    ],
)
def test_healthz_says_what_is_wrong(view: View, now: float, problems: list[str]) -> None:
    with serving(view, now) as server:
        status, body, headers = get(server, "/healthz")
        assert (status, body.splitlines()) == (503, problems) if problems else (200, ["ok"])
        assert headers["Cache-Control"] == "no-store"
        stuck = [line for line in problems if "no pass" in line]
        assert get(server, "/livez")[0] == (503 if stuck else 200)


def test_an_agent_that_never_ends_its_first_pass_is_stuck() -> None:
    times = iter([NOW, NOW + 899, NOW + 901])
    server = Server("127.0.0.1:0", lambda: None, lambda: COUNTS, clock=lambda: next(times))
    server.start()
    try:
        assert [get(server, "/livez")[0] for _ in range(2)] == [200, 503]
    finally:
        server.close()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metric", "/../metrics", "http://localhost/metrics", "/%6detrics"])
def test_anything_else_is_not_found(path: str) -> None:
    with serving(WELL) as server:
        status, body, _ = get(server, path)
        assert (status, body) == (404, "not found\n")


def test_a_query_is_not_looked_at() -> None:
    with serving(WELL) as server:
        assert get(server, "/healthz?verbose=1")[:2] == (200, "ok\n")


def test_head_has_the_length_and_nothing_more() -> None:
    with serving(WELL) as server:
        answer = raw(server, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"\r\nContent-Length: 3\r\n" in answer and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_done_but_reading(method: str) -> None:
    with serving(WELL) as server:
        status, _, headers = get(server, "/metrics", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET\r\n\r\n", b"400"),
        (b"GET /metrics\r\nHost: localhost\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", b"505"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", b"400"),
        (b"get /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /\xff\x00<script> HTTP/1.1\r\nHost: [::1]\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.0\nHost:localhost\n\n", b"200"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 120 + b"\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\nhOST:\t127.0.0.1 \r\nX\r\n: \xff\r\n\r\n", b"200"),
    ],
)
def test_odd_requests(request_: bytes, status: bytes) -> None:
    with serving(WELL) as server:
        answer = raw(server, request_)
        assert answer.split(b" ")[:2] == [b"HTTP/1.0", status]
        # Nothing that came goes back, and nothing says what answers here.
        assert b"script" not in answer and b"Server:" not in answer and b"Python" not in answer
        assert get(server, "/healthz")[0] == 200


LISTED = ("node-1.example.com", "10.0.0.11", "fd00::11")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LocalHost:9910", "127.0.0.1", "127.0.0.1:9910", "127.255.0.3:1", "[::1]", "[::1]:9910"),
        *(
            "[0:0:0:0:0:0:0:1]:80",
            "127.0.0.1:",
            *LISTED[:2],
            "node-1.example.com:9910",
            "[fd00::11]:9910",
            "[FD00:0::11]",
        ),
    ],
)
def test_a_name_of_this_machine_is_answered(host: str) -> None:
    assert metrics_server.is_listed(host, LISTED)


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", ":9910", "evil.example.com", "evil.example.com:9910", "localhost.evil.example.com", "10.0.0.12"),
        *("127.0.0.1.evil.example.com", "xlocalhost", "fd00::11", "::1", "[fd00::12]", "[localhost]", "[127.0.0.1]"),
        *(
            "localhost, evil.example.com",
            "localhost evil",
            "user@localhost",
            "localhost/",
            "localhost:x",
            "localhost:123456",
        ),
        *("localhost\r\n evil", "127.1", "2130706433", "0x7f000001", "[::1%25lo]", "\uff4cocalhost", "0.0.0.1", "[::]"),
    ],
)
def test_another_name_is_not_answered(host: str) -> None:
    assert not metrics_server.is_listed(host, LISTED)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/x509", "/healthz", "/livez", "/other"])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Host: 127.0.0.1:9910\r\n", b"200"),
        (b"Host: node-1.example.com\r\n", b"200"),
        (b"Host: evil.example.com\r\n", b"421"),
        (b"Host:\r\n", b"421"),
        (b"", b"400"),
        (b"Host: localhost\r\nHost: localhost\r\n", b"400"),
        (b"Host: evil.example.com\r\nHost: localhost\r\n", b"400"),
    ],
)
def test_no_path_answers_a_page_of_another_site(path: str, head: bytes, status: bytes) -> None:
    """A web page whose name its owner lets point to 127.0.0.1 is read by a browser on the node (DNS rebinding)."""
    server = Server("127.0.0.1:0", lambda: WELL, lambda: COUNTS, clock=lambda: NOW, listed=LISTED)
    server.start()
    try:
        for method in (b"GET", b"HEAD"):
            answer = raw(server, method + b" " + path.encode() + b" HTTP/1.1\r\n" + head + b"\r\n")
            found = b"404" if status == b"200" and path == "/other" else status
            assert answer.split(b" ")[1] == found and b"evil" not in answer
            # One sentence, which says what to do.
            if method == b"GET" and status != b"200":
                body = answer.partition(b"\r\n\r\n")[2]
                assert body.count(b"\n") == 1 and b"Host header" in body and b"kubelet" not in body
    finally:
        server.close()


def test_the_address_that_it_listens_on_is_listed() -> None:
    # A test has no address beside loopback; the server takes any.
    with serving(WELL, address="127.0.0.2:0") as server:
        assert server.listed == {"127.0.0.2"}
        assert get(server, "/healthz")[0] == 200


def test_a_request_in_pieces_is_one_request() -> None:
    with serving(WELL) as server, connect(server) as caller:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n":
            caller.sendall(bytes([byte]))
            time.sleep(0.001)
        assert b"200 OK" in caller.recv(65536)


def is_reset(caller: socket.socket) -> bool:
    """Whether the server has closed the connection, with what the caller may have sent meanwhile unread."""
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


def test_slow_connections_are_reset_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "DEADLINE", 2.0)
    with serving(WELL) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(3)]
        began = time.monotonic()
        for each in slow:
            each.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        # One more byte now and then buys no time.
        while time.monotonic() - began < 2.8:
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                slow[-1].sendall(b"x")
        assert all(is_reset(each) for each in slow)


def test_a_request_that_is_too_large_is_not_answered() -> None:
    large = (b"GET /" + b"a" * 8192, b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200_000)
    with serving(WELL) as server:
        for request in large:
            with connect(server) as caller, contextlib.suppress(ConnectionError):
                caller.sendall(request)
                assert is_reset(caller)
        assert get(server, "/healthz")[0] == 200


def test_connections_beyond_the_most_are_closed_at_once_until_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some send a byte now and then, some nothing, some ask and take no answer."""
    monkeypatch.setattr(metrics_server, "DEADLINE", 2.0)
    most, before = metrics_server.MAX_CONNECTIONS, threading.active_count()
    with serving(WELL) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(most)]
        for number, each in enumerate(slow):
            each.sendall(
                (b"", b"G", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")[number % 4]
            )
        for _ in range(200):
            with connect(server) as more, contextlib.suppress(ConnectionError):
                more.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert is_reset(more)
        # One more accepts, and one may have closed its connection and be about to end.
        assert before + most / 2 < threading.active_count() <= before + most + 2
        assert all(is_reset(each) for each in slow)
        # A caller sees the reset before the thread of its connection has ended.
        until = time.monotonic() + 30
        while threading.active_count() > before + 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert get(server, "/livez")[:2] == (200, "ok\n")
    assert threading.active_count() == before


OUT_OF_DESCRIPTORS = """
import os, resource, socket, time
from vaultpki.daemon.metrics_server import Server

class Counting(Server):
    rounds = 0

    def service_actions(self):
        self.rounds += 1
        super().service_actions()

server = Counting("127.0.0.1:0", lambda: None, lambda: None)
caller = socket.socket()
server.start()
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), 4096))
while True:
    try:
        os.dup(0)
    except OSError:
        break
caller.connect(server.server_address)
caller.sendall(b"GET /livez HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
time.sleep(0.5)
before, start = server.rounds, time.monotonic()
time.sleep(1)
print((server.rounds - before) / (time.monotonic() - start))
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
print(caller.recv(12).decode())
"""


def test_a_process_without_free_descriptors_does_not_spin() -> None:
    """accept(2) fails at once then, while the connection goes on waiting; it is answered when there are some again."""
    command = [sys.executable, "-c", OUT_OF_DESCRIPTORS]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rounds, answer = said.stdout.splitlines()
    assert float(rounds) < 20, "rounds in a second"
    assert answer == "HTTP/1.0 200"


def test_only_livez_does_without_a_look() -> None:
    def look() -> View:
        looked.append(1)
        return replace(WELL, unread="/pki: the disk reports an input/output error")

    looked: list[int] = []
    server = Server("127.0.0.1:0", lambda: WELL, lambda: COUNTS, look=look, clock=lambda: NOW)
    server.start()
    try:
        assert get(server, "/livez")[:2] == (200, "ok\n") and looked == []
        said = "the files cannot be read: /pki: the disk reports an input/output error\n"
        assert get(server, "/healthz")[:2] == (503, said) and looked == [1]
        assert 'state="unknown"' in get(server, "/metrics")[1]
    finally:
        server.close()


def test_a_disk_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_metrics, "METRICS_PATIENCE", 0.3)
    answered = threading.Event()

    def hang() -> AgentConfig:
        answered.wait()
        raise StoreError("/pki: the network file system lost it; mount it again")

    looking = daemon_metrics.PairWatch(lambda: WELL, hang, ())
    before = threading.active_count()
    began = time.monotonic()
    seen = [looking.view() for _ in range(20)]
    assert time.monotonic() - began < 1.5 and threading.active_count() == before + 1
    assert all(view and view.unread.startswith("the disk has not answered for ") for view in seen)
    answered.set()
    # A busy machine may let the other thread wait.
    until = time.monotonic() + 30
    while (view := looking.view()) and view.unread.startswith("the disk has not") and time.monotonic() < until:
        time.sleep(0.01)
    assert looking.view() == replace(WELL, unread="/pki: the network file system lost it; mount it again")
    assert looking.view() is looking.view()


def test_a_caller_that_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "DEADLINE", 0.5)
    many = tuple(CertificateView(f"{number}" * 50_000, NOW, NOW, 1, 1, "ok") for number in range(40))
    view, taken = replace(VIEW, certificates=many), 0
    with serving(view) as server, connect(server) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(2.0)
        assert get(server, "/livez")[0] == 200
        with contextlib.suppress(ConnectionResetError):
            while part := caller.recv(65536):
                taken += len(part)
        assert taken < len(exposed(view)) / 2


def test_a_long_answer_comes_whole() -> None:
    many = tuple(CertificateView(f"c-{number}", NOW, NOW, 1, 1, "ok") for number in range(3000))
    with serving(replace(VIEW, certificates=many)) as server:
        assert len(samples(get(server, "/metrics")[1])) > 5 * 3000


def test_a_fault_of_the_view_is_one_bad_answer() -> None:
    views: Iterator[View] = iter([WELL])
    server = Server("127.0.0.1:0", lambda: next(views), lambda: COUNTS, clock=lambda: NOW)
    server.start()
    try:
        assert [get(server, "/healthz")[0] for _ in range(2)] == [200, 500]
        assert get(server, "/nothing")[0] == 404
    finally:
        server.close()


def test_closing_frees_the_port_the_descriptors_and_the_callers() -> None:
    held = len(os.listdir("/proc/self/fd"))
    with serving(WELL) as server, connect(server) as caller:
        address = server.address
        # Whoever has said nothing is with the kernel still.
        caller.sendall(b"GET /")
        assert get(server, "/healthz")[0] == 200
        server.close()
        assert caller.recv(1) == b""
        server.close()
    assert len(os.listdir("/proc/self/fd")) == held
    with serving(WELL, address=address) as again:
        assert again.address == address and get(again, "/healthz")[0] == 200


def test_an_address_that_cannot_be_used_is_told_in_one_sentence() -> None:
    with serving(WELL) as first, pytest.raises(VaultpkiError) as told:
        Server(first.address, lambda: WELL, lambda: COUNTS)
    assert str(told.value) == (
        f"metrics: cannot listen on {first.address}: Address already in use; write another loopback address and port "
        "under `metrics` in agent.yaml, such as 127.0.0.1:9910"
    )
    with pytest.raises(VaultpkiError, match=r"^metrics: cannot listen on 192.0.2.1:9910: Cannot assign requested ad"):
        Server("192.0.2.1:9910", lambda: WELL, lambda: COUNTS)


def test_ipv6() -> None:
    with serving(WELL, address="[::1]:0") as server:
        assert server.address.startswith("[::1]:") and get(server, "/healthz")[0] == 200


def test_only_an_agent_that_is_asked_for_metrics_loads_the_library() -> None:
    program = (
        "import sys, vaultpki.daemon.loop, vaultpki.cli.agent; print('vaultpki.daemon.metric_families' in sys.modules, "
    )
    program += "{'prometheus_client', 'http.server', 'socketserver'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout == "False set()\n"
