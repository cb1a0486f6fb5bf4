"""Damaged npz files: one line that names the file, or what was written, since each array has a checksum."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import mutate
from tests.fuzz.readable import assert_readable, write_anew

from rt1.data.arrays.base import ArrayLayout
from rt1.data.arrays.npz import NpzSource

STEPS = 4
RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "image": RNG.integers(0, 256, (STEPS, 8, 10, 3), dtype=np.uint8),
    "action": RNG.uniform(-1, 1, (STEPS, 3)).astype(np.float32),
    "instruction": "push",
    "vector": np.ones((STEPS, 5)),
}
LAYOUT = ArrayLayout(instruction_key="instruction", embedding_key="vector")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_gives_what_was_written_or_one_line(fuzz: Fuzz, tmp_path: Path, save: Any) -> None:
    path = tmp_path / "episode.npz"
    save(path, **ARRAYS)
    original = path.read_bytes()

    def check(rng: random.Random) -> None:
        write_anew(path, mutate(original, rng))
        source = NpzSource(tmp_path, layout=LAYOUT)
        assert source.instruction(0) == "push"
        assert np.array_equal(source.actions(0, 0, STEPS), ARRAYS["action"])
        assert np.array_equal(source.images(0, 0, STEPS), ARRAYS["image"])

    fuzz.check_examples(check, names="episode.npz")


def test_an_array_damaged_before_it_was_packed_gives_episodes_or_one_line(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "episode.npz"
    np.savez(path, **ARRAYS)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def check(rng: random.Random) -> None:
        name = rng.choice(list(members))
        content = members[name]
        # Most of a small array is its header: 128 bytes.
        changed = {name: mutate(content[:128], rng) + content[128:] if rng.random() < 0.7 else mutate(content, rng)}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for member, data in {**members, **changed}.items():
                archive.writestr(member, data)
        write_anew(path, packed.getvalue())
        assert_readable(NpzSource(tmp_path, layout=LAYOUT))

    fuzz.check_examples(check, names="episode")
