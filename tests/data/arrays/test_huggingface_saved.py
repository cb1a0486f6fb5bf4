"""Saved Hugging Face folders: what was saved comes back, and damage is one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.arrays.huggingface import HuggingFaceLayout, HuggingFaceSource
from rt1.data.arrays.huggingface_saved import open_saved
from rt1.data.sources.images import encode_jpeg
from rt1.errors import DataError

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets need datasets")

ARROW = "data-00000-of-00001.arrow"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    jpeg = encode_jpeg(np.zeros((8, 10, 3), np.uint8))
    table = {
        "image": [{"bytes": jpeg, "path": None}] * 3,
        "action": [[0.5, 1.0]] * 3,
        "instruction": ["push"] * 3,
        "episode_index": [0, 0, 1],
    }
    dataset = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    dataset.save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_data_set_comes_back(folder: Path) -> None:
    source = HuggingFaceSource(open_saved(folder))
    assert source.lengths.tolist() == [2, 1]
    assert source.images(1, 0, 1)[0].shape == (8, 10, 3)


def test_a_wrong_offset_is_refused_before_it_is_used(folder: Path) -> None:
    """pyarrow reads from where the offset points to, which may lie outside of the file."""
    content = (folder / ARROW).read_bytes()
    jpeg = len(encode_jpeg(np.zeros((8, 10, 3), np.uint8)))
    offsets = np.arange(4, dtype=np.int32) * jpeg
    assert content.count(offsets.tobytes()) == 1
    offsets[1:] = 2**31 - 1
    (folder / ARROW).write_bytes(content.replace((np.arange(4, dtype=np.int32) * jpeg).tobytes(), offsets.tobytes()))
    with pytest.raises(DataError, match=rf"{ARROW} is damaged .*ffset"):
        open_saved(folder)


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_truncated_arrow_file_is_refused(folder: Path, keep: int) -> None:
    (folder / ARROW).write_bytes((folder / ARROW).read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{ARROW} is damaged"):
        open_saved(folder)


@pytest.mark.parametrize("files", [None, 3, [{}], [["x"]]])
def test_a_mistyped_list_of_files_is_refused(folder: Path, files: object) -> None:
    _edit(folder / "state.json", _data_files=files)
    with pytest.raises(DataError, match=r"state\.json is damaged"):
        open_saved(folder)


@pytest.mark.parametrize("name", ["../set/" + ARROW, "a\nb", "/x"])
def test_a_data_file_outside_of_the_folder_is_refused(folder: Path, name: str) -> None:
    _edit(folder / "state.json", _data_files=[{"filename": name}])
    with pytest.raises(DataError, match=r"state\.json .*data file"):
        open_saved(folder)


@pytest.mark.parametrize("features", [3, {"action": {"_type": "Unknown"}}, {"action": {"dtype": 5, "_type": "Value"}}])
def test_features_that_datasets_does_not_understand_are_one_line(folder: Path, features: object) -> None:
    _edit(folder / "dataset_info.json", features=features)
    with pytest.raises(DataError, match=r"set is damaged") as caught:
        open_saved(folder)
    assert "\n" not in str(caught.value)


def test_a_file_that_shrinks_after_the_open_is_refused_at_the_next_read(folder: Path) -> None:
    source = HuggingFaceSource(open_saved(folder), layout=HuggingFaceLayout())
    (folder / ARROW).write_bytes((folder / ARROW).read_bytes()[:900])
    with pytest.raises(DataError, match=rf"{ARROW} .*changed"):
        source.encoded_images(0, 0, 1)
