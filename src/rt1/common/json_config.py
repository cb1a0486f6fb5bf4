"""Frozen dataclasses to and from plain JSON data, with errors in the words the user typed."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from rt1.common.suggest import unknown_name

T = TypeVar("T")


LARGEST = 2**31 - 1
"""Largest number that a setting takes: every library takes as much, as a seed, too."""
MOST_THREADS = MOST_PROCESSES = 512
"""Most threads, and most processes, that a setting asks for: the hardware threads of a large machine. OpenMP crashes
when it cannot start as many as it is told to."""
MOST_EPISODES = 1_000_000
"""Most episodes or trials that one command makes."""
MOST_PORT = 65535
WIDEST = 1 << 16
"""Widest layer of a network."""
MOST_WEIGHTS = 4_000_000_000
"""Most weights of a network, 16 GB: more are a slip of the keyboard. RT-1 has 35 million."""


def check_at_least(settings: Any, least: float, *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that is below ``least``, as :func:`check_between`."""
    check_between(settings, least, LARGEST, *names)


def check_between(settings: Any, least: float, most: float, *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that lies outside ``least..most``.

    A field is a number, a tuple of numbers, or None, which passes. A nan does not.
    """
    for name in names:
        _check(settings, name, lambda number: number >= least, f"at least {least}")
        _check(settings, name, lambda number: number <= most, f"at most {most}")


def check_above(settings: Any, bound: float, *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that is not above ``bound``, or not finite."""
    for name in names:
        _check(settings, name, lambda number: bound < number < math.inf, f"above {bound}, and finite")


def check_fraction(settings: Any, *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that is below 0, or not below 1."""
    for name in names:
        _check(settings, name, lambda number: 0 <= number < 1, "at least 0 and below 1")


def check_total(settings: Any, total: int, most: int, what: str, *names: str) -> None:
    """Raise ``ValueError`` where a total is above ``most``. ``names`` are the fields that it comes from."""
    if total > most:
        sizes = ", ".join(f"{name} {getattr(settings, name)}" for name in names[1:])
        raise ValueError(
            f"{names[0]} is {getattr(settings, names[0])}, {sizes}: together {total:,} {what}. At most {most:,} fit "
            "into memory. Give smaller ones"
        )


def _check(settings: Any, name: str, holds: Callable[[float], bool], rule: str) -> None:
    value = getattr(settings, name)
    numbers = value if isinstance(value, tuple) else () if value is None else (value,)
    if not all(holds(number) for number in numbers):
        raise ValueError(f"{name} is {value}, must be {rule}")


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the dotted name and both values of the first setting in which nested plain data differ, or None."""
    leaves, others = dict(_leaves(one)), dict(_leaves(other))
    names = sorted(name for name in leaves.keys() | others.keys() if leaves.get(name) != others.get(name))
    return (names[0], leaves.get(names[0]), others.get(names[0])) if names else None


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_json(settings: Any) -> Any:
    """Turn nested dataclasses, mappings, tuples, arrays and plain values into data for ``json``.

    What a dataclass holds may have a ``to_json`` of its own.
    """
    if dataclasses.is_dataclass(settings):
        settings = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {name: _member(value) for name, value in settings.items()}
    if isinstance(settings, tuple | list):
        return [_member(value) for value in settings]
    return settings.tolist() if hasattr(settings, "tolist") else settings


def _member(value: Any) -> Any:
    return value.to_json() if hasattr(value, "to_json") else to_json(value)


def from_json(kind: type[T], data: Any, *, where: str = "") -> T:
    """Build the dataclass ``kind`` from plain data. Fields left out take their defaults.

    Raises:
        ValueError: an unknown key (with "did you mean"), a value of another type, or a value the dataclass refuses.
    """
    where = where or kind.__name__
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} is {data!r:.200}, must be an object of settings")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            raise ValueError(unknown_name(f"setting of {where}", str(key), names))
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory]  # type: ignore[arg-type]
    if lacking := [name for name in required if name not in values]:
        raise ValueError(f"{where} lacks {lacking}. Give every required setting")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        reader = getattr(hint, "from_json", None)
        return reader(value) if reader else from_json(typing.cast("type[Any]", hint), value, where=where)
    if origin in _CONVERT:
        return _CONVERT[origin](arguments, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        if isinstance(value, Mapping):  # of several dataclasses the one that has most of the keys
            kinds = [max(kinds, key=lambda kind: len(value.keys() & getattr(kind, "__dataclass_fields__", {}).keys()))]
        return _convert(kinds[0], value, where) if len(kinds) == 1 else value
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(unknown_name(f"value of {where}", str(value), [str(a) for a in arguments]))
        return value
    return _convert_plain(hint, value, where)


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is {value!r:.200}, must be a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(arguments[0], item, where) for item in value)
    if len(value) != len(arguments):
        raise ValueError(f"{where} has {len(value)} entries, must have {len(arguments)}")
    return tuple(_convert(a, item, where) for a, item in zip(arguments, value, strict=True))


def _convert_mapping(arguments: tuple[Any, ...], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r:.200}, must be an object")
    return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}


_CONVERT = {tuple: _convert_tuple, Mapping: _convert_mapping}


def _convert_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(f"{where} is too large for a number with a fraction") from error
    if hint in (bool, int, float, str) and type(value) is not hint:
        raise ValueError(f"{where} is {value!r:.200}, must be of type {hint.__name__}")
    return value
