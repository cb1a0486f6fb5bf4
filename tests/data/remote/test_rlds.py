"""Parts of RLDS sets: shard lengths that are right, and templates and metadata that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.data.remote.fetch import FetchSettings, fetch_part
from rt1.data.rlds.schema import find_shards
from rt1.errors import DataError

Make = Callable[[Path, str], Path]
Upload = Callable[[Path], str]


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_metadata_describe_the_part(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "rlds")
    fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="1:5"))
    shards = find_shards(tmp_path / "part", "train")
    (split,) = json.loads((tmp_path / "part" / "dataset_info.json").read_text())["splits"]
    sizes = sum(path.stat().st_size for path in shards.paths)
    assert split["shardLengths"] == ["1", "2", "1"]
    assert (shards.lengths, shards.missing) == ((1, 2, 1), ())
    assert int(split["numBytes"]) == sizes - 4 * 16
    assert json.loads((tmp_path / "part" / "features.json").read_text()) == json.loads(
        (whole / "features.json").read_text()
    )


def test_a_template_of_its_own_and_class_labels_are_followed(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "rlds")
    for number in range(3):
        name = f"push_blocks-train.tfrecord-{number:05d}-of-00003"
        (whole / name).rename(whole / f"train_{number:05d}.tfrecord")
    (split,) = json.loads((whole / "dataset_info.json").read_text())["splits"]
    split["filepathTemplate"] = "{SPLIT}_{SHARD_INDEX}.{FILEFORMAT}"
    _change(whole / "dataset_info.json", splits=[split])
    features = json.loads((whole / "features.json").read_text())
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    steps["skill"] = {"classLabel": {"numClasses": "2"}}
    _change(whole / "features.json", **features)
    (whole / "steps-skill.labels.txt").write_text("open\nclose\n")
    fetch_part(upload(whole), tmp_path / "part", FetchSettings(episodes="3:5"))
    assert find_shards(tmp_path / "part", "train").lengths == (1, 1)
    assert (tmp_path / "part" / "steps-skill.labels.txt").read_text() == "open\nclose\n"


@pytest.mark.parametrize("template", ["../{DATASET}", "/etc/{SPLIT}", "{SPLIT.__class__}", "{OTHER}", "a?b", "x://y"])
def test_a_template_that_leads_outside_is_refused(
    tmp_path: Path, make_set: Make, upload: Upload, template: str
) -> None:
    whole = make_set(tmp_path / "whole", "rlds")
    (split,) = json.loads((whole / "dataset_info.json").read_text())["splits"]
    _change(whole / "dataset_info.json", splits=[{**split, "filepathTemplate": template}])
    with pytest.raises(DataError, match=r"dataset_info\.json: the path template"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings())
    assert not (tmp_path / "part").exists()


def test_what_cannot_be_cut_is_refused(tmp_path: Path, make_set: Make, upload: Upload) -> None:
    whole = make_set(tmp_path / "whole", "rlds")
    info = json.loads((whole / "dataset_info.json").read_text())
    with pytest.raises(DataError, match=r"unknown split 'tset'.*train"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings(split="tset"))
    _change(whole / "dataset_info.json", splits=[{**info["splits"][0], "shardLengths": ["2", "1", "2"]}])
    with pytest.raises(DataError, match=r"00001-of-00003 holds 2 episodes.*promises 1"):
        fetch_part(upload(whole), tmp_path / "part", FetchSettings())
    _change(whole / "dataset_info.json", splits=[{"name": "train"}])
    with pytest.raises(DataError, match="shardLengths"):
        fetch_part(upload(whole), tmp_path / "other", FetchSettings())
    _change(whole / "dataset_info.json", splits=info["splits"], fileFormat="array_record")
    with pytest.raises(DataError, match="fileFormat array_record"):
        fetch_part(upload(whole), tmp_path / "other", FetchSettings())
    _change(whole / "dataset_info.json", splits="none")
    with pytest.raises(DataError, match=r"dataset_info\.json is damaged"):
        fetch_part(upload(whole), tmp_path / "other", FetchSettings())
