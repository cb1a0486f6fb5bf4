"""Hugging Face data sets on disk: splits, folders of Parquet files, labels, names of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.images import encode_jpeg
from rt1.errors import DataError

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets need datasets")

OPTIONS: dict[str, Any] = {"instruction_key": "instruction", "episode_key": "episode_index"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _steps(steps: int, **more: Any) -> Any:
    rows = {
        "image": [{"bytes": encode_jpeg(np.full((8, 10, 3), 9, np.uint8)), "path": None}] * steps,
        "action": np.arange(3 * steps, dtype=np.float64).reshape(steps, 3).tolist(),
        "instruction": ["push"] * steps,
        "episode_index": [0] * steps,
        **more,
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_a_split_of_a_saved_dict_is_opened(tmp_path: Path) -> None:
    dataset = datasets.DatasetDict({"train": _steps(4), "test": _steps(2)})
    dataset.save_to_disk(str(tmp_path / "set"))
    assert open_data(tmp_path / "set", DataOptions(**OPTIONS)).lengths.tolist() == [4]
    source = open_data(tmp_path / "set", DataOptions(**OPTIONS, split="test"))
    assert (source.name, source.lengths.tolist()) == ("set", [2])
    with pytest.raises(DataError, match=r"set: unknown split 'tset', did you mean 'test'"):
        open_data(tmp_path / "set", DataOptions(**OPTIONS, split="tset"))


def test_a_folder_of_parquet_files_is_opened_by_the_names_of_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "set/data"
    folder.mkdir(parents=True)
    _steps(3).to_parquet(str(folder / "train-00000-of-00002.parquet"))
    _steps(2, episode_index=[1, 1]).to_parquet(str(folder / "train-00001-of-00002.parquet"))
    _steps(1).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    source = open_data(tmp_path / "set", DataOptions(**OPTIONS))
    assert source.lengths.tolist() == [3, 2]
    assert source.encoded_images(0, 0, 1)[0].startswith(b"\xff\xd8")
    assert open_data(tmp_path / "set", DataOptions(**OPTIONS, split="test")).lengths.tolist() == [1]
    with pytest.raises(DataError, match=r"unknown split 'val'.*test, train"):
        open_data(tmp_path / "set", DataOptions(**OPTIONS, split="val"))


def test_parquet_files_of_other_names_are_the_training_split(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    _steps(3).to_parquet(str(tmp_path / "set/episodes.parquet"))
    assert open_data(tmp_path / "set", DataOptions(**OPTIONS)).lengths.tolist() == [3]


@pytest.mark.parametrize("content", [b"PAR1" + bytes(50), b"version https://git-lfs.github.com/spec/v1\nsize 3\n"])
def test_a_damaged_parquet_file_or_a_pointer_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is (damaged|a git-lfs pointer)") as caught:
        open_data(tmp_path, DataOptions(**OPTIONS))
    assert "\n" not in str(caught.value)


def test_a_class_label_is_its_name_and_a_missing_instruction_the_default(tmp_path: Path) -> None:
    dataset = _steps(2, instruction=[1, 1]).cast_column("instruction", datasets.ClassLabel(names=["pull", "push"]))
    dataset.save_to_disk(str(tmp_path / "set"))
    assert open_data(tmp_path / "set", DataOptions(**OPTIONS)).instruction(0) == "push"
    _steps(2, instruction=[None, None]).save_to_disk(str(tmp_path / "other"))
    assert open_data(tmp_path / "other", DataOptions(**OPTIONS)).instruction(0) == ""
    assert open_data(tmp_path / "other", DataOptions(**OPTIONS, instruction="wait")).instruction(0) == "wait"


def test_a_name_of_the_hub_is_loaded_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load(*names: str, **split: str) -> Any:
        calls.append((names, split))
        return _steps(2)

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_data(Path("hf:lab/pushes"), DataOptions(**OPTIONS, split="test"))
    assert calls == [(("lab/pushes",), {"split": "test"})]
    assert (source.name, source.lengths.tolist()) == ("lab/pushes", [2])


def test_a_hub_that_does_not_answer_and_a_wrong_name_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_names: str, **_split: str) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"hf:lab/pushes cannot be opened .*no network.*split"):
        open_data(Path("hf:lab/pushes"), DataOptions(**OPTIONS))
    with pytest.raises(DataError, match=r"hf:pushes .*OWNER/NAME"):
        open_data(Path("hf:pushes"), DataOptions(**OPTIONS))
