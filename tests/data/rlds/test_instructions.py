"""Instructions of foreign RLDS sets: labels, JSON, changes within an episode, empty ones, and what is no text."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.data.open_data import DataOptions, open_data
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.rlds.tfrecord import FeatureValue, encode_example, frame
from rt1.data.sources.images import encode_jpeg
from rt1.errors import DataError

IMAGE = encode_jpeg(np.full((8, 8, 3), 90, np.uint8))
LABEL = {"classLabel": {"numClasses": "2"}}


def _data_set(folder: Path, feature: Mapping[str, Any], episodes: Sequence[FeatureValue], key: str = "said") -> Path:
    """Write a set with an episode of two steps for each value of the feature ``said``."""
    folder.mkdir(exist_ok=True)
    action = {"tensor": {"shape": {"dimensions": ["1"]}, "dtype": "float32", "encoding": "none"}}
    steps = {"featuresDict": {"features": {"image": {"image": {}}, "action": action, key: feature}}}
    top = {"featuresDict": {"features": {"steps": {"sequence": {"feature": steps, "length": "-1"}}}}}
    (folder / "features.json").write_text(json.dumps(top))
    records = [
        {"steps/image": [IMAGE] * 2, "steps/action": np.arange(2, dtype=np.float32), f"steps/{key}": said}
        for said in episodes
    ]
    content = b"".join(frame(encode_example(record)) for record in records)
    (folder / "foreign-train.tfrecord-00000-of-00001").write_bytes(content)
    return folder


def _open(folder: Path, **layout: Any) -> RLDSSource:
    return RLDSSource(folder, layout=RLDSLayout(**{"image_key": "image", "instruction_key": "said", **layout}))


def _numbers(*shape: int, dtype: str = "int64") -> dict[str, Any]:
    return {"tensor": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encoding": "none"}}


TEXT: dict[str, Any] = {"text": {}}


def test_a_class_label_is_the_name_that_tfds_stores_with_it(tmp_path: Path) -> None:
    folder = _data_set(tmp_path / "set", LABEL, [np.array([1, 1]), np.array([0, 0])])
    (folder / "steps-said.labels.txt").write_text("close the drawer\nopen the drawer\n")
    source = _open(folder)
    assert [source.instruction(episode) for episode in range(2)] == ["open the drawer", "close the drawer"]


def test_a_class_label_outside_of_its_names_is_refused(tmp_path: Path) -> None:
    folder = _data_set(tmp_path / "set", LABEL, [np.array([2, 2])])
    (folder / "steps-said.labels.txt").write_text("close the drawer\nopen the drawer\n")
    with pytest.raises(DataError, match=r"class label 2\. .* 2 labels"):
        _open(folder)


@pytest.mark.parametrize("feature", [LABEL, _numbers(), _numbers(1), _numbers(3, dtype="float32"), _numbers(2, 3)])
def test_a_feature_that_is_no_text_is_refused(tmp_path: Path, feature: dict[str, Any]) -> None:
    values = np.ones(2, np.int64)
    with pytest.raises(DataError, match=r"'steps/said' holds .*must be text"):
        _open(_data_set(tmp_path / "set", feature, [values]))


@pytest.mark.parametrize("codes", [[1, 2, 3], [300, 65, 66], [-1, 65, 66], [200, 200, 200]])
def test_numbers_that_are_no_text_are_refused(tmp_path: Path, codes: list[int]) -> None:
    folder = _data_set(tmp_path / "set", _numbers(3), [np.array(codes * 2)])
    with pytest.raises(DataError, match=r"'steps/said' is .*no UTF-8"):
        _open(folder)


def test_an_image_is_no_instruction(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'steps/image' holds image values"):
        _open(_data_set(tmp_path / "set", TEXT, [[b"go"] * 2]), instruction_key="image")


def test_a_changing_instruction_is_reported_at_every_open(tmp_path: Path) -> None:
    folder = _data_set(tmp_path / "set", TEXT, [[b"open", b"close"], [b"open"] * 2])
    with pytest.warns(UserWarning, match="1 episodes change their instruction"):
        _open(folder)
    with pytest.warns(UserWarning, match="1 episodes change their instruction"):
        source = _open(folder)  # from the stored index
    assert [source.instruction(episode) for episode in range(2)] == ["open"] * 2


def test_an_instruction_that_begins_after_the_first_step_is_the_episode_s(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = _open(_data_set(tmp_path / "set", TEXT, [[b"", b"open"]]))
    assert source.instruction(0) == "open"


def test_an_empty_instruction_is_no_damage_and_gets_the_default(tmp_path: Path) -> None:
    folder = _data_set(tmp_path / "set", TEXT, [[b"", b" "], [b"open"] * 2])
    assert [_open(folder).instruction(episode) for episode in range(2)] == ["", "open"]
    options = DataOptions(image_key="image", instruction_key="said", instruction="wait")
    source = open_data(folder, options)
    assert [source.instruction(episode) for episode in range(2)] == ["wait", "open"]


def test_a_set_without_an_instruction_key_has_the_default(tmp_path: Path) -> None:
    folder = _data_set(tmp_path / "set", TEXT, [[b"open"] * 2])
    assert open_data(folder, DataOptions(image_key="image", instruction="push")).instruction(0) == "push"
    with pytest.raises(DataError, match="'language_instruction'"):
        open_data(folder, DataOptions(image_key="image"))


def test_json_is_refused_or_its_sentence_taken_out(tmp_path: Path) -> None:
    meta = json.dumps({"layout_id": 3, "lang": "open the drawer"}).encode()
    assert _open(_data_set(tmp_path / "one", TEXT, [[meta] * 2])).instruction(0) == "open the drawer"
    with pytest.raises(DataError, match=r"episode 0 .*JSON without a sentence"):
        _open(_data_set(tmp_path / "two", TEXT, [[b'{"layout_id": 3}'] * 2]))
