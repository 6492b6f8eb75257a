"""What an agent's words and small rules promise: which pairs need no new certificate, and when a clock is odd."""

from __future__ import annotations

import pytest

from helpers import sample_certificates
from vaultpki.agent.pairs import PairStatus
from vaultpki.certificates import SKEW
from vaultpki.errors import StoreError
from vaultpki.join import doctor
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.pki.renewal import MENDABLE, Assessment, Reason

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
