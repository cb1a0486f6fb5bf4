"""Hugging Face data sets opened from what ``save_to_disk`` wrote, from folders of Parquet files, or from the hub.

Another process looks at the files first, see :mod:`rt1.common.first_look`.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from rt1.common.border import describe, reading
from rt1.common.first_look import COPY_AGAIN, first_look
from rt1.common.json_files import read_object
from rt1.common.suggest import unknown_name
from rt1.errors import DataError

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped,import-not-found,unused-ignore]

HUB_PREFIX = "hf:"
"""What the name of a data set on the hub begins with: ``hf:owner/name``."""
SAVED_FILE, SAVED_SPLITS_FILE = "state.json", "dataset_dict.json"
"""Files that ``save_to_disk`` of a ``datasets.Dataset`` and of a ``datasets.DatasetDict`` write."""

_SPLIT = re.compile(r"(?P<split>\w[\w.]*?)(-\d+-of-\d+(-\w+)?)?\.parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def open_dataset(path: Path, split: str) -> datasets.Dataset:
    """Return a split of the data set in a folder, or on the hub if the path begins with ``HUB_PREFIX``.

    Raises:
        DataError: an unknown split, a missing or damaged file, or a hub that does not answer.
        ModuleNotFoundError: ``datasets`` is not installed.
    """
    import datasets  # noqa: F401 (refused before the files are read)

    if str(path).startswith(HUB_PREFIX):
        return _open_hub(str(path).removeprefix(HUB_PREFIX), split)
    if (path / SAVED_SPLITS_FILE).is_file():
        splits = read_object(path / SAVED_SPLITS_FILE, cure=COPY_AGAIN).get("splits")
        if not isinstance(splits, list) or split not in splits:
            names = [name for name in splits or () if isinstance(name, str)] if isinstance(splits, list) else []
            raise DataError(f"{path}: {unknown_name('split', split, names)}")
        return open_saved(path / split)
    return open_saved(path) if (path / SAVED_FILE).is_file() else _open_parquet(path, split)


def _open_hub(name: str, split: str) -> datasets.Dataset:
    import datasets

    if not _HUB_NAME.fullmatch(name):
        raise DataError(f"{HUB_PREFIX}{name} is no data set of the hub. Give {HUB_PREFIX}OWNER/NAME")
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # of requests, the hub's client, or a parser of one of its formats
        cure = "Check the name, the split and the network. You can also download it and give its folder"
        raise DataError(f"{HUB_PREFIX}{name} cannot be opened ({describe(error)}). {cure}") from error


def _open_parquet(folder: Path, split: str) -> datasets.Dataset:
    """Return the Parquet files of a split, which their names begin with. Files of other names are the split train."""
    import datasets
    import pyarrow as pa

    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        match = _SPLIT.fullmatch(file.name)
        name = match["split"] if match and (match[2] or match["split"] in ("test", "validation")) else "train"
        files.setdefault(name, []).append(file)
    if split not in files:
        raise DataError(f"{folder}: {unknown_name('split', split, files)}")
    for file in files[split]:
        first_look("rt1.data.arrays.huggingface_files:look_at_parquet", file, library="pyarrow")
    with reading(folder, cure=COPY_AGAIN, also=(pa.ArrowException, datasets.exceptions.DatasetsError)):
        return datasets.Dataset.from_parquet([str(file) for file in files[split]])


def open_saved(folder: Path) -> datasets.Dataset:
    """Return the data set of a folder, its Arrow files memory-mapped. Missing or damaged ones raise ``DataError``."""
    import datasets
    import pyarrow as pa

    state_file = folder / "state.json"
    state, _ = (read_object(file, cure=COPY_AGAIN) for file in (state_file, folder / "dataset_info.json"))
    with reading(state_file, cure=COPY_AGAIN):
        names = [str(file["filename"]) for file in state["_data_files"]]
    for name in names:
        if PurePath(name).name != name or not name.isprintable():
            raise DataError(f"{state_file} names the data file {name!r}, must be a file of this folder")
        first_look("rt1.data.arrays.huggingface_files:look_at_arrow", folder / name, library="pyarrow")
    with reading(folder, cure=COPY_AGAIN, also=(pa.ArrowException,)):
        return datasets.load_from_disk(str(folder))


def look_at_arrow(path: str) -> None:
    """Check the structure, offsets and texts of an Arrow file: reading a wrong offset would crash the process."""
    import pyarrow as pa

    with (
        reading(path, cure=COPY_AGAIN, also=(pa.ArrowException,)),
        pa.memory_map(path) as file,
        pa.ipc.open_stream(file) as batches,
    ):
        for batch in batches:
            batch.validate(full=True)


def look_at_parquet(path: str) -> None:
    """Read a Parquet file and check the structure, offsets and texts of its values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, cure=COPY_AGAIN, also=(pa.ArrowException,)), pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            batch.validate(full=True)
