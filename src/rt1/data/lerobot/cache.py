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
from rt1.common.files import replacing, user_cache
from rt1.common.first_look import stamp_of
from rt1.common.json_files import read_object
from rt1.errors import DataError

Arrays = Mapping[str, NDArray[np.generic]]

FEW_FILES = 64
"""Up to this many files are read at every opening."""
_FORMAT, _KEY_FILE = 1, "index.json"


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
    indexes = [base / f"lerobot-{owner}" for base in (folder / ".rt1-index", user_cache() / "index")]
    for index in indexes:
        if (index / _KEY_FILE).is_file():
            with suppress(DataError):  # damaged, or made from other files: it is made again
                return _load(index, key)
    arrays = read()
    problems = []
    for index in indexes:
        try:
            _save(index, key, arrays)
        except OSError as error:  # a read-only folder
            problems.append(str(error))
        else:
            return _load(index, key)  # memory-mapped, so that the arrays of reading can go
    warnings.warn(f"the index cannot be kept and is made at every start: {'; '.join(problems)}", stacklevel=2)
    return arrays


def _save(index: Path, key: str, arrays: Arrays) -> None:
    with replacing(index, holding=(_KEY_FILE, "*.npy")) as beside:
        beside.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(beside / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        content = {"key": key, "checksums": {name: _checksum(beside / f"{name}.npy") for name in arrays}}
        (beside / _KEY_FILE).write_text(json.dumps(content), encoding="utf-8")


def _load(index: Path, key: str) -> Arrays:
    """Return the stored arrays, memory-mapped. Others raise :class:`DataError`."""
    with reading(index):
        content = read_object(index / _KEY_FILE)
        paths = {name: index / f"{name}.npy" for name in content["checksums"] if name.isidentifier()}
        if content["key"] != key or content["checksums"] != {name: _checksum(path) for name, path in paths.items()}:
            raise DataError(f"{index} is damaged, or was made from other files")
        return {name: np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) for name, path in paths.items()}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
