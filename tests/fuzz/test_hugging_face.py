"""Damaged folders of Hugging Face data sets: one line that names the folder, or episodes that can be read."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import mutate, mutate_json
from tests.fuzz.readable import assert_readable, write_anew

from rt1.data.arrays.huggingface import video_images
from rt1.data.lerobot.video import encode_video
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.images import encode_jpeg

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets need datasets")

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 8, 10, 3), dtype=np.uint8)
ACTIONS = RNG.uniform(-1, 1, (5, 3)).astype(np.float32)


def _steps(*, encoded: bool) -> Any:
    """Two episodes of 2 and 3 steps, a row a step."""
    jpegs = [{"bytes": encode_jpeg(image), "path": None} for image in PIXELS]
    table = {
        "image": jpegs if encoded else PIXELS.tolist(),
        "action": ACTIONS.tolist(),
        "instruction": ["push"] * 2 + ["pull"] * 3,
        "episode_index": [4, 4, 7, 7, 7],
        "vector": ACTIONS.tolist(),
    }
    kind = datasets.Image() if encoded else datasets.Array3D(PIXELS.shape[1:], "uint8")
    return datasets.Dataset.from_dict(table).cast_column("image", kind)


def _episodes() -> Any:
    """Two episodes, a row each."""
    cells = [{"bytes": encode_jpeg(image), "path": None} for image in PIXELS]
    table = {
        "image": [cells[:2], cells[2:]],
        "action": [ACTIONS[:2].tolist(), ACTIONS[2:].tolist()],
        "instruction": ["push", "pull"],
    }
    return datasets.Dataset.from_dict(table).cast_column("image", datasets.List(datasets.Image()))


@pytest.fixture(params=["jpegs", "pixels", "episodes"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, DataOptions]:
    """A folder, and how to open it."""
    of_steps = request.param != "episodes"
    dataset = _steps(encoded=request.param == "jpegs") if of_steps else _episodes()
    dataset.save_to_disk(str(tmp_path / "saved"))
    options = DataOptions(image_key="image", instruction_key="instruction")
    if of_steps:
        options = replace(options, embedding_key="vector", episode_key="episode_index")
    return tmp_path / "saved", options


@pytest.mark.parametrize("damaged", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
def test_a_damaged_folder_gives_episodes_or_one_line(fuzz: Fuzz, saved: tuple[Path, DataOptions], damaged: str) -> None:
    folder, options = saved
    assert_readable(open_data(folder, options))
    original = (folder / damaged).read_bytes()

    def check(rng: random.Random) -> None:
        data = mutate(original, rng)
        if damaged.endswith(".json") and rng.random() < 0.8:
            data = json.dumps(mutate_json(json.loads(original), rng)).encode()
        write_anew(folder / damaged, data)
        assert_readable(open_data(folder, options))

    fuzz.check_examples(check, names="saved", examples=8, seconds=60)  # of the processes that looked, together


def test_a_damaged_video_gives_images_or_one_line(fuzz: Fuzz) -> None:
    pytest.importorskip("av", reason="videos need av: the extra huggingface")
    video = encode_video(list(RNG.integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)), fps=5, codec="h264")

    def check(rng: random.Random) -> None:
        images = video_images("row 3", {"bytes": mutate(video, rng)}, 5, 1, 4)
        assert len(images) == 3
        assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images)

    fuzz.check_examples(check, names="row 3", examples=20)
