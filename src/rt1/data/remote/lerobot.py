"""What parts of all versions of LeRobot share: the fields of info.json, and step tables cut to some episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.data.lerobot import schema
from rt1.data.remote.store import Store, filled
from rt1.errors import DataError

V3 = "v3.0"
VERSIONS = ("v2.0", "v2.1", V3)
CURE = "Use another way to copy this data set"


@dataclass(frozen=True, kw_only=True)
class Info:
    """The fields of ``meta/info.json`` that decide where files are."""

    fields: Mapping[str, Any]
    """The whole file."""
    where: str
    """Its address."""
    version: str
    episodes: range
    """Numbers of the episodes of the part in the data set."""
    total: int
    """Number of episodes of the data set."""
    chunk: int
    """Files of a folder."""
    video_keys: tuple[str, ...]

    def path(self, field: str, usual: str, store: Store, **values: object) -> Callable[..., str]:
        """Return a function of a file's numbers that gives its path.

        Some data sets do not follow the template that they name. Then the usual one counts.

        Args:
            field: field of the template.
            usual: template of this version of the format.
            store: where the files are.
            values: the numbers of the first file.
        """
        template = str(self.fields.get(field) or usual)
        if template != usual and not store.exists(filled(template, self.where, **values)):
            template = usual
        return lambda **numbers: filled(template, self.where, **numbers)

    def to_text(self, *, steps: int, **paths: str) -> str:
        """Return the content of the part's file. ``paths`` are its path templates."""
        count, fields = len(self.episodes), dict(self.fields)
        totals = {"total_chunks": -(-count // self.chunk), "total_videos": count * len(self.video_keys)}
        fields |= {name: total for name, total in totals.items() if name in fields}
        fields |= {"total_episodes": count, "total_frames": steps, "splits": {"train": f"0:{count}"}}
        fields |= {"chunks_size": self.chunk} | {
            name: path for name, path in paths.items() if name == "data_path" or self.video_keys
        }
        return json.dumps(fields, indent=2) + "\n"


def read_info(store: Store, content: bytes, range_of: Callable[[int], range]) -> Info:
    """Return the fields of ``meta/info.json``.

    Args:
        store: the folder of the data set.
        content: the file.
        range_of: function of the number of episodes in the data set.

    Raises:
        DataError: another version of the format, or a damaged file.
    """
    where, fields = store.path(schema.INFO_FILE), store.read_json(schema.INFO_FILE, content)
    with reading(where, cure=CURE):
        version, total, chunk = fields["codebase_version"], int(fields["total_episodes"]), fields.get("chunks_size")
        video_keys = tuple(key for key, feature in fields["features"].items() if feature["dtype"] == "video")
        chunk = int(chunk or 1000)
        if chunk < 1:
            raise ValueError(f"chunks_size is {chunk}, must be at least 1")
    if version not in VERSIONS:
        raise DataError(f"{where} has codebase_version {version!r}, must be {', '.join(VERSIONS)}. {CURE}")
    return Info(
        fields=fields,
        where=where,
        version=version,
        episodes=range_of(total),
        total=total,
        chunk=chunk,
        video_keys=video_keys,
    )


def cut_steps(
    source: Path, target: Path, *, numbers: NDArray[np.int64], lengths: NDArray[np.int64], shift: int, first_step: int
) -> None:
    """Write the rows of some episodes with the numbers that they have in the part, row group by row group.

    Args:
        source: a data file.
        target: file to write.
        numbers: (E,) numbers of its episodes in the data set, ascending.
        lengths: (E,) their steps.
        shift: difference of an episode's number to that in the part.
        first_step: number of the first step in the part.

    Raises:
        DataError: the file is damaged, or its rows are not the steps of these episodes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    step = first_step
    stored: list[NDArray[np.int64]] = []
    with (
        schema.reading(source),
        pq.ParquetFile(source, page_checksum_verification=True) as file,
        pq.ParquetWriter(target, file.schema_arrow, use_dictionary=False, write_page_checksum=True) as sink,
    ):
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["episode_index"])["episode_index"].to_numpy()
            if not (mask := np.isin(rows, numbers)).any():
                continue
            table = file.read_row_group(group).filter(pa.array(mask))
            columns = {"episode_index": rows[mask] - shift, "index": np.arange(step, step + len(table))}
            sink.write_table(replaced(table, columns))
            stored.append(rows[mask])
            step += len(table)
    if not np.array_equal(np.concatenate([np.empty(0, np.int64), *stored]), np.repeat(numbers, lengths)):
        expected = f"the {int(lengths.sum())} steps of the episodes {numbers.min()}..{numbers.max()}"
        raise DataError(f"{source.name}: its rows are not {expected} that the metadata promise. {CURE}")


def replaced(table: Any, columns: Mapping[str, Iterable[int]]) -> Any:  # noqa: ANN401 (pyarrow has no types)
    """Return a pyarrow table with other numbers in the columns that it has, of the same types."""
    import pyarrow as pa

    for name, values in columns.items():
        if name in table.schema.names:
            place = table.schema.get_field_index(name)
            field = table.schema.field(place)
            table = table.set_column(place, field, pa.array(values, type=field.type))
    return table
