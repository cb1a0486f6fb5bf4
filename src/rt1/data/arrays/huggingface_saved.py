"""Folders of ``datasets.Dataset.save_to_disk``, opened after a first look at their Arrow files."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from rt1.common.border import reading
from rt1.common.first_look import COPY_AGAIN, first_look
from rt1.common.json_files import read_object
from rt1.errors import DataError

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped,import-not-found,unused-ignore]

STATE_FILE, INFO_FILE = "state.json", "dataset_info.json"


def open_saved(folder: Path) -> datasets.Dataset:
    """Return the data set of a folder, its Arrow files memory-mapped; missing or damaged ones raise ``DataError``."""
    import datasets
    import pyarrow as pa

    state, _ = (read_object(folder / name, cure=COPY_AGAIN) for name in (STATE_FILE, INFO_FILE))
    with reading(folder / STATE_FILE, cure=COPY_AGAIN):
        names = [str(file["filename"]) for file in state["_data_files"]]
    for name in names:
        if PurePath(name).name != name or not name.isprintable():
            raise DataError(f"{folder / STATE_FILE} names the data file {name!r}, must be a file of this folder")
        first_look("rt1.data.arrays.huggingface_saved:look_at_file", folder / name, library="pyarrow")
    with reading(folder, cure=COPY_AGAIN, also=(pa.ArrowException,)):
        return datasets.load_from_disk(str(folder))


def look_at_file(path: str) -> None:
    """Check the structure, offsets and texts of an Arrow file: reading a wrong offset would crash the process."""
    import pyarrow as pa

    with (
        reading(path, cure=COPY_AGAIN, also=(pa.ArrowException,)),
        pa.memory_map(path) as file,
        pa.ipc.open_stream(file) as batches,
    ):
        for batch in batches:
            batch.validate(full=True)
