"""What an agent's words and small rules promise: which pairs need no new certificate, and when a clock is odd."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers import sample_certificates
from helpers.example_agent import agent_config
from vaultpki.agent.pairs import PairStatus
from vaultpki.certificates import SKEW
from vaultpki.errors import StoreError
from vaultpki.join import doctor
from vaultpki.join.checks import JoinPlan
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.pki.renewal import MENDABLE, Assessment, Reason
from vaultpki.records.join_file import Join

WANT = Certificate(
    "kubelet", Usage.SERVER, Subject("w-1"), "kubelet", "m/kubelet", "kubelet", 86400, KeyType.EC_P256, "kubelet"
)
MODE = min(MENDABLE, key=lambda reason: reason.value)


@pytest.mark.parametrize(
    ("reasons", "problem", "mendable"),
    [
        ((MODE,), None, True),
        ((MODE, Reason.DUE), None, True),
        ((), None, False),
        ((Reason.DUE,), None, False),
        # Whoever corrects the mode of one that is not whole shows others half a pair.
        ((MODE, Reason.KEY_MISMATCH), None, False),
        ((MODE, Reason.MISSING), None, False),
        ((MODE,), StoreError("cannot be read"), False),
    ],
)
def test_a_whole_pair_is_corrected_on_the_files(
    reasons: tuple[Reason, ...], problem: StoreError | None, mendable: bool
) -> None:
    leaf = sample_certificates.LEAF
    assert PairStatus(WANT, {}, Assessment(reasons, leaf.not_after), leaf, problem).mendable == mendable


@pytest.mark.parametrize(
    ("offset", "verdict", "words"),
    [
        (60.0, "ok", ""),
        (-60.0, "ok", ""),
        (61.0, "warning", f"61 s behind the server's; set it right before it is more than {SKEW} s"),
        (-float(SKEW), "warning", f"{SKEW} s ahead of the server's; set it right before"),
        (SKEW + 1.0, "failed", "behind the server's; nothing is signed until it is set right"),
        (-SKEW - 1.0, "failed", "ahead of the server's; nothing is signed until it is set right"),
    ],
)
def test_doctor_tells_of_a_clock_before_nothing_is_signed_any_more(offset: float, verdict: str, words: str) -> None:
    check = doctor._clock(offset, "https://vault.example.com:8200")
    assert check.verdict == verdict and words in check.detail


def test_doctor_says_where_a_lost_credential_may_be(tmp_path: Path) -> None:
    """The folder may lie on a disk that is not mounted: nobody has to enroll the node again for that."""
    config = agent_config(state=str(tmp_path / "gone"))
    with pytest.raises(StoreError, match=f"{config.state} is missing.* mount that; else join with a new join file"):
        doctor._state(config)
    assert not (tmp_path / "gone").exists()


def test_doctor_leaves_a_join_file_alone_while_no_server_answers(tmp_path: Path) -> None:
    """What could not be asked is no failure of the cluster or of the join file."""
    with socket.socket() as taken:
        # Bound, and nobody listens.
        taken.bind(("127.0.0.1", 0))
        addresses = (f"https://127.0.0.1:{taken.getsockname()[1]}",)
        join = Join(
            cluster="prod",
            prefix="vaultpki/prod",
            node="cp-1",
            pool=None,
            addresses=addresses,
            ca_pem=None,
            root_sha256="4f" * 32,
            role_id="9a0e",
            wrap_token="hvs.token",
            expires=datetime(2026, 5, 1, tzinfo=UTC),
        )
        plan = JoinPlan(join, None, f"{tmp_path}/agent.yaml", f"{tmp_path}/pki", f"{tmp_path}/state")
        found = list(doctor.before_join(plan, datetime.now(UTC), allow_http=False))
    verdicts = {each.check: each.verdict for each in found}
    assert verdicts[f"Vault at {addresses[0]}"] == "failed"
    assert [verdicts["cluster"], verdicts["join file"]] == ["unchecked", "unchecked"]
