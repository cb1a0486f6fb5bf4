"""The wire format of openpi's policy protocol: msgpack with numpy arrays, read with limits and without pickle.

An array is a map of four binary keys, ``{b"__ndarray__": true, b"data", b"dtype": "<f4", b"shape": [...]}``. A numpy
scalar is ``{b"__npgeneric__": true, b"data", b"dtype"}``. All other keys are strings.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from rt1.errors import ProtocolError

MAX_DEPTH = 8
"""Maps and lists within each other."""
MAX_VALUES = 4096
"""Values and keys in one message: a byte each on the wire, up to a hundred in memory."""
MAX_TEXT = 1 << 16
"""Bytes of all text in one message."""
MAX_DIMENSIONS = 8
"""Dimensions of an array."""

_ARRAY_KEYS = frozenset((b"__ndarray__", b"data", b"dtype", b"shape"))
_SCALAR_KEYS = frozenset((b"__npgeneric__", b"data", b"dtype"))
_DTYPE = re.compile(r"[<>|=]?[biuf][0-9]{1,2}")


def encode(value: Any) -> bytes:  # noqa: ANN401 (whatever the format holds)
    """Return the message of plain data, numpy arrays and numpy scalars of bool, integers or floats.

    Anything else raises ``ProtocolError``.
    """
    try:
        return bytes(msgpack.packb(value, default=_to_map))
    except ProtocolError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"this cannot be sent: {error}. Give plain data and numpy arrays") from error


def decode(message: bytes) -> Any:  # noqa: ANN401 (whatever the format holds)
    """Return what a message holds. Arrays are read-only views of it.

    A message that is damaged, beyond a limit, of an unknown type, or holds an array whose data does not fit its shape
    raises ``ProtocolError``.
    """
    _check_limits(message)
    try:
        value = msgpack.unpackb(message)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a message of {len(message)} bytes is not whole, valid msgpack: {error}") from error
    return _from_plain(value)


def shown(value: Any) -> str:  # noqa: ANN401 (it comes from outside)
    """Return a short text for a value in an error message. The cost does not grow with the value."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    return f"{value!r:.40}" if isinstance(value, bool | int | float) else f"a {type(value).__name__}"


def _heads() -> tuple[tuple[int, int, int, bool], ...]:
    """Return for each first byte of a value: bytes of its length, values per unit of it, fixed length, is it text."""
    heads = [(0, 0, 0, False)] * 256
    heads[0x80:0xC0] = [
        *((0, 2, entries, False) for entries in range(16)),
        *((0, 1, entries, False) for entries in range(16)),
        *((0, 0, size, True) for size in range(32)),
    ]
    for first, size in zip(range(0xCA, 0xD4), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8), strict=True):  # numbers
        heads[first] = (0, 0, size, False)
    for first, units, is_text in ((0xC4, 0, False), (0xD9, 0, True)):
        heads[first : first + 3] = [(size, units, 0, is_text) for size in (1, 2, 4)]
    for first, units in ((0xDC, 1), (0xDE, 2)):
        heads[first : first + 2] = [(size, units, 0, False) for size in (2, 4)]
    return tuple(heads)


_HEADS = _heads()
_EXTENSIONS = frozenset((*range(0xC7, 0xCA), *range(0xD4, 0xD9)))


def _check_limits(message: bytes) -> None:
    """Refuse a message beyond a limit before it takes memory or time. What is no msgpack passes: msgpack says so."""
    position = values = text = 0
    rest = [1]  # values still to come in each open map or list
    while rest and position < len(message):
        rest[-1] -= 1
        first = message[position]
        if first in _EXTENSIONS:
            raise ProtocolError(f"a message holds a msgpack extension (0x{first:x}). Send plain data and arrays")
        number, units, length, is_text = _HEADS[first]
        position += 1 + number
        if number:
            length = int.from_bytes(message[position - number : position])
        if units:
            values += units * length
            rest.append(units * length)
        else:
            position += length
            text += length * is_text
        _check_totals(values, text, len(rest) - 2)
        while rest and not rest[-1]:
            rest.pop()


def _check_totals(values: int, text: int, depth: int) -> None:
    if values > MAX_VALUES:
        raise ProtocolError(f"a message holds more than {MAX_VALUES} values. Send arrays instead")
    if text > MAX_TEXT:
        raise ProtocolError(f"a message holds more than {MAX_TEXT} bytes of text. Send less")
    if depth > MAX_DEPTH:
        raise ProtocolError(f"a message has more than {MAX_DEPTH} maps and lists within each other. Make it flatter")


def _to_map(value: Any) -> dict[bytes, Any]:  # noqa: ANN401
    if isinstance(value, np.ndarray):
        name = _check_dtype(value.dtype.str)
        data = np.ascontiguousarray(value).tobytes()
        return {b"__ndarray__": True, b"data": data, b"dtype": name, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": _check_dtype(value.dtype.str)}
    raise ProtocolError(f"a {type(value).__name__} cannot be sent. Give plain data and numpy arrays")


def _from_plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_from_plain(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    for marker, keys, read in ((b"__ndarray__", _ARRAY_KEYS, array), (b"__npgeneric__", _SCALAR_KEYS, _scalar)):
        if marker in value:
            if value.keys() != keys:
                names, rule = (", ".join(sorted(map(shown, group)))[:200] for group in (value, keys))
                raise ProtocolError(f"a numpy value has the keys {names}, must have {rule}")
            return read(**{key.decode(): entry for key, entry in value.items() if key != marker})
    for key in value:
        if not isinstance(key, str):
            raise ProtocolError(f"a message has the key {shown(key)}. Keys must be strings")
    return {key: _from_plain(entry) for key, entry in value.items()}


def array(data: Any, dtype: Any, shape: Any) -> NDArray[Any]:  # noqa: ANN401 (they come from outside)
    """Return the array of a message's data, dtype and shape. Values that do not fit raise ``ProtocolError``."""
    dtype = np.dtype(_check_dtype(dtype))
    if not isinstance(data, bytes):
        raise ProtocolError(f"the data of an array is a {type(data).__name__}, must be binary")
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) > MAX_DIMENSIONS:
        sizes = ", ".join(map(shown, shape[: MAX_DIMENSIONS + 1])) if isinstance(shape, list) else shown(shape)
        raise ProtocolError(f"an array has the shape [{sizes}], must be at most {MAX_DIMENSIONS} whole numbers")
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        raise ProtocolError(
            f"an array of shape {tuple(shape)} and dtype {dtype.str} takes {size} bytes, but {len(data)} came. "
            "Send all of it"
        )
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # an empty array with a dimension that numpy does not hold
        raise ProtocolError(
            f"an array has the shape {tuple(shape)}. numpy refuses it ({error}). Send another"
        ) from error


def _scalar(data: Any, dtype: Any) -> Any:  # noqa: ANN401 (a numpy scalar of any type)
    dtype = np.dtype(_check_dtype(dtype))
    if not isinstance(data, bool | int | float):
        raise ProtocolError(f"the data of a numpy scalar is a {type(data).__name__}, must be a number")
    try:
        with np.errstate(all="raise"):
            return np.asarray(data, dtype)[()]
    except (ArithmeticError, ValueError) as error:
        raise ProtocolError(f"the number {shown(data)} does not fit dtype {dtype.str}") from error


def _check_dtype(name: Any) -> str:  # noqa: ANN401
    """Return the name of a dtype of bool, integers or floats. Other dtypes could hold objects."""
    with suppress(TypeError):
        if isinstance(name, str) and _DTYPE.fullmatch(name) is not None:
            np.dtype(name)
            return name
    raise ProtocolError(f"an array has dtype {shown(name)}, must be of bool, integers or floats")
