"""Mutations of bytes and of JSON values: what chance, a bad disk or an attacker does to a file."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

_EXTREMES = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_NUMBERS = (*_EXTREMES, -1, -(2**31), -(2**63), 10**30, 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf)
_TEXTS = ("", " ", "\n", "a\nb", "\0", "../../x", "a/b", "nan", "é" * 9, "x" * 300, "\U0001f600", "1", "none", "\ud800")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four mutations."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_BYTE_MUTATIONS)(out, rng)
    return bytes(out)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one to three parts of it changed; the value itself stays as it is."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng)
    return value


def any_json(rng: random.Random, depth: int = 0) -> Any:
    """Return some JSON value: any type, extreme numbers, odd texts, sometimes nested deeply."""
    kind = rng.randrange(8 if depth < 3 else 4)
    if kind == 4:
        return [any_json(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))]
    if kind == 5:
        return {rng.choice(_TEXTS): any_json(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}
    if kind == 6:
        return _nested(rng.choice((60, 300)))
    return (None, rng.random() < 0.5, rng.choice(_NUMBERS), rng.choice(_TEXTS))[kind % 4]


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(data: bytearray, rng: random.Random) -> None:
    start, stop = _span(data, rng)
    data[start:stop] = rng.randbytes(stop - start)


def _cut_end(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _cut_piece(data: bytearray, rng: random.Random) -> None:
    start, stop = _span(data, rng)
    del data[start:stop]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, stop = _span(data, rng)
    data[start:start] = data[start:stop] * rng.choice((1, 2, 30))


def _splice(data: bytearray, rng: random.Random) -> None:
    (start, stop), (into, end) = _span(data, rng), _span(data, rng)
    data[into:end] = data[start:stop]


def _integer(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(_EXTREMES) & (1 << 8 * width) - 1
    start = rng.randrange(len(data) + 1)
    data[start : start + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _varint(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    length = rng.choice((1, 2, 5, 9, 10, 11, 200))
    data[start : start + rng.choice((0, 1, 2, length))] = b"\xff" * (length - 1) + bytes([rng.choice((0, 1, 0x7F))])


def _fill(data: bytearray, rng: random.Random) -> None:
    start, stop = _span(data, rng)
    data[start:stop] = bytes([rng.choice((0x00, 0xFF, 0x20, 0x5B, 0x7B))]) * rng.choice((stop - start, 2000))


_BYTE_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _flip,
    _replace,
    _cut_end,
    _cut_piece,
    _repeat,
    _splice,
    _integer,
    _varint,
    _fill,
)


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """Return a piece of the data, mostly a short one."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 100, len(data))))


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def _changed(value: Any, rng: random.Random) -> Any:
    """Return the value with one part changed: itself, or one somewhere below it."""
    if value and isinstance(value, dict | list) and rng.random() < 0.8:
        return _changed_below(value, rng)
    return _other(value, rng)


def _changed_below(value: dict[str, Any] | list[Any], rng: random.Random) -> Any:
    if isinstance(value, list):
        place = rng.randrange(len(value))
        pieces: tuple[list[Any], ...] = ([_changed(value[place], rng)], [], [value[place]] * 2)
        return [*value[:place], *rng.choices(pieces, (8, 1, 1))[0], *value[place + 1 :]]
    key = rng.choice(list(value))
    rest = {k: v for k, v in value.items() if k != key}
    return rng.choices(
        ({**value, key: _changed(value[key], rng)}, rest, {**rest, rng.choice(_TEXTS): value[key]}), (8, 1, 1)
    )[0]


def _other(value: Any, rng: random.Random) -> Any:
    """Return another value, often one of a related type."""
    related: list[Any] = [[value], {"a": value}, any_json(rng), any_json(rng)]
    if isinstance(value, int | float):
        related += [str(value), -value, rng.choice(_NUMBERS), rng.choice(_NUMBERS)]
    if isinstance(value, str):
        related += [list(value), value[: len(value) // 2], value * 2, rng.choice(_TEXTS)]
    if isinstance(value, list):
        related += [value * 2, value[:-1], dict.fromkeys(map(str, range(len(value))), 1), str(value)]
    return rng.choice(related)
