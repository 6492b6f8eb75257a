"""Components are asked for their health at their own endpoints, which real servers play here, bad ones too."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from helpers.faults.hostile_server import Behaviour, Guest, Hostile, serving
from helpers.faults.server_behaviours import always, closes, garbage, hangs
from vaultpki.host import component_health
from vaultpki.host.boot_time import Moment
from vaultpki.host.processes import Process
from vaultpki.kube.flags import COMPONENTS

# Nothing here waits for the first, which a busy machine may need; the second is waited for.
TIMEOUT, SHORT = 30.0, 0.5
TOO_LATE = "no whole answer from ADDRESS within 0.5 s"
CA, OTHER = trustme.CA(), trustme.CA()
# The CA's certificate, in a list of flags.
FILE = "FILE"


def process(component: str, *flags: str) -> Process:
    return Process(component, 1, Moment("boot", 1.0), flags)


def ask(component: str, *flags: str, timeout: float = TIMEOUT) -> str:
    return component_health.why_unhealthy(process(component, *flags), timeout)


def port(server: Hostile) -> int:
    found = urlsplit(server.address).port
    assert found is not None
    return found


def etcd(behaviour: Behaviour, timeout: float = TIMEOUT) -> str:
    """What is said of a member whose plain listener for probes behaves so; its address is left out."""
    with serving(behaviour) as server:
        said = ask("etcd", f"--listen-metrics-urls={server.address}", timeout=timeout)
        return said.replace(urlsplit(server.address).netloc, "ADDRESS")


def paths(server: Hostile) -> list[bytes]:
    return [bytes(guest.heard).split(b" ")[1] for guest in server.guests if guest.heard]


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """The files of a server and of a client, both of the CA, and those of another CA."""
    CA.cert_pem.write_to_path(tmp_path / "ca.crt")
    OTHER.cert_pem.write_to_path(tmp_path / "other-ca.crt")
    for ca, name in ((CA, "server"), (CA, "client"), (OTHER, "other")):
        pair = ca.issue_cert(f"{name}.example.com")
        (tmp_path / f"{name}.crt").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        pair.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    return tmp_path


def tls(pki: Path, name: str = "server", clients: ssl.VerifyMode = ssl.CERT_REQUIRED) -> ssl.SSLContext:
    """A server's settings, which lets in clients of the CA."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    found.load_verify_locations(pki / "ca.crt")
    found.verify_mode = clients
    return found


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (always(200, "ok"), ""),
        (
            always(500, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]log failed\n"),
            "/readyz answers 500 (etcd, log)",
        ),
        (always(503, "\x1b[31mno\n[-]a\x1b[31mb failed"), "/readyz answers 503 (a?[31mb)"),
        (always(302, "", "Location: http://198.51.100.9/"), "/readyz answers 302"),
        (always(200, "x" * (64 << 10)), "the answer of ADDRESS is too large"),
        (garbage, "the answer of ADDRESS is not HTTP"),
        (closes, "nothing answers at ADDRESS"),
        (lambda guest: guest.reset(), "nothing answers at ADDRESS"),
        (hangs, TOO_LATE),
        (lambda guest: (guest.request(), guest.drip("HTTP/1.1 200 OK\r\n\r\n" + "ok" * 10000)), TOO_LATE),
    ],
    ids=["healthy", "unhealthy", "unprintable", "redirect", "huge", "garbage", "closes", "resets", "hangs", "drips"],
)
def test_an_answer_is_one_part_of_a_sentence(behaviour: Behaviour, said: str) -> None:
    assert etcd(behaviour, SHORT if said == TOO_LATE else TIMEOUT) == said


def test_without_a_listener_nothing_answers() -> None:
    with serving(always(200, "ok")) as server:
        pass
    at = urlsplit(server.address).netloc
    assert ask("etcd", f"--listen-metrics-urls={server.address}") == f"nothing answers at {at}"


def test_a_member_of_before_readyz_is_asked_for_its_old_endpoint() -> None:
    def old(guest: Guest) -> None:
        known = b" /health " in guest.request()
        guest.answer(200 if known else 404, {"health": "true"})

    with serving(old) as server:
        assert ask("etcd", f"--listen-metrics-urls={server.address}") == ""
    assert paths(server) == [b"/readyz", b"/health"]


def test_a_member_without_a_listener_for_probes_is_asked_with_its_own_pair(pki: Path) -> None:
    flags = [f"--trusted-ca-file={pki}/ca.crt", f"--cert-file={pki}/server.crt", f"--key-file={pki}/server.key"]
    with serving(always(200, "ok"), tls=tls(pki)) as server:
        # Its other address is for the other nodes.
        assert ask("etcd", f"--listen-client-urls=https://198.51.100.9:2379,{server.address}", *flags) == ""
        settings = pki / "etcd.yaml"
        settings.write_text(
            f"listen-client-urls: {server.address}\nclient-transport-security:\n"
            f"  {{trusted-ca-file: {pki}/ca.crt, cert-file: {pki}/server.crt, key-file: {pki}/server.key}}\n"
        )
        assert ask("etcd", "--config-file", str(settings)) == ""


@pytest.mark.parametrize(
    ("with_pair", "without", "said"),
    [(200, 401, ""), (401, 200, ""), (403, 401, "/readyz answers 403")],
    ids=["lets in those it knows", "lets in anybody", "starting"],
)
def test_an_api_server_is_asked_with_a_pair_and_without(with_pair: int, without: int, said: str, pki: Path) -> None:
    def behave(guest: Guest) -> None:
        guest.request()
        assert isinstance(guest.socket, ssl.SSLSocket)
        guest.answer(with_pair if guest.socket.getpeercert() else without, "ok")

    pair = [f"--client-ca-file={pki}/ca.crt", f"--kubelet-client-certificate={pki}/client.crt"]
    pair.append(f"--kubelet-client-key={pki}/client.key")
    with serving(behave, tls=tls(pki, clients=ssl.CERT_OPTIONAL)) as server:
        assert ask("kube-apiserver", f"--secure-port={port(server)}", *pair) == said


def test_an_api_server_may_serve_a_certificate_of_another_ca_if_it_is_its_own(pki: Path) -> None:
    with serving(always(200, "ok"), tls=tls(pki, "other", ssl.CERT_NONE)) as server:
        flags = [f"--secure-port={port(server)}", f"--client-ca-file={pki}/ca.crt"]
        assert ask("kube-apiserver", *flags, f"--tls-cert-file={pki}/other.crt") == ""
        assert ask("kube-apiserver", *flags, f"--tls-cert-file={pki}/server.crt") == (
            f"the certificate at 127.0.0.1:{port(server)} is not accepted (unable to get local issuer certificate)"
        )


def test_a_client_that_is_refused_is_told(pki: Path) -> None:
    with serving(always(200, "ok"), tls=tls(pki)) as server:
        said = ask("etcd", f"--listen-client-urls={server.address}", f"--trusted-ca-file={pki}/ca.crt")
    assert said.startswith(f"{urlsplit(server.address).netloc} ends the TLS connection (")


@pytest.mark.parametrize("component", ["kube-controller-manager", "kube-scheduler"])
def test_a_certificate_that_a_component_made_itself_is_not_verified(component: str, pki: Path) -> None:
    with serving(always(200, "ok"), tls=tls(pki, "other", ssl.CERT_NONE)) as server:
        assert ask(component, f"--secure-port={port(server)}", "--bind-address=127.0.0.1") == ""
        # As where it listens on every address.
        assert ask(component, f"--secure-port={port(server)}", "--bind-address=0.0.0.0") == ""
    assert paths(server) == [b"/healthz", b"/healthz"]


def test_a_kubelet_and_a_proxy_are_asked_where_their_settings_say(tmp_path: Path) -> None:
    with serving(always(200, "ok")) as server:
        settings = tmp_path / "config.yaml"
        settings.write_text(f"healthzPort: {port(server)}\nhealthzBindAddress: 127.0.0.1\n")
        assert ask("kubelet", f"--config={settings}") == ""
        settings.write_text(f'{{\n\t"healthzBindAddress": "0.0.0.0:{port(server)}"\n}}')
        assert ask("kube-proxy", f"--config={settings}") == ""
        assert ask("kubelet", f"--healthz-port={port(server)}") == ""
    assert paths(server) == [b"/healthz", b"/livez", b"/healthz"]


@pytest.mark.parametrize(
    ("component", "flags", "said"),
    [
        # Addresses and ports are those of the flags.
        ("etcd", ["--listen-metrics-urls=http://127.9.9.9:2381"], "nothing answers at 127.9.9.9:2381"),
        ("etcd", ["--listen-metrics-urls", "https://127.9.9.8:1,http://127.9.9.9:2"], "nothing answers at 127.9.9.9:2"),
        ("kubelet", ["--healthz-bind-address=127.9.9.9"], "nothing answers at 127.9.9.9:10248"),
        ("kube-proxy", ["--healthz-bind-address=127.9.9.9:10256"], "nothing answers at 127.9.9.9:10256"),
        ("kube-controller-manager", ["--bind-address=127.9.9.9"], "nothing answers at 127.9.9.9:10257"),
        ("kube-scheduler", ["--bind-address=127.9.9.9"], "nothing answers at 127.9.9.9:10259"),
        (
            "kube-apiserver",
            ["--bind-address=127.9.9.9", "--client-ca-file=FILE"],
            "nothing answers at 127.9.9.9:6443",
        ),
        # What cannot be asked is told.
        ("kube-scheduler", ["--secure-port=0"], "its --secure-port is 0, so it cannot be asked: remove that flag"),
        ("kubelet", ["--healthz-port=0"], "its healthzPort is 0, so it cannot be asked: remove that setting"),
        ("kubelet", ["--healthz-port=99999"], "its flags name no address at which it can be asked"),
        ("kube-proxy", ["--healthz-bind-address=a b"], "its flags name no address at which it can be asked"),
        ("etcd", ["--listen-metrics-urls=http://127.0.0.1:x"], "its flags name no address at which it can be asked"),
        (
            "etcd",
            ["--name=a"],
            "its command line does not say where it listens: give it --listen-metrics-urls=http://127.0.0.1:2381",
        ),
        ("kube-apiserver", [], "the CA file in its flags has no certificate that can be read"),
        (
            "kube-apiserver",
            [f"--{each}={FILE}" for each in ("client-ca-file", "kubelet-client-certificate", "kubelet-client-key")],
            "the CA, certificate or key in its flags cannot be used",
        ),
    ],
)
def test_flags_say_where_and_how_it_is_asked(component: str, flags: list[str], said: str, pki: Path) -> None:
    assert ask(component, *(flag.replace(FILE, f"{pki}/ca.crt") for flag in flags)) == said


def test_files_that_are_none_are_not_waited_for(pki: Path) -> None:
    """Any user can start a process with such flags."""
    os.mkfifo(pki / "pipe")
    for file in (pki / "pipe", Path("/dev/zero"), pki, pki / "missing", Path("relative")):
        assert ask("kube-apiserver", f"--client-ca-file={file}").endswith("no certificate that can be read")
        assert ask("etcd", f"--config-file={file}").startswith("its command line does not say")


def test_every_component_can_be_asked() -> None:
    assert frozenset(COMPONENTS) == component_health.KNOWN
    for component in COMPONENTS:
        assert ask(component, "--bind-address=127.9.9.9", "--healthz-bind-address=127.9.9.9:1", timeout=SHORT) != ""
