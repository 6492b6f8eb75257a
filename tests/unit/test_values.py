"""Our `dataclass` beside the standard library's: the same class statement, and nothing tells the two apart."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, asdict, field, fields, replace
from typing import Any

import pytest

from vaultpki import values


def both(make: Callable[[Any], type[Any]]) -> list[type[Any]]:
    return [make(dataclasses.dataclass), make(values.dataclass)]


def frozen(dataclass: Any) -> type[Any]:
    @dataclass(frozen=True, slots=True)
    class Value:
        """Said."""

        name: str
        count: int = 3
        held: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
        names: tuple[str, ...] = ()

        @property
        def twice(self) -> int:
            return self.count * 2

    return typing.cast(type[Any], Value)


@pytest.mark.parametrize("value", both(frozen), ids=["theirs", "ours"])
def test_a_frozen_value(value: type[Any]) -> None:
    one = value("a", held={"x": 1})
    assert (one.name, one.count, one.held, one.names, one.twice) == ("a", 3, {"x": 1}, (), 6)
    assert one == value("a", 3) and one != value("a", 4) and one != ("a", 3, {}, ()) and hash(one) == hash(value("a"))
    assert repr(one).endswith("Value(name='a', count=3, names=())")
    assert value.__doc__ == "Said." and not hasattr(one, "__dict__") and value("b").held is not value("b").held
    assert replace(one, count=9) == value("a", 9) and replace(one, count=9).held == {"x": 1}
    assert asdict(one) == {"name": "a", "count": 3, "held": {"x": 1}, "names": ()}
    assert [each.name for each in fields(one)] == ["name", "count", "held", "names"]
    assert typing.get_type_hints(value)["count"] is int
    assert copy.copy(one) == one and copy.deepcopy(one).held == {"x": 1}
    changes: list[Callable[[], None]] = [
        lambda: setattr(one, "count", 4),
        lambda: delattr(one, "count"),
        lambda: setattr(one, "more", 4),
    ]
    for change in changes:
        with pytest.raises((FrozenInstanceError, TypeError)):
            change()
    assert one.count == 3
    match one:
        case value(name, 3):
            assert name == "a"
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize("value", both(frozen), ids=["theirs", "ours"])
@pytest.mark.parametrize(
    ("given", "named"), [((), {}), ((), {"count": 1}), (("a",), {"name": "a"}), (("a",), {"else": 1}), (range(5), {})]
)
def test_a_value_of_the_wrong_shape(value: type[Any], given: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        value(*given, **named)


def test_a_value_that_changes() -> None:
    def make(dataclass: Any) -> type[Any]:
        @dataclass(slots=True)
        class Value:
            count: int = 3

        return typing.cast(type[Any], Value)

    for value in both(make):
        one = value()
        one.count += 1
        assert one == value(4) and repr(one).endswith("Value(count=4)")
        with pytest.raises(AttributeError):
            one.more = 1
        with pytest.raises(TypeError):
            hash(one)


def test_its_own_methods_stay() -> None:
    def make(dataclass: Any) -> type[Any]:
        @dataclass(frozen=True, slots=True)
        class Value:
            secret: str

            def __repr__(self) -> str:
                return "Value(hidden)"

            def __post_init__(self) -> None:
                if not self.secret:
                    raise ValueError("empty")

        return typing.cast(type[Any], Value)

    for value in both(make):
        assert repr(value("x")) == "Value(hidden)"
        with pytest.raises(ValueError, match="empty"):
            value("")


def test_without_comparison_each_is_its_own() -> None:
    def make(dataclass: Any) -> type[Any]:
        @dataclass(frozen=True, slots=True, eq=False, repr=False)
        class Value:
            name: str

        return typing.cast(type[Any], Value)

    for value in both(make):
        one = value("a")
        assert one == one and one != value("a") and len({one, value("a")}) == 2 and "object at" in repr(one)


def test_a_value_can_be_carried() -> None:
    from vaultpki.model import Subject

    subject = Subject("system:node:w-1", ("system:nodes",))
    assert pickle.loads(pickle.dumps(subject)) == subject  # noqa: S301 - our own  # noqa: S301 - our own
