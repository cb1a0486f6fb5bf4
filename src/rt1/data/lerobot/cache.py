"""What was read from the data files of a LeRobot folder with many of them, stored so that it is read once."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.common.crc32c import masked_crc32c
from rt1.common.files import user_cache, write_bytes
from rt1.common.first_look import stamp_of
from rt1.common.json_files import parse
from rt1.errors import DataError, SaveError

Arrays = Mapping[str, NDArray[np.generic]]

FEW_FILES = 64
"""Up to this many files are read at every opening."""
_FORMAT = "1"


def cached(folder: Path, files: Iterable[Path], settings: Mapping[str, object], read: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that ``read`` returns, which were stored if there are many files and none has changed.

    Args:
        folder: the data set. The arrays are stored in its ``.rt1-index``, or in the user's cache if it is read-only.
        files: the files that ``read`` reads.
        settings: plain data that the arrays depend on.
        read: reads the files.
    """
    files = list(dict.fromkeys(files))
    if len(files) <= FEW_FILES:
        return read()
    stamps = [(str(path), *stamp_of(path)) for path in files]
    key = hashlib.sha256(json.dumps([_FORMAT, dict(settings), stamps]).encode()).hexdigest()
    owner = hashlib.sha256(json.dumps([str(folder.resolve()), dict(settings)]).encode()).hexdigest()[:12]
    paths = [base / f"lerobot-{owner}.safetensors" for base in (folder / ".rt1-index", user_cache() / "index")]
    for path in paths:
        if path.is_file():
            with suppress(DataError):  # damaged, or made from other files: it is made again
                return _load(path, key)
    arrays = read()
    problems = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, key, arrays)
        except (OSError, SaveError) as error:  # a read-only folder
            problems.append(str(error))
        else:
            return arrays
    warnings.warn(f"the index cannot be kept and is made at every start: {'; '.join(problems)}", stacklevel=2)
    return arrays


def _save(path: Path, key: str, arrays: Arrays) -> None:
    from safetensors.numpy import save

    notes = {"key": key, "checksums": json.dumps({name: _checksum(array) for name, array in arrays.items()})}
    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=notes))


def _load(path: Path, key: str) -> Arrays:
    from safetensors import SafetensorError, safe_open

    with reading(path, also=(SafetensorError,)), safe_open(path, framework="numpy") as file:
        notes = file.metadata() or {}
        if notes.get("key") != key:
            raise DataError(f"{path} was made from other files")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if {name: _checksum(array) for name, array in arrays.items()} != parse(notes["checksums"], name=str(path)):
            raise DataError(f"{path} is damaged")
        return arrays


def _checksum(array: NDArray[np.generic]) -> int:
    return masked_crc32c(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
