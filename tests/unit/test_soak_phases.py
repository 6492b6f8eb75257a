"""What a phase of the soak with rotations takes for wrong."""

from __future__ import annotations

from typing import Any, Final

import pytest

from helpers.kube.client_load import Failure, of_tls
from soak.phases import Phase, report

WELL: Final[dict[str, Any]] = {"server": "bao", "name": "etcd rotated", "seconds": 60.0, "requests": 1000}
UNTRUSTED = "SSLCertVerificationError: certificate verify failed: unable to get local issuer certificate"
NODE_JS = "UNABLE_TO_GET_ISSUER_CERT_LOCALLY: unable to get local issuer certificate"


def failed(*texts: str) -> tuple[Failure, ...]:
    return tuple(Failure(100.0 + number, "Python beside w-1", text) for number, text in enumerate(texts))


def test_a_phase_in_which_nothing_failed_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([Phase(**WELL)]) == 0
    assert "| bao | etcd rotated | 60 s | 1000 | 0 | 0 | 0 | 0 | 0.0 s |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "phase",
    [
        Phase(**WELL, failures=failed(UNTRUSTED)),
        Phase(**WELL, failures=failed(NODE_JS)),
        Phase(**WELL, failures=failed("401 Unauthorized")),
        Phase(**WELL, unauthorized=("cp-1: get /api",)),
        Phase(**WELL, complaints=("cp-1's etcd: rejected connection",)),
        Phase(**WELL, failures=failed(*["ConnectionResetError: connection reset"] * 11)),
        Phase(**WELL, broken="AssertionError: etcd stays switched"),
        Phase(**WELL, failures=failed(*[UNTRUSTED] * 12), most_outage=10),
        Phase.of_watch("bao", "admin", [7]),
        Phase.of_listeners("bao", "etcd", ["m-1:2379"]),
    ],
)
def test_what_must_not_be_ends_with_1(phase: Phase, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([Phase(**WELL), phase]) == 1
    assert f"{phase.server}, {phase.name}: " in capsys.readouterr().out


def test_an_emergency_may_have_an_outage_that_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    phase = Phase(
        **WELL, failures=failed(UNTRUSTED, "connection reset", UNTRUSTED), unauthorized=("x",), most_outage=10
    )
    assert report([phase]) == 0
    assert "| 2 | 1 | 0 | 1 | 2.0 s |" in capsys.readouterr().out


def test_the_only_api_server_may_be_away_for_a_time_that_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    refused = failed(*["ConnectionRefusedError: connection refused"] * 30)
    assert report([Phase(**WELL, failures=refused, most_away=29)]) == 0
    assert "| outage | away at most |" in (said := capsys.readouterr().out) and "| 30 | 0.0 s | 29 s |" in said
    assert report([Phase(**WELL, failures=refused, most_away=28)]) == 1


def test_failures_that_are_far_apart_are_no_outage() -> None:
    refused = tuple(Failure(100.0 * number, "write", "connection refused") for number in range(9))
    assert Phase(**WELL, failures=refused).away == 0


def test_a_restart_may_end_some_connections() -> None:
    assert report([Phase(**WELL, failures=failed(*["ConnectionResetError: connection reset"] * 10))]) == 0


@pytest.mark.parametrize(
    ("said", "so"),
    [
        ("401: Unauthorized", True),
        ("the server answers 401 to GET /api", True),
        ("x509: certificate signed by unknown authority", True),
        ('"msg":"request stats","time spent":"401.074211ms"', False),
        ("request #401 took long", False),
        ('"peer":"Peer{AuthInfo: \'tls\'}","error":"desc = etcdserver: leader changed"', False),
        ('"peer":"Peer{AuthInfo: \'tls\'}","error":"desc = tls: bad certificate"', True),
        ("UID in precondition: 7616afc8-26ee-401d-a401-401eb1776b53", False),
        ("UID in precondition: 7616afc8-26ee-4012-a240-401-70a6eb1776b5", False),
    ],
)
def test_what_complains_of_tls(said: str, so: bool) -> None:
    assert of_tls(said) is so
