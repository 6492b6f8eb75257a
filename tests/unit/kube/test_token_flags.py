"""How long tokens live by the flags of kube-apiserver, and what a cluster shows of tokens."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vaultpki.kube.token_flags import YEAR, TokenFlags, go_duration, legacy_tokens, stale_tokens, token_flags
from vaultpki.token_keys.life import TokenLife, longest_life

EXTEND, MOST = "--service-account-extend-token-expiration", "--service-account-max-token-expiration"


@pytest.mark.parametrize(
    ("arguments", "life"),
    [
        ([], YEAR),
        ([f"{EXTEND}=true"], YEAR),
        ([EXTEND], YEAR),
        # Nothing limits what is asked for.
        ([f"{EXTEND}=false"], YEAR),
        ([f"{MOST}=24h"], YEAR),
        ([f"{EXTEND}=false", f"{MOST}=24h0m0s"], 86400),
        ([f"{EXTEND}=0", MOST, "1h30m"], 5400),
        ([f"{EXTEND}=F", f"{MOST}=1h0m0.5s"], 3601),
        ([f"{MOST}=17520h"], 2 * YEAR),
        ([f"{EXTEND}=false", f"{MOST}=0"], YEAR),
    ],
)
def test_the_longest_life(arguments: list[str], life: int) -> None:
    found = token_flags(["--secure-port=6443", *arguments])
    assert found is not None and found.life == life


@pytest.mark.parametrize("text", ["", "1", "1d", "h", "-1h", "1h ", "one"])
def test_a_duration_that_go_does_not_read_is_not_known(text: str) -> None:
    assert go_duration(text) is None
    assert token_flags([f"{MOST}={text}"]) is None


def test_the_longest_of_all_and_who_is_not_known() -> None:
    flags = {"cp-1": TokenFlags(extends=False, longest=3600), "cp-2": TokenFlags(extends=False, longest=7200)}
    assert longest_life(["cp-2", "cp-1"], flags) == TokenLife(7200)
    assert longest_life(["cp-1", "cp-3"], flags) == TokenLife(None, ("cp-3",))
    assert longest_life([], flags) == TokenLife(None)
    assert longest_life(["cp-1", "cp-2"], flags | {"cp-2": TokenFlags()}) == TokenLife(YEAR)


def test_secrets_are_named_and_dated_and_odd_objects_left_out() -> None:
    about = {"name": "robot", "namespace": "ci", "creationTimestamp": "2024-05-01T00:00:00Z"}
    found = list(legacy_tokens([{"metadata": about}, {"metadata": {"name": 1}}, None, {"metadata": {"name": "x"}}]))
    assert [(each.name, each.created) for each in found] == [("ci/robot", datetime(2024, 5, 1, tzinfo=UTC))]


@pytest.mark.parametrize(
    ("metrics", "count"),
    [
        (b"# TYPE serviceaccount_stale_tokens_total counter\nserviceaccount_stale_tokens_total 12\nx 1\n", 12),
        (b"serviceaccount_stale_tokens_total 1.2e+03\n", 1200),
        (b"serviceaccount_legacy_tokens_total 3\n", None),
        (b"serviceaccount_stale_tokens_total e+\n", None),
        (b"", None),
    ],
)
def test_the_counter_of_stale_tokens(metrics: bytes, count: int | None) -> None:
    assert stale_tokens(metrics) == count
