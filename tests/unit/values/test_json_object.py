"""The reader of our own JSON: what is not of its kind is refused, with its field."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.values import names
from vaultpki.values.json_object import Integer, Items, JsonMember, JsonObject, JsonText, Object, parse, word

VALUE = {"version": 1, "word": "a-1", "text": "any", "texts": ["a", "b"], "integer": 5}
READ: dict[str, Callable[[JsonObject], Any]] = {
    "word": lambda read: read.get("word", word(names.label)),
    "text": lambda read: read.get("text", JsonText()),
    "texts": lambda read: read.get("texts", Items(JsonText())),
    "integer": lambda read: read.get("integer", Integer(0, 10)),
    "version": lambda read: read.refuse_other_version(),
}


def test_what_is_right_is_read() -> None:
    read = JsonObject(VALUE, "file", "is wrong")
    found = {key: read_it(read) for key, read_it in READ.items()}
    assert found == {"word": "a-1", "text": "any", "texts": ("a", "b"), "integer": 5, "version": None}


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


@dataclass(frozen=True)
class Pair:
    name: str
    other: str | None
    words: tuple[str, ...] = ()


PAIR: Object[Pair] = Object(
    Pair,
    {
        "name": JsonText(),
        "second": JsonMember(JsonText(), "other", null=True),
        "words": JsonMember(Items(JsonText(), 2), left_out=True),
    },
    "a pair",
    "do this",
    odd=lambda pair: "second" if pair.name == pair.other else "",
)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"name": "a", "second": None}, Pair("a", None)),
        ({"name": "a", "second": "b", "words": ["c"]}, Pair("a", "b", ("c",))),
    ],
)
def test_members_are_read_and_written_by_one_declaration(value: dict[str, Any], read: Pair) -> None:
    assert PAIR.read({**value, "of a later release": 1}, "file") == read
    assert json.dumps(PAIR.write(read)) == json.dumps(value)
    assert PAIR.read({"name": "a"}, "file") == Pair("a", None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "file: is not a pair; do this"),
        ({}, "file: name: contains a value that vaultpki does not write; do this"),
        ({"name": "a", "words": None}, "file: words: contains a value that vaultpki does not write; do this"),
        ({"name": "a", "words": list("abc")}, "file: words: contains a value that vaultpki does not write; do this"),
        ({"name": "a", "second": "a"}, "file: second: contains a value that vaultpki does not write; do this"),
    ],
)
def test_a_member_that_is_wrong_or_does_not_fit_the_others_is_named(value: object, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        PAIR.read(value, "file")
    assert str(caught.value) == said
