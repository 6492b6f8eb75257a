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
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vaultpki import __version__, glance, metrics
from vaultpki.errors import StoreError, VaultpkiError
from vaultpki.metrics import CertificateView, Server, View
from vaultpki.model import AgentConfig

NOW = 1_800_000_000.0

VIEW = View(
    node="w-1",
    cluster="prod",
    state="ok",
    certificates=(
        CertificateView("kubelet", NOW + 3600, NOW + 1800, 7200, 7190, "ok"),
        CertificateView("kube-proxy", None, None, 3600, None, "missing", "no answer", NOW - 60),
    ),
    hooks={"kubelet": (3, NOW - 100, "exit code 1")},
    trust_generation="9f3a",
    trust_changed=NOW - 500,
    vault_reachable=True,
    vault_last_ok=NOW - 5,
    outage_left=3600.0,
    signs_total=7,
    renewals_total={"kubelet": 6, "kube-proxy": 1},
    last_pass=NOW - 5,
    stale_after=900.0,
)
WELL = replace(VIEW, certificates=VIEW.certificates[:1])


@contextlib.contextmanager
def serving(view: View | None, now: float = NOW, *, address: str = "127.0.0.1:0") -> Iterator[Server]:
    server = Server(address, lambda: view, clock=lambda: now)
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
        assert found.pop((f"vaultpki_{name}", frozenset(labels.items()))) == value, name

    each("build_info", 1, version=__version__)
    each("node_info", 1, cluster="prod", node="w-1")
    each("agent_state", 1, state="ok")
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
    each("hook_owed_since_timestamp_seconds", NOW - 100, hook="kubelet")
    each("hook_attempts", 3, hook="kubelet")
    each("trust_generation_info", 1, generation="9f3a")
    each("trust_changed_timestamp_seconds", NOW - 500)
    each("vault_reachable", 1)
    each("vault_last_contact_timestamp_seconds", NOW - 5)
    each("outage_left_seconds", 3600)
    each("signs_total", 7)
    each("renewals_total", 6, name="kubelet")
    each("renewals_total", 1, name="kube-proxy")
    assert found == {}


def test_no_state_is_told_where_nobody_could_look() -> None:
    found = samples(metrics.exposition(replace(VIEW, unseen="no folder")).decode())
    states = {labels for name, labels in found if name == "vaultpki_certificate_state"}
    assert states == {frozenset({("name", name), ("state", "unknown")}) for name in ("kubelet", "kube-proxy")}
    # When it ends is what it was, and the alerts on that go on.
    assert found["vaultpki_certificate_not_after_timestamp_seconds", frozenset({("name", "kubelet")})] == NOW + 3600


def test_nothing_is_said_of_a_vault_that_was_not_asked() -> None:
    names = {name for name, _ in samples(metrics.exposition(replace(VIEW, vault_reachable=None)).decode())}
    assert names == {name for name, _ in samples(metrics.exposition(VIEW).decode())} - {"vaultpki_vault_reachable"}


def test_no_error_text_becomes_a_label() -> None:
    assert b"no answer" not in metrics.exposition(VIEW) and b"exit code" not in metrics.exposition(VIEW)


def test_names_that_would_break_the_format_are_escaped() -> None:
    name = 'a"b\\c\nd'
    view = replace(VIEW, certificates=(CertificateView(name, NOW, None, None, None, "ok"),))
    found = samples(metrics.exposition(view).decode())
    assert found["vaultpki_certificate_not_after_timestamp_seconds", frozenset({("name", name)})] == NOW


def test_before_the_first_pass_there_is_only_the_version() -> None:
    with serving(None) as server:
        assert set(samples(get(server, "/metrics")[1])) == {
            ("vaultpki_build_info", frozenset({("version", __version__)}))
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
        (replace(WELL, certificates=(replace(WELL.certificates[0], state="due"),)), NOW, []),
        (replace(WELL, unseen="no folder"), NOW, ["the last pass was broken off: no folder"]),
        (replace(WELL, certificates=(), unseen="no folder"), NOW, ["the last pass was broken off: no folder"]),
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
    times = iter([NOW, NOW, NOW + 899, NOW + 901])
    server = Server("127.0.0.1:0", lambda: None, clock=lambda: next(times))
    server.start()
    try:
        assert [get(server, "/livez")[0] for _ in range(2)] == [200, 503]
    finally:
        server.close()


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/metric", "//metrics", "/../metrics", "http://x/metrics", "/%6detrics"]
)
def test_anything_else_is_not_found(path: str) -> None:
    with serving(WELL) as server:
        status, body, _ = get(server, path)
        assert (status, body) == (404, "not found\n")


def test_a_query_is_not_looked_at() -> None:
    with serving(WELL) as server:
        assert get(server, "/healthz?verbose=1")[:2] == (200, "ok\n")


def test_head_has_the_length_and_nothing_more() -> None:
    with serving(WELL) as server:
        answer = raw(server, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"\r\nContent-Length: 3\r\n" in answer and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_done_but_reading(method: str) -> None:
    with serving(WELL) as server:
        status, _, headers = get(server, "/metrics", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", b"400"),
        (b"get /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /\xff\x00<script> HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.0\n\n", b"200"),
        (b"GET /" + b"a" * 8192, b"431"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200_000, b"431"),
    ],
)
def test_odd_requests(request_: bytes, status: bytes) -> None:
    with serving(WELL) as server:
        answer = raw(server, request_)
        assert answer.split(b" ")[:2] == [b"HTTP/1.1", status]
        # Nothing that came goes back, and nothing says what answers here.
        assert b"script" not in answer and b"Server:" not in answer and b"Python" not in answer
        assert get(server, "/healthz")[0] == 200


def test_a_request_in_pieces_is_one_request() -> None:
    with serving(WELL) as server, connect(server) as caller:
        for byte in b"GET /healthz HTTP/1.1\r\n\r\n":
            caller.sendall(bytes([byte]))
            time.sleep(0.001)
        assert b"200 OK" in caller.recv(65536)


def test_slow_callers_are_cut_off_and_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "DEADLINE", 4.0)
    with serving(WELL) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(3 * metrics.CALLERS)]
        began = time.monotonic()
        for each in slow[-3:]:
            each.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert get(server, "/healthz")[0] == 200
        assert time.monotonic() - began < 3.6
        # One more byte now and then buys no time.
        for _ in range(21):
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                slow[-1].sendall(b"x")
        ended = [not each.recv(1) for each in slow[:-1]]
        assert all(ended)
        with contextlib.suppress(ConnectionResetError):
            assert slow[-1].recv(1) == b""
        assert time.monotonic() - began < 20


CONNECTING = """
import collections, socket, sys
kept, port = collections.deque(), int(sys.argv[1])
print(flush=True)
while True:
    try:
        kept.append(socket.create_connection(("127.0.0.1", port), 5))
    except OSError:
        pass
    if len(kept) > int(sys.argv[2]):
        kept.popleft().close()
"""


@contextlib.contextmanager
def connecting(server: Server, kept: int) -> Iterator[None]:
    """A process that connects for ever, says nothing, and keeps so many connections open."""
    command = [sys.executable, "-c", CONNECTING, server.address.rpartition(":")[2], str(kept)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("kept", [0, 300])
def test_nobody_starves_a_probe(kept: int) -> None:
    """Two hundred that are slow or idle and four that connect for ever, and a probe that takes its time to ask."""
    with serving(WELL) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(200)]
        for number, each in enumerate(slow[::2]):
            each.sendall(b"GET /livez HTTP/1.1\r\n"[: number % 20 + 1])
        for _ in range(4):
            stack.enter_context(connecting(server, kept))
        for number in range(40):
            path = b"/livez" if number % 2 else b"/healthz"
            with connect(server) as caller:
                time.sleep(0.1 * (number % 4))
                caller.sendall(b"GET " + path + b" HTTP/1.1\r\n\r\n")
                assert caller.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n"), number
        assert len(os.listdir("/proc/self/fd")) < 2 * len(slow) + metrics.CALLERS


def test_an_answer_is_made_once_for_each_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for ever costs the agent no time."""
    views = [WELL, WELL, replace(WELL, signs_total=8)]
    server = Server("127.0.0.1:0", lambda: WELL, look=lambda: views.pop(0))
    made: list[View | None] = []
    exposed = metrics.exposition

    def exposition(view: View | None) -> bytes:
        made.append(view)
        return exposed(view)

    monkeypatch.setattr(metrics, "exposition", exposition)
    server.start()
    try:
        found = [samples(get(server, "/metrics")[1])["vaultpki_signs_total", frozenset()] for _ in range(3)]
        assert found == [7, 7, 8] and len(made) == 2
    finally:
        server.close()


def test_only_livez_does_without_a_look() -> None:
    def look() -> View:
        looked.append(1)
        return replace(WELL, unread="/pki: the disk reports an input/output error")

    looked: list[int] = []
    server = Server("127.0.0.1:0", lambda: WELL, look=look, clock=lambda: NOW)
    server.start()
    try:
        assert get(server, "/livez")[:2] == (200, "ok\n") and looked == []
        said = "the files cannot be looked at: /pki: the disk reports an input/output error\n"
        assert get(server, "/healthz")[:2] == (503, said) and looked == [1]
        assert 'state="unknown"' in get(server, "/metrics")[1]
    finally:
        server.close()


def test_a_disk_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "PATIENCE", 0.3)
    answered = threading.Event()

    def hang() -> AgentConfig:
        answered.wait()
        raise StoreError("/pki: the network file system lost it; mount it again")

    looking = glance.Glance(lambda: WELL, hang)
    before = threading.active_count()
    began = time.monotonic()
    seen = [looking.look() for _ in range(20)]
    assert time.monotonic() - began < 1.5 and threading.active_count() == before + 1
    assert all(view and view.unread.startswith("the disk has not answered for ") for view in seen)
    answered.set()
    time.sleep(0.2)
    assert looking.look() == replace(WELL, unread="/pki: the network file system lost it; mount it again")
    assert looking.look() is looking.look()


def test_a_caller_that_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "DEADLINE", 0.5)
    many = tuple(CertificateView(f"{number}" * 50_000, NOW, NOW, 1, 1, "ok") for number in range(40))
    with serving(replace(VIEW, certificates=many)) as server, connect(server) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(2.0)
        assert get(server, "/livez")[0] == 200
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: caller.recv(65536), b""))


def test_a_long_answer_comes_whole() -> None:
    many = tuple(CertificateView(f"c-{number}", NOW, NOW, 1, 1, "ok") for number in range(3000))
    with serving(replace(VIEW, certificates=many)) as server:
        assert len(samples(get(server, "/metrics")[1])) > 5 * 3000


def test_one_thread_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    with serving(WELL) as server, contextlib.ExitStack() as stack:
        for _ in range(metrics.CALLERS):
            stack.enter_context(connect(server))
        get(server, "/metrics")
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_fault_of_the_view_is_one_bad_answer() -> None:
    views: Iterator[View] = iter([WELL])
    server = Server("127.0.0.1:0", lambda: next(views), clock=lambda: NOW)
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


def test_an_address_in_use_is_said_in_one_sentence() -> None:
    with serving(WELL) as first:
        second = Server(first.address, lambda: WELL)
        with pytest.raises(
            VaultpkiError, match=r"^metrics at 127.0.0.1:[0-9]+: another program listens there; "
        ) as told:
            second.start()
        assert "\n" not in str(told.value)
        second.close()


def test_an_address_of_another_machine_is_said_in_one_sentence() -> None:
    with pytest.raises(VaultpkiError, match="this node has no such address"):
        Server("192.0.2.1:9910", lambda: WELL).start()


def test_ipv6() -> None:
    with serving(WELL, address="[::1]:0") as server:
        assert server.address.startswith("[::1]:") and get(server, "/healthz")[0] == 200


def test_the_agent_loads_the_library_only_to_answer() -> None:
    source = Path(metrics.__file__).read_text()
    assert "\nimport prometheus_client" not in source and "\nfrom prometheus_client" not in source
