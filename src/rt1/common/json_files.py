"""JSON and TOML from files that anybody may have written: bounded in size and depth, one-line errors with the file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rt1.common.border import check_no_pointer, sentence
from rt1.errors import DataError, RT1Error

MAX_BYTES = 256 * 2**20
"""Largest file that is read. The largest known metadata file of a public data set has 60 MB."""
MAX_DEPTH = 50
"""Deepest nesting of objects and lists. Real files have about 10."""

ErrorKind = Callable[[str], RT1Error]


def read_object(path: Path, *, error: ErrorKind = DataError, cure: str = "restore it from a copy") -> dict[str, Any]:
    """Return the object of a JSON file, or the table of a ``.toml`` file.

    Args:
        path: the file, UTF-8.
        error: class of the error to raise.
        cure: what the user can do, the end of the error's line.

    Raises:
        RT1Error: of the class ``error``: a file that is missing, too large, no JSON or TOML, nested too deeply, or that
            holds anything but an object.
    """
    check_no_pointer(path, error=error)
    check_size(path, error=error, cure=cure)
    try:
        content = path.read_bytes()
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}. {sentence(cure)}") from reason
    data = parse(content, name=str(path), toml=path.suffix == ".toml", error=error, cure=cure)
    if not isinstance(data, dict):
        kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
        raise error(f"{path} holds {kinds.get(type(data), 'a number')}. It must hold an object. {sentence(cure)}")
    return data


def check_size(path: Path, *, error: ErrorKind = DataError, cure: str = "restore it from a copy") -> None:
    """Raise one line for a file of more than :data:`MAX_BYTES`. A file that is missing passes: its reader says so."""
    size = path.stat().st_size if path.is_file() else 0
    if size > MAX_BYTES:
        raise error(f"{path} has {size} bytes. At most {MAX_BYTES} are read. {sentence(cure)}")


def parse(
    content: bytes | str,
    *,
    name: str,
    toml: bool = False,
    error: ErrorKind = DataError,
    cure: str = "restore it from a copy",
) -> Any:
    """Return what JSON (or TOML) text holds. ``name`` says in an error where the text comes from.

    Raises:
        RT1Error: of the class ``error``: text that is not UTF-8, no JSON or TOML, or nested too deeply.
    """
    kind = "TOML" if toml else "JSON"
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        data = tomllib.loads(text) if toml else json.loads(text)
    except RecursionError as reason:
        raise error(f"{name} is nested too deeply. At most {MAX_DEPTH} levels are read. {sentence(cure)}") from reason
    except ValueError as reason:  # no UTF-8 either
        raise error(f"{name} is not {kind} ({reason}). {sentence(cure)}") from reason
    if not _sound(data):
        raise error(
            f"{name} is nested deeper than {MAX_DEPTH} levels, or holds text that is not Unicode. {sentence(cure)}"
        )
    return data


def _sound(data: Any, depth: int = 0) -> bool:
    """Whether the nesting is within bounds and every string can be written as UTF-8 (JSON allows half a character)."""
    if isinstance(data, str):
        return data.isascii() or not any("\ud800" <= character <= "\udfff" for character in data)
    if isinstance(data, dict):
        return depth < MAX_DEPTH and all(_sound(k) and _sound(v, depth + 1) for k, v in data.items())
    if isinstance(data, list):
        return depth < MAX_DEPTH and all(_sound(item, depth + 1) for item in data)
    return True
