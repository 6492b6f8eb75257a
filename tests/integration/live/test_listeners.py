"""What listeners present and whom they let in, by real TLS: each single fault is named, a right listener has none."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from helpers.node.handmade_files import NOW, HandmadeFiles, authority, made
from helpers.vault.applied_cluster import vaultpki
from vaultpki.certificates import ISSUING_CAS, pair_files
from vaultpki.host import presented
from vaultpki.host.presented import NotReached
from vaultpki.live import probes
from vaultpki.live import served as live_served
from vaultpki.live import trust as live_trust
from vaultpki.live.listeners import Endpoint, listeners
from vaultpki.live.trust import Expected
from vaultpki.records.node_report import CertificateReport, NodeReport
from vaultpki.verify import folders
from vaultpki.verify.on_disk import Check, Holder

pytestmark = pytest.mark.serverless

STRANGE: Final = "CN=prod strange CA"


@dataclass
class Setting:
    """How a server listens: its pair and chain, whose clients it accepts, and what it answers them."""

    chain: bytes
    key: bytes
    cas: bytes
    asks: ssl.VerifyMode = ssl.CERT_REQUIRED
    status: Callable[[bool], int] = lambda known: 200 if known else 401
    body: bytes = b""


class Server(ThreadingHTTPServer):
    """A TLS server of such a setting."""

    daemon_threads = True

    def __init__(self, setting: Setting, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.setting = setting
        self.asked: list[str] = []
        pair = folder / "server.pem"
        pair.write_bytes(setting.key + setting.chain)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(pair)
        self.tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self.tls.verify_mode = setting.asks
        if setting.asks is not ssl.CERT_NONE:
            self.tls.load_verify_locations(cadata=setting.cas.decode())

    def get_request(self) -> tuple[Any, Any]:
        plain, address = super().get_request()
        plain.settimeout(5)
        return self.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: object) -> None:
        """A client that is refused is part of a test."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server) and isinstance(self.connection, ssl.SSLSocket)
        server.asked.append(self.requestline)
        self.send_response(server.setting.status(bool(self.connection.getpeercert())))
        self.send_header("Content-Length", str(len(server.setting.body)))
        self.end_headers()
        self.wfile.write(server.setting.body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def listening(setting: Setting, folder: Path) -> Iterator[Server]:
    server = Server(setting, folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def openssl_listening(setting: Setting, folder: Path) -> Iterator[int]:
    """The port of the same in OpenSSL's own server, which tells clients its client CAs as Go's do; it answers 200."""
    leaf, end, behind = setting.chain.partition(b"-----END CERTIFICATE-----\n")
    crt, key, chain, cas = (folder / f"served-{name}" for name in ("crt", "key", "chain", "cas"))
    for path, data in ((crt, leaf + end), (key, setting.key), (chain, behind), (cas, setting.cas)):
        path.write_bytes(data)
    command: list[str | Path] = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-www", "-cert", crt, "-key", key]
    command += ["-cert_chain", chain] if behind else []
    if setting.asks is not ssl.CERT_NONE:
        must = "-Verify" if setting.asks is ssl.CERT_REQUIRED else "-verify"
        command += [must, "3", "-verify_return_error", "-partial_chain", "-CAfile", cas]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        try:
            assert running.stdout is not None
            line = next(line for line in running.stdout if line.startswith("ACCEPT "))
            yield int(line.rpartition(":")[2])
        finally:
            running.kill()


@dataclass
class ServedListener:
    """A cluster's files, and etcd of cp-1 as it should listen; a test changes what it is about."""

    files: HandmadeFiles
    folder: Path
    expected: Expected
    holders: tuple[Holder, ...]
    setting: Setting
    name: str = "etcd-server"
    reports: dict[str, NodeReport] = field(default_factory=dict)

    @property
    def pki(self) -> Path:
        return self.files.pki("cp-1")

    def pair(self, row: str, node: str = "cp-1") -> tuple[bytes, bytes]:
        crt, key, _ = pair_files(self.files.want(node, row).stem)
        return (self.files.pki(node) / crt).read_bytes(), (self.files.pki(node) / key).read_bytes()

    def lay(self, row: str, **options: Any) -> tuple[bytes, bytes]:
        """Another pair of this row, which does not lie on the node."""
        folder = self.folder / "elsewhere"
        folder.mkdir(exist_ok=True)
        names = {key: options.pop(key) for key in ("common_name", "dns", "ips", "organization") if key in options}
        want = self.files.want("cp-1", row)
        want = replace(want, subject=replace(want.subject, **names), ca=options.pop("signer", want.ca))
        self.files.lay(folder, want, **options)
        crt, key, _ = pair_files(want.stem)
        return (folder / crt).read_bytes(), (folder / key).read_bytes()

    def listener(self, port: int) -> Endpoint:
        (found,) = (
            each
            for each in listeners(self.files.cluster, (), "https://127.0.0.1:1", lambda _: False)[0]
            if each.name == self.name and each.label.startswith("cp-1/")
        )
        return replace(found, address="127.0.0.1", port=port)

    def checks(self, *, callers: bool = True) -> list[Check]:
        with contextlib.ExitStack() as stack:
            if self.name == "kube-apiserver":
                server = stack.enter_context(listening(self.setting, self.folder))
                port, asked = server.server_address[1], server.asked
            else:
                port, asked = stack.enter_context(openssl_listening(self.setting, self.folder)), []
            listener = self.listener(port)
            shown = presented.ask("127.0.0.1", listener.port, "", 5)
            known = live_served.read_contents(self.holders, self.reports)
            found = list(live_served.served_checks(listener, shown, self.expected, known, NOW))
            if callers:
                who = probes.callers(self.files.cluster, self.expected, {}, self.holders, datetime.now(UTC))
                found += probes.probe_as_each(listener, who)
            assert all(line.startswith("GET ") for line in asked)
        return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> HandmadeFiles:
    return made(tmp_path_factory.mktemp("right"))


@pytest.fixture
def served(template: HandmadeFiles, tmp_path: Path) -> ServedListener:
    """A copy of the right files, and a listener that serves them; a test may spoil both."""
    files = template.copied(tmp_path / "files")
    holders = folders.find_holders(files.cluster, files.folder)
    expected = live_trust.from_files(files.cluster, holders, NOW)
    assert expected is not None and set(expected.issuing) == {*ISSUING_CAS}
    crt, key, _ = pair_files(files.want("cp-1", "etcd-server").stem)
    pki = files.pki("cp-1")
    setting = Setting((pki / crt).read_bytes(), (pki / key).read_bytes(), files.issuing["etcd"].pem)
    return ServedListener(files, tmp_path, expected, holders, setting)


def api_server(served: ServedListener) -> None:
    """Make the listener the API server, which decides in its answers."""
    served.name = "kube-apiserver"
    served.setting.chain, served.setting.key = served.pair("kube-apiserver")
    served.setting.cas = served.files.issuing["kubernetes"].pem + served.files.issuing["front-proxy"].pem
    served.setting.asks = ssl.CERT_OPTIONAL


def test_a_right_listener_has_no_fault(served: ServedListener) -> None:
    found = served.checks()
    assert [check for check in found if check.ok is not True] == []
    assert {check.name for check in found} == {
        "served certificate",
        "chain",
        "on disk",
        "client CAs",
        "no certificate",
        "stranger",
        "another domain",
        "own domain",
    }
    # Pairs of the other three domains, and one of its own.
    assert [check.name for check in found].count("another domain") == 3


def test_a_right_api_server_has_no_fault(served: ServedListener) -> None:
    api_server(served)
    served.setting.cas = served.files.issuing["kubernetes"].pem
    found = [check for check in served.checks() if check.ok is not True]
    # Python's servers name no client CA.
    assert [check.name for check in found] == ["client CAs"]
    assert found[0].detail == "asks for client certificates and names no CA, so any public CA may do"


Change = Callable[[ServedListener], None]


def serve(row: str, **options: Any) -> Change:
    def change(served: ServedListener) -> None:
        served.setting.chain, served.setting.key = served.lay(row, **options)

    return change


def chain_of(change: Callable[[bytes, HandmadeFiles], bytes]) -> Change:
    def apply(served: ServedListener) -> None:
        served.setting.chain = change(served.setting.chain, served.files)

    return apply


def cas(*names: str) -> Change:
    def change(served: ServedListener) -> None:
        known = {**served.files.issuing, "root": served.files.root, "strange": authority("strange")}
        served.setting.cas = b"".join(known[name].pem for name in names)

    return change


def forged(served: ServedListener) -> None:
    """A CA of the right name below another root."""
    served.files.issuing["etcd"] = authority("etcd", authority("root"))
    serve("etcd-server")(served)


def self_signed(served: ServedListener) -> None:
    import trustme

    own = trustme.CA()
    pair = own.cert_pem.bytes(), own.private_key_pem.bytes()
    served.setting.chain, served.setting.key = pair


def asks(mode: ssl.VerifyMode) -> Change:
    def change(served: ServedListener) -> None:
        served.setting.asks = mode

    return change


def alone(served: ServedListener) -> None:
    """The leaf without its CA; OpenSSL's server would take that from its client CAs."""
    served.setting.chain = served.setting.chain[: served.setting.chain.index(b"END CERT") + 21]
    served.setting.asks = ssl.CERT_NONE


def rotated(served: ServedListener) -> None:
    """Vault has a later CA, and the one behind what is served has left."""
    later = authority("etcd", served.files.root)
    (found,) = live_trust.certificates(later.pem.decode())
    served.expected = replace(served.expected, issuing={**served.expected.issuing, "etcd": (found,)})


def reported(serial: str, minutes: int = 60) -> Change:
    def change(served: ServedListener) -> None:
        when = NOW + timedelta(hours=1)
        told = CertificateReport("etcd", "ok", serial=serial, installed=NOW - timedelta(minutes=minutes))
        served.reports["cp-1"] = NodeReport(when, certificates={"etcd-server": told})
        served.holders = tuple(holder for holder in served.holders if holder.name != "cp-1")

    return change


def apiserver(body: bytes) -> Change:
    """An API server that answers everybody with 403."""

    def change(served: ServedListener) -> None:
        api_server(served)
        served.setting.asks = ssl.CERT_NONE
        served.setting.status = lambda known: 403
        served.setting.body = body

    return change


OLD: Final = {"life": (-timedelta(hours=3), -timedelta(hours=1))}
FAULTS: Final[dict[str, tuple[Change, str, str]]] = {
    "self-signed": (self_signed, "chain", "is self-signed"),
    "no issuing CA behind it": (alone, "chain", "no issuing CA is served behind the certificate"),
    "CA of another domain behind it": (
        chain_of(lambda chain, files: chain[: chain.index(b"END CERT") + 21] + files.issuing["kubelet"].pem),
        "chain",
        "did not sign it",
    ),
    "root behind it too": (chain_of(lambda chain, files: chain + authority("odd").pem), "chain", "is served too"),
    "signed by another domain": (serve("etcd-server", signer="kubelet"), "chain", "not a CA of etcd: its name is not"),
    "signed below another root": (forged, "chain", "not signed by the cluster's root"),
    "signed by a CA that has left": (rotated, "chain", "does not have it any more"),
    "expired": (serve("etcd-server", **OLD), "served certificate", "has expired"),
    "not valid yet": (
        serve("etcd-server", life=(timedelta(hours=1), timedelta(hours=2))),
        "served certificate",
        "not valid yet",
    ),
    "should have been renewed": (
        serve("etcd-server", life=(-timedelta(hours=9), timedelta(minutes=40))),
        "served certificate",
        "should have been renewed: it ends in 0 hours",
    ),
    "names of another": (
        serve("etcd-server", common_name="cp-9"),
        "served certificate",
        'CN is "cp-9", should be "cp-1"',
    ),
    "a name is missing": (serve("etcd-server", dns=("cp-1",)), "served certificate", "DNS SAN is"),
    "an address too many": (serve("etcd-server", ips=("10.0.0.11", "10.9.9.9")), "served certificate", "IP SAN is"),
    "pair of another row": (serve("kube-apiserver"), "served certificate", "CN is"),
    "another pair than on disk": (serve("etcd-server"), "on disk", "a reload or a restart is pending"),
    "another pair than reported": (reported("abc123"), "reported", "the node reported abc123"),
    "the root as client CA": (cas("etcd", "root"), "client CAs", "clients of the root CA, so of every CA"),
    "another domain as client CA": (cas("etcd", "kubernetes"), "client CAs", "CA kubernetes, another trust domain"),
    "another domain is let in": (cas("etcd", "kubernetes"), "another domain", ""),
    "the root lets all in": (cas("etcd", "root"), "another domain", ""),
    "a foreign client CA": (cas("etcd", "strange"), "client CAs", f"clients of {STRANGE}, which is not a CA"),
    "its own clients are not accepted": (cas("kubelet"), "own domain", "unknown ca"),
    "its own client CA is missing": (cas("kubelet"), "client CAs", "does not accept clients of CN=prod etcd CA"),
    "asks for no certificate": (asks(ssl.CERT_NONE), "client CAs", "asks for no client certificate"),
    "nobody is let in": (asks(ssl.CERT_OPTIONAL), "no certificate", "answers 200"),
    "strangers are let in": (asks(ssl.CERT_NONE), "stranger", "answers 200"),
    "a stranger is a user": (apiserver(b"User kubernetes-super-admin may not"), "stranger", "answers 403"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(served: ServedListener, name: str) -> None:
    change, check, words = FAULTS[name]
    change(served)
    wrong = [each for each in served.checks() if each.ok is False]
    assert any(each.name == check and words in each.detail for each in wrong), "\n".join(map(str, wrong))


@pytest.mark.parametrize("what", ["no listener", "no TLS", "silence"])
def test_who_does_not_answer_is_not_reached(what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        begin = time.monotonic()
        if what == "no listener":
            listener.close()
        elif what == "no TLS":

            def talk() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-x\r\n")

            threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(NotReached, match=r"reached|TLS|answer within 1 s"):
            presented.ask("127.0.0.1", port, "", 1.0)
        assert time.monotonic() - begin < 10


def test_a_flood_is_cut_off(tmp_path: Path, served: ServedListener) -> None:
    served.setting.body = b"x" * 8_000_000
    with listening(served.setting, tmp_path) as server:
        listener = served.listener(server.server_address[1])
        who = probes.callers(served.files.cluster, served.expected, {}, served.holders, datetime.now(UTC))
        (own,) = (caller for caller in who.pairs if caller.ca == "etcd")
        assert probes.probe(listener, own).how == "user"


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (b"", "refused"),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "refused"),
        (b'HTTP/1.1 403 Forbidden\r\n\r\n{"message":"User \\"system:anonymous\\" cannot"}', "anonymous"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\nForbidden (user=kube-proxy)", "user"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "user"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "user"),
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", "unclear"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "unclear"),
        (b"SSH-2.0-OpenSSH\r\n", "unclear"),
        (b"\x15\x03\x01", "unclear"),
    ],
)
def test_answers_are_read_as_verdicts(data: bytes, how: str) -> None:
    assert probes.answer(data).how == how


def test_reports_that_may_be_older_prove_nothing(served: ServedListener) -> None:
    reported("abc123", minutes=0)(served)
    (found,) = (each for each in served.checks(callers=False) if each.name == "reported")
    assert found.ok is None and "just been installed" in found.detail


@pytest.mark.parametrize("arguments", [["--live"], ["--kubeconfig", "admin.conf"], ["--dir", ".", "--live"]])
def test_live_and_a_kubeconfig_belong_together(served: ServedListener, arguments: list[str]) -> None:
    ran = vaultpki("verify", "-f", served.files.file, *arguments, expect=2)
    assert "--live" in ran.stderr
