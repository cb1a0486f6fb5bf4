"""What a TFDS folder says about itself, and what is said where it says nothing useful."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout, find_feature, find_shards, layout_keys, read_features, read_json
from rt1.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, record: Callable[[Path], Path]) -> Path:
    return record(tmp_path / "1.0.0")


def test_features_are_found_by_key_with_their_shape(folder: Path) -> None:
    features = read_features(folder)
    image, action = features["steps/observation/image"], features["steps/action"]
    assert (image.kind, image.shape) == ("image", (24, 32, 3))
    assert (action.kind, action.dtype, action.width) == ("tensor", "float32", 3)
    assert features["episode_metadata/task"].kind == "text"
    assert features["steps/reward"].width == 1


def test_a_key_is_looked_up_in_the_step_then_in_the_episode(folder: Path) -> None:
    features = read_features(folder)
    assert find_feature(features, "action").key == "steps/action"
    assert find_feature(features, "episode_metadata/seed").key == "episode_metadata/seed"
    assert "observation/image" in layout_keys(features)


def test_an_unknown_key_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(DataError, match=r"'observation/img'.*'observation/image'"):
        find_feature(read_features(folder), "observation/img")


def test_a_list_within_a_step_is_marked_as_nested(tmp_path: Path) -> None:
    tensor = {"tensor": {"shape": {}, "dtype": "int64", "encoding": "none"}}
    step = {"featuresDict": {"features": {"words": {"sequence": {"feature": tensor, "length": "-1"}}}}}
    top = {"featuresDict": {"features": {"steps": {"sequence": {"feature": step, "length": "-1"}}}}}
    (tmp_path / "features.json").write_text(json.dumps(top))
    assert read_features(tmp_path)["steps/words"].kind == "nested"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere .*folder"):
        read_features(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no features\.json.*one version"):
        read_features(tmp_path)


def test_the_folder_above_the_version_is_answered_with_the_version(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no features\.json.*Did you mean .*1\.0\.0"):
        read_features(folder.parent)


@pytest.mark.parametrize("text", ["{", "[1]", '{"featuresDict": {}}', '{"featuresDict": {"features": [1]}}'])
def test_a_damaged_features_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(DataError, match=r"features\.json .*Copy it again"):
        read_features(tmp_path)


def test_a_missing_json_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rt1\.json: No such file"):
        read_json(tmp_path / "rt1.json")


def test_shards_come_in_order_with_their_promised_lengths(folder: Path) -> None:
    shards = find_shards(folder, "train")
    assert [path.name[-14:] for path in shards.paths] == [
        "00000-of-00003",
        "00001-of-00003",
        "00002-of-00003",
    ]
    assert shards.lengths == (2, 2, 1)
    assert shards.missing == ()
    assert shards.name == "push_blocks"


def test_lengths_are_unknown_without_dataset_info(folder: Path) -> None:
    (folder / "dataset_info.json").unlink()
    assert find_shards(folder, "train").lengths == (None, None, None)


def test_a_damaged_dataset_info_is_refused(folder: Path) -> None:
    (folder / "dataset_info.json").write_text('{"splits": [3]}')
    with pytest.raises(DataError, match=r"dataset_info\.json is damaged"):
        find_shards(folder, "train")


def test_no_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no shard files"):
        find_shards(tmp_path, "train")


def test_an_unknown_split_is_answered_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(DataError, match=r"'trian'.*'train'"):
        find_shards(folder, "trian")


@pytest.mark.parametrize("name", ["other-train.tfrecord-00000-of-00003", "push_blocks-train.tfrecord-00003-of-00003"])
def test_shards_of_two_recordings_in_one_folder_are_refused(folder: Path, name: str) -> None:
    (folder / name).touch()
    with pytest.raises(DataError, match="mixes shards of"):
        find_shards(folder, "train")


def test_a_layout_comes_back_from_json() -> None:
    layout = RLDSLayout(image_key="observation/front", action_keys=("action/a", "action/b"), task_key="task")
    layout = dataclasses.replace(layout, one_hot_keys=("action/b",))
    assert RLDSLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_a_layout_written_before_one_hot_keys_has_none() -> None:
    stored = RLDSLayout().to_json()
    del stored["one_hot_keys"]
    assert RLDSLayout.from_json(stored) == RLDSLayout()


def test_other_json_is_no_layout() -> None:
    with pytest.raises(ValueError, match=r"unknown setting .* 'image'"):
        RLDSLayout.from_json({"image": "x", "action_keys": ["a"]})


def test_a_layout_needs_an_action() -> None:
    with pytest.raises(ValueError, match="action_keys is empty"):
        RLDSLayout(action_keys=())
    with pytest.raises(ValueError, match=r"one_hot_keys .*\['mode'\]"):
        RLDSLayout(one_hot_keys=("mode",))


def _rename(folder: Path, template: str, *, kind: str = "tfrecord") -> None:
    """Rename the shards as a template says, and note it in dataset_info.json."""
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = kind
    info["splits"][0]["filepathTemplate"] = template
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for shard in sorted(folder.glob("*.tfrecord-*")):
        index, total = shard.name.split("tfrecord-")[1].split("-of-")
        name = template.replace("{SHARD_X_OF_Y}", f"{index}-of-{total}").replace("{SHARD_INDEX}", index)
        target = folder / name.format(DATASET="push_blocks", SPLIT="train", FILEFORMAT=kind, NUM_SHARDS=total)
        target.parent.mkdir(exist_ok=True)
        shard.rename(target)


@pytest.mark.parametrize(
    "template", ["{SPLIT}/{DATASET}-{SHARD_INDEX}.{FILEFORMAT}", "{DATASET}_{SPLIT}_{SHARD_X_OF_Y}.bin"]
)
def test_shards_with_the_names_of_a_template_are_read(folder: Path, template: str) -> None:
    before = find_shards(folder, "train")
    _rename(folder, template)
    shards = find_shards(folder, "train")
    assert (shards.name, shards.lengths, shards.missing) == ("push_blocks", before.lengths, ())
    assert RLDSSource(folder).lengths.tolist() == [1, 2, 3, 4, 5]
    shards.paths[1].unlink()
    assert len(find_shards(folder, "train").missing) == 1


@pytest.mark.parametrize("template", ["../{SPLIT}-{SHARD_INDEX}", "/tmp/{SHARD_INDEX}"])
def test_a_template_outside_of_the_folder_is_refused(folder: Path, template: str) -> None:
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["filepathTemplate"] = template
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"dataset_info\.json.*filepathTemplate"):
        find_shards(folder, "train")


def test_another_file_format_is_named_with_the_command_that_converts_it(folder: Path) -> None:
    _rename(folder, "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", kind="array_record")
    with pytest.raises(DataError, match=r"array_record.*tfds convert_format"):
        find_shards(folder, "train")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "rt1.json", "push_blocks-train.tfrecord-00001"])
def test_a_git_lfs_pointer_is_named_and_never_skipped(folder: Path, name: str) -> None:
    next(folder.glob(f"{name}*")).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(DataError, match=rf"{name}.* git-lfs pointer.*git lfs pull"):
        RLDSSource(folder, skip_corrupt=True)
