"""`dataclass` for a program that starts often: as the standard library's, but without compiling anything for a class.

`dataclasses` writes six methods of every class as source and compiles them, some 0.8 ms for each class at each start,
and a command loads sixty. Here all classes share the same few methods, which go by a class's fields. `field`,
`replace`, `fields` and `asdict` stay the standard library's, and a type checker sees its `dataclass`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

__all__ = ["dataclass"]

_MISSING: Final = dataclasses.MISSING
_Class = type[Any]
_Method = Callable[..., Any]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(
        *,
        slots: bool,
        frozen: bool = False,
        eq: bool = True,
        repr: bool = True,  # noqa: A002 - theirs
    ) -> Callable[[_Class], _Class]:
        """As the standard library's, for classes with slots whose fields are all their own and all in `__init__`."""
        if not slots:
            raise TypeError("every class of values has slots")
        return lambda cls: _made(cls, frozen=frozen, eq=eq, shown=repr)


def _made(cls: _Class, *, frozen: bool, eq: bool, shown: bool) -> _Class:
    own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    fields = {name: _field(name, kind, own.pop(name, _MISSING)) for name, kind in cls.__annotations__.items()}
    names = tuple(fields)
    own |= {
        "__slots__": names,
        "__match_args__": names,
        "__dataclass_fields__": fields,
        "__qualname__": cls.__qualname__,
    }
    methods: dict[str, _Method | None] = {"__getstate__": _state_of(names), "__setstate__": _set_state(names)}
    if frozen:
        methods |= {"__setattr__": _refuse, "__delattr__": _refuse}
    if eq:
        methods |= _compared(tuple(name for name in names if fields[name].compare), hashed=frozen)
    if shown:
        methods["__repr__"] = _shown(tuple(name for name in names if fields[name].repr))
    # By its own metaclass, which a checker takes for a class of classes.
    metaclass: Any = type(cls)
    made: _Class = metaclass(cls.__name__, cls.__bases__, {**methods, **own})
    made.__init__ = _init(made, fields)
    return made


def _field(name: str, kind: Any, default: Any) -> Any:
    made: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
    # What `replace`, `fields` and `asdict` go by.
    made.name, made.type, made._field_type = name, kind, dataclasses._FIELD  # type: ignore[attr-defined]
    return made


def _init(made: _Class, fields: dict[str, Any]) -> _Method:
    names = tuple(fields)
    put = tuple(getattr(made, name).__set__ for name in names)
    defaults = {name: each.default for name, each in fields.items() if each.default is not _MISSING}
    factories = {name: each.default_factory for name, each in fields.items() if each.default_factory is not _MISSING}
    after = getattr(made, "__post_init__", None)

    def __init__(self: Any, *given: Any, **named: Any) -> None:  # noqa: N807 - a class's own
        if len(given) > len(names):
            raise TypeError(f"{made.__name__}() takes {len(names)} values and was given {len(given)}")
        for index, value in enumerate(given):
            put[index](self, value)
        for index in range(len(given), len(names)):
            name = names[index]
            if name in named:
                value = named.pop(name)
            elif name in defaults:
                value = defaults[name]
            elif name in factories:
                value = factories[name]()
            else:
                raise TypeError(f"{made.__name__}() misses a value for {name!r}")
            put[index](self, value)
        if named:
            raise TypeError(f"{made.__name__}() was given {next(iter(named))!r}, which it does not have or has already")
        if after is not None:
            after(self)

    return __init__


def _compared(names: tuple[str, ...], *, hashed: bool) -> dict[str, _Method | None]:
    values = attrgetter(*names)

    def __eq__(self: Any, other: Any) -> Any:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    return {"__eq__": __eq__, "__hash__": __hash__ if hashed else None}


def _shown(names: tuple[str, ...]) -> _Method:
    def __repr__(self: Any) -> str:  # noqa: N807
        return f"{self.__class__.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _refuse(self: Any, name: str, value: Any = None) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change field {name!r}")


def _state_of(names: tuple[str, ...]) -> _Method:
    return lambda self: [getattr(self, name) for name in names]


def _set_state(names: tuple[str, ...]) -> _Method:
    def set_state(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    return set_state
