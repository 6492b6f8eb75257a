"""The reader of our own JSON: what is not of its kind is refused, with its field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Annotated, Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.values import names
from vaultpki.values.json_object import (
    Integer,
    Items,
    JsonMember,
    JsonObject,
    JsonText,
    Object,
    from_asdict,
    parse,
    word,
)

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


@dataclass(frozen=True)
class Kept:
    pair: tuple[int, int]
    inner: Mapping[str, Inner | None]
    _: KW_ONLY
    later: Annotated[int, abs] = 0


@dataclass(frozen=True)
class Inner:
    words: tuple[str, ...]
    fit: bool = False


BY_TYPE = {bool: lambda value: value is True}


@pytest.mark.parametrize(
    "kept", [Kept((1, 2), {"a": Inner(("b",), fit=True), "c": None}, later=3), Kept((0, 0), {"a": Inner(())})]
)
def test_what_asdict_wrote_is_read_by_the_types_of_the_fields(kept: Kept) -> None:
    assert from_asdict(Kept, json.loads(json.dumps(asdict(kept))), BY_TYPE) == kept
    # A number that is written as text is one, and only `later` may be missing.
    assert from_asdict(Kept, {"pair": ["1", 2.5], "inner": {}}, BY_TYPE) == Kept((1, 2), {})
    assert from_asdict(Kept, {"pair": [1, 2], "inner": {}, "later": -3}, BY_TYPE).later == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [],
        {"pair": [1, 2]},
        {"pair": [1], "inner": {}},
        {"pair": [1, 2, 3], "inner": {}},
        {"pair": None, "inner": {}},
        {"pair": [1, "x"], "inner": {}},
        {"pair": [1, 2], "inner": []},
        {"pair": [1, 2], "inner": {"a": {"words": []}}},
        {"pair": [1, 2], "inner": {}, "later": None},
    ],
)
def test_what_asdict_has_not_written_is_refused(wrong: object) -> None:
    with pytest.raises((KeyError, ValueError, TypeError, AttributeError)):
        from_asdict(Kept, wrong, BY_TYPE)
