"""The wire format of openpi's policy protocol: msgpack with numpy arrays, read with limits and without pickle.

An array is a map of four binary keys, ``{b"__ndarray__": true, b"data", b"dtype": "<f4", b"shape": [...]}``; a numpy
scalar is ``{b"__npgeneric__": true, b"data", b"dtype"}``. All other keys are strings.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from rt1.errors import ProtocolError

MAX_DEPTH = 8
"""Maps and lists within each other."""
MAX_ENTRIES = 1024
"""Entries of one map or list."""
MAX_CONTAINERS = 4096
"""Maps and lists in one message: a byte each on the wire, a hundred in memory."""
MAX_DIMENSIONS = 8
"""Dimensions of an array."""

_ARRAY_KEYS = frozenset((b"__ndarray__", b"data", b"dtype", b"shape"))
_SCALAR_KEYS = frozenset((b"__npgeneric__", b"data", b"dtype"))
_DTYPE = re.compile(r"[<>|=]?[biuf][0-9]{1,2}")


def encode(value: Any) -> bytes:  # noqa: ANN401 (whatever the format holds)
    """Return the message of plain data, numpy arrays and numpy scalars.

    Raises:
        ProtocolError: it holds something else, or an array that is not of bool, integers or floats.
    """
    try:
        return bytes(msgpack.packb(value, default=_to_map))
    except ProtocolError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"this cannot be sent: {error}; give plain data and numpy arrays") from error


def decode(message: bytes) -> Any:  # noqa: ANN401 (whatever the format holds)
    """Return what a message holds; arrays are read-only views of it.

    Raises:
        ProtocolError: damaged, beyond a limit, an unknown type, or an array whose data does not fit its shape.
    """
    count = _Count()
    try:
        value = msgpack.unpackb(
            message,
            object_hook=count,
            list_hook=count,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a message of {len(message)} bytes is not whole, valid msgpack: {error}") from error
    return _from_plain(value, depth=0)


@dataclass
class _Count:
    """Counts maps and lists while they are read, before many of them fill the memory."""

    containers: int = field(default=0)

    def __call__(self, container: Any) -> Any:  # noqa: ANN401
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            raise ProtocolError(f"a message holds more than {MAX_CONTAINERS} maps and lists; send arrays instead")
        return container


def _refuse_extension(code: int, data: bytes) -> Any:  # noqa: ANN401
    raise ProtocolError(f"a message holds the msgpack extension {code} of {len(data)} bytes; send plain data")


def _to_map(value: Any) -> dict[bytes, Any]:  # noqa: ANN401
    if isinstance(value, np.ndarray):
        name = _check_dtype(value.dtype.str)
        data = np.ascontiguousarray(value).tobytes()
        return {b"__ndarray__": True, b"data": data, b"dtype": name, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": _check_dtype(value.dtype.str)}
    raise ProtocolError(f"a {type(value).__name__} cannot be sent; give plain data and numpy arrays")


def _from_plain(value: Any, *, depth: int) -> Any:  # noqa: ANN401
    if depth > MAX_DEPTH:
        raise ProtocolError(f"a message has more than {MAX_DEPTH} maps and lists within each other; make it flatter")
    if isinstance(value, list):
        return [_from_plain(entry, depth=depth + 1) for entry in value]
    if isinstance(value, dict):
        if b"__ndarray__" in value:
            return _array(value)
        if b"__npgeneric__" in value:
            return _scalar(value)
        return {_checked_key(key): _from_plain(entry, depth=depth + 1) for key, entry in value.items()}
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise ProtocolError(f"a message holds a {type(value).__name__}; send plain data and arrays")


def _checked_key(key: Any) -> str:  # noqa: ANN401
    if not isinstance(key, str):
        raise ProtocolError(f"a message has the key {key!r:.80}; keys must be strings")
    return key


def _array(value: dict[Any, Any]) -> NDArray[Any]:
    if value.keys() != _ARRAY_KEYS:
        raise ProtocolError(f"an array has the keys {sorted(map(repr, value))}; it must have data, dtype, shape")
    data, shape = value[b"data"], value[b"shape"]
    dtype = np.dtype(_check_dtype(value[b"dtype"]))
    if not isinstance(data, bytes):
        raise ProtocolError(f"the data of an array is a {type(data).__name__}; it must be binary")
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) > MAX_DIMENSIONS:
        raise ProtocolError(f"an array has the shape {shape!r:.80}; it must be at most {MAX_DIMENSIONS} whole numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ProtocolError(
            f"an array of shape {tuple(shape)} and dtype {dtype.str} takes {math.prod(shape) * dtype.itemsize} bytes, "
            f"but {len(data)} came; send all of it"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar(value: dict[Any, Any]) -> Any:  # noqa: ANN401 (a numpy scalar of any type)
    if value.keys() != _SCALAR_KEYS:
        raise ProtocolError(f"a numpy scalar has the keys {sorted(map(repr, value))}; it must have data and dtype")
    data, dtype = value[b"data"], np.dtype(_check_dtype(value[b"dtype"]))
    if not isinstance(data, bool | int | float):
        raise ProtocolError(f"the data of a numpy scalar is a {type(data).__name__}; it must be a number")
    try:
        return np.asarray(data, dtype)[()]
    except (OverflowError, ValueError) as error:
        raise ProtocolError(f"the number {data!r:.40} does not fit dtype {dtype.str}") from error


def _check_dtype(name: Any) -> str:  # noqa: ANN401
    """Return the name of a dtype of bool, integers or floats; any other could hold objects or has no one meaning."""
    good = isinstance(name, str) and _DTYPE.fullmatch(name) is not None
    if good:
        try:
            np.dtype(name)
        except TypeError:
            good = False
    if not good:
        raise ProtocolError(f"an array has dtype {name!r:.80}; it must be of bool, integers or floats")
    return str(name)
