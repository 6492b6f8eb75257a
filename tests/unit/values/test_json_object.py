"""The reader of our own JSON: what is not of its kind is refused, with its field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.values import names
from vaultpki.values.json_object import JsonObject, parse

VALUE = {"version": 1, "word": "a-1", "text": "any", "texts": ["a", "b"], "integer": 5, "none": None}
READ: dict[str, Callable[[JsonObject], Any]] = {
    "word": lambda read: read.word("word", names.label),
    "text": lambda read: read.text("text"),
    "texts": lambda read: read.texts("texts"),
    "integer": lambda read: read.integer("integer", 0, 10),
    "version": lambda read: read.refuse_other_version(),
}


def test_what_is_right_is_read() -> None:
    read = JsonObject(VALUE, "file", "is wrong")
    found = {key: read_it(read) for key, read_it in READ.items()}
    assert found == {"word": "a-1", "text": "any", "texts": ["a", "b"], "integer": 5, "version": None}
    assert read.optional("none", names.label) is None and read.optional("missing", names.label) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("word", value) for value in ("A", "", "a\n", None, 7, ["a"])),
        *(("text", value) for value in (None, 7, True, ["a"])),
        *(("texts", value) for value in ("a", None, ["a", "a"], [1], [None], {"a": "b"}, [["a"]])),
        *(("integer", value) for value in (True, False, 5.0, "5", None, -1, 11, 10**400, float("nan"))),
        *(("version", value) for value in (True, 0, -1, 1.0, "1", None, float("inf"), [1])),
    ],
)
def test_what_is_not_is_refused_with_its_field(key: str, value: object) -> None:
    with pytest.raises(SpecError, match="is wrong") as caught:
        READ[key](JsonObject({**VALUE, key: value}, "file", "is wrong"))
    assert (caught.value.file, caught.value.field) == ("file", key)


def test_a_newer_version_says_what_to_do() -> None:
    with pytest.raises(SpecError, match="has version 2 and this vaultpki speaks 1; install the newer vaultpki here"):
        JsonObject({"version": 2}, "file", "is wrong").refuse_other_version()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff{}", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_object_is_none(raw: bytes) -> None:
    assert parse(raw) is None
    assert parse(b'{"a": 1}') == {"a": 1}
