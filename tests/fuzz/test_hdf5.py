"""Damaged HDF5 files: one line that names the file, or episodes that can be read."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import mutate
from tests.fuzz.readable import assert_readable, write_anew

from rt1.data.arrays.hdf5 import HDF5Layout, HDF5Source
from rt1.data.sources.images import encode_jpeg

h5py = pytest.importorskip("h5py", reason="HDF5 episodes need h5py")

RNG = np.random.default_rng(0)
STEPS = 4
IMAGES = RNG.integers(0, 256, (STEPS, 8, 10, 3), dtype=np.uint8)
ACTIONS = RNG.uniform(-1, 1, (STEPS, 3)).astype(np.float32)


def _plain(file: Any) -> HDF5Layout:
    file["image"], file["action"] = IMAGES, ACTIONS
    file["instruction"], file["vector"] = "push", np.ones((STEPS, 5))
    return HDF5Layout(instruction_key="instruction", embedding_key="vector")


def _compressed_groups(file: Any) -> HDF5Layout:
    for number in range(2):
        group = file.create_group(f"data/demo_{number}")
        group.create_dataset("obs/image", data=IMAGES, chunks=(1, 8, 10, 3), compression="gzip")
        group.create_dataset("actions", data=ACTIONS, chunks=(2, 3), compression="gzip")
        group.attrs["language"] = f"sentence {number}"
    return HDF5Layout(image_key="obs/image", action_keys=("actions",), instruction_key="language", group="data")


def _encoded_rows(file: Any) -> HDF5Layout:
    rows = file.create_dataset("image", (STEPS,), dtype=h5py.vlen_dtype(np.uint8))
    for row, image in enumerate(IMAGES):
        rows[row] = np.frombuffer(encode_jpeg(image), np.uint8)
    file["action"], file["first"], file["text"] = ACTIONS, [1, 0, 1, 0], ["push", "push", "pull", "pull"]
    return HDF5Layout(instruction_key="text", start_key="first", encoded=True)


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("write", [_plain, _compressed_groups, _encoded_rows])
def test_a_damaged_file_gives_episodes_or_one_line(
    fuzz: Fuzz, tmp_path: Path, write: Callable[[Any], HDF5Layout], version: str
) -> None:
    path = tmp_path / "episode.hdf5"
    with h5py.File(path, "w", libver=version) as file:
        layout = write(file)
    original = path.read_bytes()
    assert_readable(HDF5Source(path, layout=layout))

    def check(rng: random.Random) -> None:
        write_anew(path, mutate(original, rng))
        assert_readable(HDF5Source(path, layout=layout))

    fuzz.check_examples(check, names="episode", examples=8, seconds=60)  # of the processes that looked, together


def test_a_damaged_file_with_checksums_gives_what_was_written_or_one_line(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "episode.hdf5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("image", data=IMAGES, chunks=(1, 8, 10, 3), fletcher32=True)
        file.create_dataset("action", data=ACTIONS, chunks=(STEPS, 3), fletcher32=True)
    original, layout = path.read_bytes(), HDF5Layout(instruction="push")

    def check(rng: random.Random) -> None:
        write_anew(path, mutate(original, rng))
        source = HDF5Source(path, layout=layout)
        assert _same_or_zero(source.actions(0, 0, STEPS), ACTIONS)
        assert _same_or_zero(np.stack(source.images(0, 0, STEPS)), IMAGES)

    fuzz.check_examples(check, names="episode", examples=8, seconds=60)  # of the processes that looked, together


def _same_or_zero(values: NDArray[Any], written: NDArray[Any]) -> bool:
    """Whether each row is as written, or filled with zeros: the checksum of zeros is zero."""
    return all(np.array_equal(row, right) or not row.any() for row, right in zip(values, written, strict=True))
