"""Two values differ item by item, and are never shown so that both sides read alike."""

from __future__ import annotations

from typing import Any

import pytest

from vaultpki.provision.causes import by_name
from vaultpki.provision.differences import as_text, certificate_differences, differences


@pytest.mark.parametrize(
    ("field", "old", "new", "said"),
    [
        ("ttl", 2592000, 604800, ["ttl 30d -> 7d"]),
        ("ttl", 0, 604800, ["ttl 0 -> 7d"]),
        ("secret_id_ttl", ["5184000"], ["10368000"], ["secret_id_ttl + 120d - 60d"]),
        ("key_bits", 256, 2048, ["key_bits 256 -> 2048"]),
        ("flag", False, None, ["flag false -> nothing"]),
        ("names", ["a", "b"], ["b", "c", "d"], ["names + c, d - a"]),
        ("names", ["a", "a"], ["a"], ["names - a"]),
        ("names", ["b", "a"], ["a", "b"], []),
        ("mixed", [1, "a"], ["a", 1], ['mixed [1, "a"] -> ["a", 1]']),
        ("ip_sans", ["10.0.0.1,127.0.0.1"], ["10.0.0.2,127.0.0.1"], ["ip_sans + 10.0.0.2 - 10.0.0.1"]),
        # Here the order is a part of what a policy lets pass.
        ("ip_sans", ["10.0.0.1,10.0.0.2"], ["10.0.0.2,10.0.0.1"], ["ip_sans + 10.0.0.2,10.0.0.1 - 10.0.0.1,10.0.0.2"]),
        (
            "rule",
            {"a": ["x"], "b": {"ttl": 60}},
            {"a": ["y"], "b": {"ttl": 120}},
            ["rule.a + y - x", "rule.b.ttl 1m -> 2m"],
        ),
        ("text", "one\ntwo\n", "one\nthree\n", ["text + three - two"]),
        ("name", "", "a b", ['name "" -> "a b"']),
        ("name", "x" * 300, "x" * 300 + "y", [f"name {'x' * 300} -> {'x' * 300}y"]),
    ],
)
def test_what_differs_is_said_item_by_item(field: str, old: Any, new: Any, said: list[str]) -> None:
    assert differences(field, old, new) == said


def test_of_certificates_in_pem_the_digest_is_said() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (one,) = differences("ca_pem", pem, pem.replace("A", "B"))
    assert one.startswith("ca_pem (text with SHA-256 ") and "AAAA" not in one
    before, after = one.removeprefix("ca_pem ").split(" -> ")
    assert before != after


@pytest.mark.parametrize("evil", ["\x1b[2J", "a\nb", "\u202egpj", "\x9b31m", "a\rb", "\x00", "\u2028"])
def test_nothing_of_a_value_steers_a_terminal(evil: str) -> None:
    for old, new in ((evil, "x"), ([evil], ["x"]), ({evil: evil}, {}), ({evil: [evil]}, {evil: [f"{evil}1"]})):
        for difference in differences("field", old, new):
            assert difference.isprintable(), difference
    assert as_text("field", evil).isprintable() and as_text("field", [evil]).isprintable()
    assert as_text("field", evil) != as_text("field", "?")


def test_a_certificate_is_compared_field_by_field_in_words() -> None:
    old = {"name": "etcd-peer", "ips": ["10.0.0.11", "::1"], "dns": ["cp-1"], "ttl": 2592000, "file": "etcd-peer"}
    new = {**old, "ips": ["10.0.0.12", "::1"], "ttl": 604800}
    assert certificate_differences(old, new) == [
        "addresses + 10.0.0.12 - 10.0.0.11",
        "ttl 30d -> 7d",
    ]
    assert certificate_differences(old, dict(reversed(old.items()))) == []


def test_certificates_go_by_their_names() -> None:
    assert by_name([{"name": "a"}, {"name": "b"}]) == {"a": {"name": "a"}, "b": {"name": "b"}}
    assert by_name(None) == by_name("text") == by_name([1, {}, {"no": "name"}]) == {}
