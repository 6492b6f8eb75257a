"""Which signer signs: the Lease at an API server that answers over TLS, and two signers with clocks of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from helpers.kube import answering_api
from helpers.kube.answering_api import Api
from vaultpki.errors import StateConflict, Unavailable
from vaultpki.kube.writer import ClusterWriter
from vaultpki.signer.lease import LEASE, LEASE_SECONDS, RENEW_SECONDS, Leadership

pytestmark = [pytest.mark.serverless, pytest.mark.on_node]

OBJECT = {"metadata": {"name": "vaultpki-signer", "resourceVersion": "1"}}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Api, ClusterWriter]]:
    ca = trustme.CA()
    with answering_api.serving({LEASE: OBJECT}, ca.issue_cert("127.0.0.1").configure_cert) as server:
        yield server, ClusterWriter(answering_api.access(server, tmp_path, ca.cert_pem.bytes()))


def test_the_first_one_takes_it_and_keeps_it_while_it_renews(api: tuple[Api, ClusterWriter]) -> None:
    server, writer = api
    clock = Clock()
    first, second = Leadership("cp-1", clock), Leadership("cp-2", clock)
    for _ in range(20):
        first.renew(writer)
        second.renew(writer)
        assert (first.leads, second.leads) == (True, False)
        clock.now += RENEW_SECONDS
    assert server.values[LEASE]["spec"]["holderIdentity"] == second.holder == "cp-1"
    assert server.values[LEASE]["spec"]["leaseTransitions"] == 1


def test_another_one_takes_it_when_it_was_not_renewed_and_never_while_the_first_signs(
    api: tuple[Api, ClusterWriter],
) -> None:
    _, writer = api
    clock = Clock()
    first, second = Leadership("cp-1", clock), Leadership("cp-2", clock)
    first.renew(writer)
    second.renew(writer)
    until = clock.now + LEASE_SECONDS
    while not second.leads:
        clock.now += 1.0
        second.renew(writer)
        assert not (first.leads and second.leads)
    assert clock.now >= until
    first.renew(writer)
    assert (first.leads, second.leads) == (False, True)


def test_one_that_ends_gives_it_back_and_nobody_waits(api: tuple[Api, ClusterWriter]) -> None:
    _, writer = api
    clock = Clock()
    first, second = Leadership("cp-1", clock), Leadership("cp-2", clock)
    first.renew(writer)
    second.renew(writer)
    first.release(writer)
    assert not first.leads
    second.renew(writer)
    assert second.leads
    # What is another one's now stays so.
    first.release(writer)
    assert Leadership("cp-2", clock).holder == ""
    second.renew(writer)
    assert second.leads


def test_one_that_starts_again_on_its_node_need_not_wait(api: tuple[Api, ClusterWriter]) -> None:
    _, writer = api
    clock = Clock()
    Leadership("cp-1", clock).renew(writer)
    again = Leadership("cp-1", clock)
    again.renew(writer)
    assert again.leads


def test_of_two_that_write_at_once_one_signs(api: tuple[Api, ClusterWriter]) -> None:
    server, writer = api
    clock = Clock()
    first, second = Leadership("cp-1", clock), Leadership("cp-2", clock)
    answer = server.answers

    def meanwhile(path: str, known: bool) -> object:
        found = answer(path, known)
        server.answers = answer
        first.renew(writer)
        return found

    server.answers = meanwhile
    second.renew(writer)
    assert (first.leads, second.leads) == (True, False)


def test_without_a_lease_and_without_an_api_server_nobody_signs(api: tuple[Api, ClusterWriter]) -> None:
    server, writer = api
    clock = Clock()
    one = Leadership("cp-1", clock)
    one.renew(writer)
    server.values[LEASE] = 503
    with pytest.raises(Unavailable):
        one.renew(writer)
    assert one.leads
    clock.now += LEASE_SECONDS
    assert not one.leads
    del server.values[LEASE]
    with pytest.raises(StateConflict, match=r"apply the manifest signer\.yaml"):
        one.renew(writer)
