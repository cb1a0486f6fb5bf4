"""How the episodes of an RLDS data set ended, read from the records when it is asked for."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.common.border import reading
from rt1.common.protobuf import Buffer
from rt1.data.rlds.schema import FeatureInfo
from rt1.data.rlds.tfrecord import (
    FLOATS,
    FRAME_BYTES,
    FRAME_START,
    INTS,
    float_values,
    int_values,
    map_file,
    scan_example,
)
from rt1.data.sources.base import Outcome
from rt1.errors import DataError

SUCCESS, SEED, REWARD = "episode_metadata/success", "episode_metadata/seed", "steps/reward"
_LENGTH = struct.Struct("<Q")
_OPEN_FILES = 8


class OutcomeReader:
    """Reads success, seed and rewards of single episodes."""

    def __init__(self, features: Mapping[str, FeatureInfo], paths: Sequence[Path]) -> None:
        """Prepare to read the files of a split. ``features`` say what the episodes have."""
        kinds = {key: features[key].dtype for key in (SUCCESS, SEED, REWARD) if key in features}
        numbers = ("bool", "int", "uint")
        self._keys = frozenset(
            key.encode()
            for key, dtype in kinds.items()
            if dtype.startswith("float" if key == REWARD else numbers) and not features[key].shape
        )
        self._paths = paths
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_open)

    def read(self, shard: int, offset: int, steps: int) -> Outcome:
        """Return the outcome of the episode whose record holds a byte of a file.

        A record that has not what the features promise raises :class:`DataError`.
        """
        if not self._keys:
            return Outcome()
        path = self._paths[shard]
        data, starts = self._open(path)
        start = int(starts[np.searchsorted(starts, offset, side="right") - 1])
        with reading(path, cure="Write the record again"):
            (length,) = _LENGTH.unpack_from(data, start - FRAME_START)
            spans = scan_example(data, start, start + length, self._keys)
            values: dict[str, NDArray[Any]] = {}
            for key in self._keys:
                kind, first, end = spans.get(key, (0, 0, 0))
                name, expected = key.decode(), steps if key == REWARD.encode() else 1
                is_number = kind == (FLOATS if name == REWARD else INTS)
                column = (float_values if name == REWARD else int_values)(data, first, end) if is_number else ()
                if len(column) != expected:
                    raise DataError(f"the record at byte {start} has {len(column)} values of {name!r}, not {expected}")
                values[name] = np.array(column)
        return Outcome(
            success=bool(values[SUCCESS][0]) if SUCCESS in values else None,
            seed=int(values[SEED][0]) if SEED in values else None,
            rewards=values.get(REWARD),
        )


def _open(path: Path) -> tuple[Buffer, NDArray[np.int64]]:
    """Return the content of a file and the first byte of each record, whose checksums the index has verified."""
    data = map_file(path)
    starts, start = [], FRAME_START
    while start < len(data):
        starts.append(start)
        start += _LENGTH.unpack_from(data, start - FRAME_START)[0] + FRAME_BYTES
    return data, np.array(starts, dtype=np.int64)
