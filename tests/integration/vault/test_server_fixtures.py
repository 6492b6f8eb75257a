"""The fixtures themselves: a server that is not what it says would make every other test worthless."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from helpers.vault import server_calls
from helpers.vault.servers import Server

pytestmark = pytest.mark.container


def test_it_is_the_product_it_says(server: Server) -> None:
    # Only OpenBao's configuration takes audit devices, only Vault's API does.
    answer = server.api("PUT", "sys/audit/probe", {"type": "file", "options": {"file_path": "/dev/null"}})
    assert (answer.status < 300) is (server.product == "vault"), answer
    server.api("DELETE", "sys/audit/probe")


def test_another_ca_is_not_trusted(server: Server, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    with pytest.raises(ssl.SSLCertVerificationError):
        server_calls.call(server.address, tmp_path / "other.crt", "GET", "sys/health")


def test_the_audit_log_counts_reads_and_writes(server: Server, prefix: str) -> None:
    start = server.audit_position()
    assert server.api("GET", "sys/mounts").status == 200
    assert server.writes(start) == []
    assert server.api("POST", f"sys/mounts/{prefix}", {"type": "pki"}).status == 204
    assert server.requests(start) == [("read", "sys/mounts"), ("update", f"sys/mounts/{prefix}")]
    assert server.writes(start) == [("update", f"sys/mounts/{prefix}")]
    assert server.api("DELETE", f"sys/mounts/{prefix}").status == 204


def test_a_wrong_token_is_refused(server: Server) -> None:
    assert server.api("GET", "sys/mounts", token="no-such-token").status == 403


def test_it_seals_stops_and_comes_back_with_its_data(own_server: Server) -> None:
    assert own_server.api("POST", "sys/mounts/kept", {"type": "pki"}).status == 204
    own_server.seal()
    assert own_server.api("GET", "sys/mounts").status == 503
    own_server.unseal()
    own_server.stop()
    with pytest.raises(ConnectionRefusedError):
        own_server.api("GET", "sys/health")
    own_server.start()
    assert "kept/" in own_server.api("GET", "sys/mounts").data


def test_a_frozen_server_does_not_answer_until_thawed(own_server: Server) -> None:
    own_server.freeze()
    with pytest.raises(TimeoutError):
        own_server.api("GET", "sys/health", timeout=0.5)
    own_server.thaw()
    assert own_server.api("GET", "sys/health").status == 200
