"""Versions that nodes report are in the order in which they were made."""

from __future__ import annotations

from vaultpki.values import release_order


def test_a_build_before_a_release_comes_before_it() -> None:
    ordered = [
        "0.1.0",
        "0.2.0.dev0+unknown",
        "0.2.0.dev0+20261128072211.gfd8b50c",
        "0.2.0.dev0+20261128080000.g0000000",
        "0.2.0.dev9+gfd8b50c",
        "0.2.0.dev120+gabcdef1",
        "0.2.0.dev120+gabcdef1.dirty",
        "0.2.0",
        "0.10.0.dev1+gabcdef1",
    ]
    assert ordered != sorted(ordered)
    assert ordered == sorted(sorted(ordered), key=release_order.key)


def test_what_is_no_version_comes_last() -> None:
    reported = ["of unknown version", "0.2.0", "9" * 10_000, "", "of unknown version"]
    assert sorted(reported, key=release_order.key) == ["0.2.0", "", "9" * 10_000, *["of unknown version"] * 2]
