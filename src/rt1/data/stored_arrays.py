"""Arrays that were made from all files of a data set, stored so that they are made once."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import DAMAGE
from rt1.common.crc32c import masked_crc32c
from rt1.common.files import replacing, user_cache
from rt1.common.first_look import stamp_of
from rt1.common.json_files import read_object

_INDEX_FILE = "index.json"
_HOLDING = (_INDEX_FILE, "*.npy", "statistics-*.json")


@dataclass(frozen=True, kw_only=True)
class StoredArrays:
    """Arrays by name, and what belongs to them."""

    arrays: Mapping[str, NDArray[Any]]
    """Memory-mapped if they were stored."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain data."""
    folder: Path | None = None
    """Folder that holds them. None if nothing can be written."""


def index_folders(folder: Path, name: str, settings: Mapping[str, Any]) -> list[Path]:
    """Return where to store arrays of a data set: in the data set, or in the user's cache if that is read-only."""
    name = f"{name}-{settings_hash(settings)}"
    owner = settings_hash({"folder": str(folder.resolve())})
    return [folder / ".rt1-index" / name, user_cache() / "index" / f"{owner}-{name}"]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return a hash of the settings, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def load_or_make(
    folders: Sequence[Path],
    settings: Mapping[str, Any],
    files: Sequence[Path],
    make: Callable[[], StoredArrays],
    *,
    is_sound: Callable[[StoredArrays], bool] = lambda _: True,
) -> StoredArrays:
    """Return the stored arrays, or make them and store them in the first of ``folders`` that is writable.

    If no folder is writable, a warning says so.

    Args:
        folders: where to look and to store, see :func:`index_folders`.
        settings: plain data. Arrays that were made with other settings are made again.
        files: what the arrays are made from. They are made again if a size or time of change differs.
        make: returns the arrays.
        is_sound: whether stored arrays can be used. Their checksums may have been forged.
    """
    stamps = [(path.name, *stamp_of(path)) for path in files]
    key = hashlib.sha256(json.dumps([settings, stamps], sort_keys=True).encode()).hexdigest()
    for folder in folders:
        if (stored := _load(folder, key, is_sound)) is not None:
            return stored
    made = make()
    problems: list[str] = []
    for folder in folders:
        try:
            _save(folder, key, made)
        except OSError as error:  # a read-only folder, or another process storing the same arrays just now
            problems.append(str(error))
        else:  # memory-mapped, so that the memory of making them is free again
            return _load(folder, key, is_sound) or replace(made, folder=folder)
    warnings.warn(f"the index cannot be kept and is made at every start: {', '.join(problems)}", stacklevel=2)
    return made


def _save(folder: Path, key: str, made: StoredArrays) -> None:
    with replacing(folder, holding=_HOLDING) as temporary:
        temporary.mkdir(parents=True)
        for name, array in made.arrays.items():
            np.save(temporary / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        checksums = {name: _checksum(temporary / f"{name}.npy") for name in made.arrays}
        content = {"key": key, "checksums": checksums, "facts": made.facts}
        text = json.dumps({"content": content, "checksum": _text_checksum(content)})
        (temporary / _INDEX_FILE).write_text(text, encoding="utf-8")


def _load(folder: Path, key: str, is_sound: Callable[[StoredArrays], bool]) -> StoredArrays | None:
    """Return the stored arrays, or None if they are missing, damaged, or made from other files or settings."""
    if not (folder / _INDEX_FILE).is_file():
        return None
    try:
        described = read_object(folder / _INDEX_FILE)
        content = described["content"]
        if content["key"] != key or described["checksum"] != _text_checksum(content):
            return None
        paths = {name: folder / f"{name}.npy" for name in content["checksums"] if name.isidentifier()}
        if content["checksums"] != {name: _checksum(path) for name, path in paths.items()}:
            return None
        arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in paths.items()}
        stored = StoredArrays(
            arrays={name: array.view(np.ndarray) for name, array in arrays.items()},
            facts=content["facts"],
            folder=folder,
        )
        return stored if is_sound(stored) else None
    except DAMAGE:
        return None


def _checksum(path: Path) -> int:
    return masked_crc32c(np.memmap(path, np.uint8, "r").data)


def _text_checksum(content: Mapping[str, Any]) -> int:
    return masked_crc32c(json.dumps(content).encode())
