"""Foreign RLDS sets: every form of action, instruction and embedding, and every episode that is refused."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete, rt1_action_spec
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.rlds.tfrecord import FeatureValue, encode_example, frame
from rt1.data.sources.images import encode_jpeg
from rt1.errors import DataError

IMAGE = encode_jpeg(np.full((8, 8, 3), 90, np.uint8))


def _tensor(*sizes: int, dtype: str = "float32", encoding: str = "none") -> dict[str, Any]:
    return {"tensor": {"shape": {"dimensions": [str(n) for n in sizes]}, "dtype": dtype, "encoding": encoding}}


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nest leaves by the pieces of their keys, as ``features.json`` does."""
    children: dict[str, dict[str, Any]] = {}
    plain = {key: leaf for key, leaf in leaves.items() if "/" not in key}
    for key, leaf in leaves.items():
        if "/" in key:
            head, rest = key.split("/", 1)
            children.setdefault(head, {})[rest] = leaf
    return {"featuresDict": {"features": {**plain, **{head: _tree(child) for head, child in children.items()}}}}


def _data_set(folder: Path, step_features: Mapping[str, Any], records: Sequence[Mapping[str, FeatureValue]]) -> Path:
    """Write a foreign set of one shard whose steps have an image, an instruction and the features given."""
    folder.mkdir()
    steps = _tree({"image": {"image": {}}, "instruction": {"text": {}}, **step_features})
    top = {"featuresDict": {"features": {"steps": {"sequence": {"feature": steps, "length": "-1"}}}}}
    (folder / "features.json").write_text(json.dumps(top))
    payloads = [encode_example({f"steps/{key}": value for key, value in record.items()}) for record in records]
    (folder / "foreign-train.tfrecord-00000-of-00001").write_bytes(b"".join(map(frame, payloads)))
    return folder


def _steps(count: int, **more: FeatureValue) -> dict[str, FeatureValue]:
    return {"image": [IMAGE] * count, "instruction": [b"pick it up"] * count, **more}


LAYOUT = RLDSLayout(image_key="image", instruction_key="instruction")


def test_nothing_left_after_skipping_is_refused(tmp_path: Path) -> None:
    records = [_steps(1, action=np.full(2, np.nan, np.float32))]
    folder = _data_set(tmp_path / "foreign", {"action": _tensor(2)}, records)
    with pytest.raises(DataError, match=r"no readable episode.*1 are skipped.*step 0"):
        RLDSSource(folder, layout=LAYOUT, skip_corrupt=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (_steps(3, action=np.array([0, 0, 0, 0, np.nan, 0], np.float32)), "the action of step 2 is .*finite"),
        (_steps(3, action=np.array([0, 0, 0, np.inf, 0, 0], np.float32)), "the action of step 1 is .*finite"),
        (_steps(0, action=np.zeros(0, np.float32)), "the episode has no steps"),
        (
            _steps(2, action=np.zeros(5, np.float32)),
            "'steps/action' has 5 values for 2 steps. It must have 2 a step",
        ),
        (_steps(2), "the record has no 'steps/action'"),
        ({"instruction": [b"x"], "action": np.zeros(2, np.float32)}, "the record has no 'steps/image'"),
    ],
)
def test_an_unusable_episode_is_named_and_may_be_left_out(
    tmp_path: Path, record: Mapping[str, FeatureValue], message: str
) -> None:
    good = _steps(2, action=np.arange(4, dtype=np.float32))
    folder = _data_set(tmp_path / "foreign", {"action": _tensor(2)}, [good, record, good])
    with pytest.raises(DataError, match=rf"00000-of-00001.*episode 1 .*byte \d+: .*{message}"):
        RLDSSource(folder, layout=LAYOUT)
    with pytest.warns(UserWarning, match="1 left out"):
        source = RLDSSource(folder, layout=LAYOUT, skip_corrupt=True)
    assert source.lengths.tolist() == [2, 2]
    assert source.actions(1, 0, 2).tolist() == [[0, 1], [2, 3]]


def test_without_a_layout_the_keys_are_named(tmp_path: Path) -> None:
    folder = _data_set(tmp_path / "foreign", {"action": _tensor(2)}, [_steps(1, action=np.zeros(2, np.float32))])
    with pytest.raises(DataError, match=r"RLDSLayout.*It has action, image, instruction"):
        RLDSSource(folder)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            RLDSLayout(image_key="imag", instruction_key="instruction"),
            "unknown RLDS key 'imag', did you mean 'image'",
        ),
        (
            RLDSLayout(image_key="action", instruction_key="instruction"),
            "holds a tensor. The image_key must name an image",
        ),
        (
            RLDSLayout(image_key="image", instruction_key="instruction", action_keys=("image",)),
            "Numbers are needed",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path: Path, layout: RLDSLayout, message: str) -> None:
    folder = _data_set(tmp_path / "foreign", {"action": _tensor(2)}, [_steps(1, action=np.zeros(2, np.float32))])
    with pytest.raises(DataError, match=message):
        RLDSSource(folder, layout=layout)


def test_a_depth_map_is_no_camera(tmp_path: Path) -> None:
    image = {"image": {"shape": {"dimensions": ["8", "8", "1"]}, "dtype": "uint16"}}
    folder = _data_set(
        tmp_path / "foreign", {"image": image, "action": _tensor(2)}, [_steps(1, action=np.zeros(2, np.float32))]
    )
    with pytest.raises(DataError, match="uint16 image"):
        RLDSSource(folder, layout=LAYOUT)


def test_without_a_spec_the_bounds_are_those_of_the_data(tmp_path: Path) -> None:
    records = [_steps(2, move=np.array([-2, 7, 3, 7], np.float32), grip=np.array([0, 1], np.int64))]
    features = {"move": _tensor(2), "grip": _tensor(dtype="bool")}
    layout = RLDSLayout(image_key="image", instruction_key="instruction", action_keys=("move", "grip"))
    source = RLDSSource(_data_set(tmp_path / "foreign", features, records), layout=layout)
    assert source.action_spec.dimension_names == ("move_0", "move_1", "grip")
    assert source.action_spec.low.tolist() == [-2, 7, 0]
    assert source.action_spec.high.tolist() == [3, 8, 1]
    assert source.actions(0, 0, 2).tolist() == [[-2, 7, 0], [3, 7, 1]]


def test_a_one_hot_key_becomes_the_number_of_its_choice(tmp_path: Path) -> None:
    mode = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]]).reshape(-1)
    records = [_steps(3, **{"arm/move": np.arange(3, dtype=np.float32), "base/move": mode})]
    features = {"arm/move": _tensor(), "base/move": _tensor(3, dtype="int32")}
    layout = RLDSLayout(
        image_key="image",
        instruction_key="instruction",
        action_keys=("arm/move", "base/move"),
        one_hot_keys=("base/move",),
    )
    source = RLDSSource(_data_set(tmp_path / "foreign", features, records), layout=layout)
    assert source.action_widths == {"arm/move": 1, "base/move": 1}
    assert source.actions(0, 0, 3).tolist() == [[0, 1], [1, -1], [2, 0]]
    assert source.action_spec.dimension_names == ("steps/arm/move", "steps/base/move")


FRACTAL = {
    "world_vector": 3,
    "rotation_delta": 3,
    "gripper_closedness_action": 1,
    "base_displacement_vector": 2,
    "base_displacement_vertical_rotation": 1,
}


def _fractal(folder: Path, terminate: list[list[int]]) -> tuple[Path, RLDSLayout, dict[str, np.ndarray]]:
    """A set of the form of fractal20220817_data: named action parts, a one-hot one, an embedding."""
    rng = np.random.default_rng(1)
    parts = {name: rng.uniform(-1, 1, (len(terminate), width)).astype(np.float32) for name, width in FRACTAL.items()}
    parts["terminate_episode"] = np.array(terminate, np.int64)
    record: dict[str, FeatureValue] = {f"action/{name}": part.reshape(-1) for name, part in parts.items()}
    record["observation/natural_language_embedding"] = rng.normal(size=4 * len(terminate)).astype(np.float32)
    features = {f"action/{name}": _tensor(width) for name, width in FRACTAL.items()}
    features["action/terminate_episode"] = _tensor(3, dtype="int32")
    features["observation/natural_language_embedding"] = _tensor(4)
    layout = RLDSLayout(
        image_key="image",
        instruction_key="instruction",
        embedding_key="observation/natural_language_embedding",
        action_keys=tuple(f"action/{name}" for name in [*FRACTAL, "terminate_episode"]),
    )
    return _data_set(folder, features, [_steps(len(terminate), **record)]), layout, parts


def test_named_action_parts_are_joined_in_the_order_of_the_spec(tmp_path: Path) -> None:
    folder, layout, parts = _fractal(tmp_path / "fractal", [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    spec = rt1_action_spec()
    source = RLDSSource(folder, layout=layout, action_spec=spec)
    actions = source.actions(0, 0, 3)
    np.testing.assert_array_equal(actions, spec.from_dict(parts))
    assert actions[:, 0].tolist() == [1, 2, 0]
    np.testing.assert_array_equal(actions[:, 1:4], parts["world_vector"])
    embedding = source.text_embedding(0)
    assert embedding is not None
    assert embedding.shape == (4,)


def test_the_same_files_read_with_another_spec_give_other_vectors(tmp_path: Path) -> None:
    folder, layout, _ = _fractal(tmp_path / "fractal", [[0, 1, 0]])
    assert RLDSSource(folder, layout=layout, action_spec=rt1_action_spec()).actions(0, 0, 1).shape == (1, 11)
    assert RLDSSource(folder, layout=layout).actions(0, 0, 1).shape == (1, 13)


def test_a_choice_that_is_not_one_hot_is_refused_with_its_step(tmp_path: Path) -> None:
    folder, layout, _ = _fractal(tmp_path / "fractal", [[0, 1, 0], [0, 1, 1]])
    with pytest.raises(DataError, match=r"episode 0 .*step 1: .*terminate_episode.*one-hot"):
        RLDSSource(folder, layout=layout, action_spec=rt1_action_spec())


def test_one_key_as_wide_as_the_spec_is_its_vector(tmp_path: Path) -> None:
    spec = ActionSpec(parts=(Discrete(name="action", choices=2), Continuous(name="x", low=(0.0,), high=(1.0,))))
    records = [_steps(1, action=np.array([1, 0.5], np.float32))]
    source = RLDSSource(
        _data_set(tmp_path / "foreign", {"action": _tensor(2)}, records), layout=LAYOUT, action_spec=spec
    )
    assert source.actions(0, 0, 1).tolist() == [[1, 0.5]]


@pytest.mark.parametrize(("encoding", "pack"), [("zlib", zlib.compress), ("bytes", bytes)])
def test_packed_tensors_are_unpacked(tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    action = np.array([[1.5, -2], [0, 3]], np.float32)
    features = {"action": _tensor(2, encoding=encoding)}
    records = [_steps(2, action=[pack(row.tobytes()) for row in action])]
    source = RLDSSource(_data_set(tmp_path / "kuka", features, records), layout=LAYOUT)
    np.testing.assert_array_equal(source.actions(0, 0, 2), action)


def test_a_packed_tensor_that_does_not_unpack_is_refused(tmp_path: Path) -> None:
    features = {"action": _tensor(2, encoding="zlib")}
    folder = _data_set(tmp_path / "kuka", features, [_steps(1, action=[b"not zlib"])])
    with pytest.raises(DataError, match=r"'steps/action'.*zlib float32"):
        RLDSSource(folder, layout=LAYOUT)


@pytest.mark.parametrize("packed", [zlib.compress(bytes(10**7)), zlib.compress(bytes(8))[:-5]])
def test_a_compressed_action_of_another_size_than_its_shape_is_refused(tmp_path: Path, packed: bytes) -> None:
    features = {"action": _tensor(2, encoding="zlib")}
    folder = _data_set(tmp_path / "kuka", features, [_steps(1, action=[packed])])
    with pytest.raises(DataError, match="holds more than 8 bytes a step"):
        RLDSSource(folder, layout=LAYOUT)


def test_an_instruction_stored_as_codes_is_read(tmp_path: Path) -> None:
    codes = np.zeros((2, 16), np.int64)
    codes[:, :6] = list("schön".encode())
    features = {"action": _tensor(1), "codes": _tensor(16, dtype="int32")}
    records = [_steps(2, action=np.zeros(2, np.float32), codes=codes)]
    folder = _data_set(tmp_path / "table", features, records)
    source = RLDSSource(folder, layout=RLDSLayout(image_key="image", instruction_key="codes"))
    assert source.instruction(0) == "schön"


@pytest.mark.parametrize("packed", [True, False])
def test_an_embedding_is_read_from_either_form_of_float_list(tmp_path: Path, packed: bool) -> None:  # noqa: FBT001
    embedding = np.array([0.5, -1, 2], np.float32)
    features = {"action": _tensor(1), "vector": _tensor(3)}
    record = _steps(2, action=np.zeros(2, np.float32))
    folder = _data_set(tmp_path / "foreign", features, [record])
    values = np.tile(embedding, 2)
    floats = b"\x0a" + bytes([24]) + values.tobytes() if packed else b"".join(b"\x0d" + v.tobytes() for v in values)
    feature = b"\x12" + bytes([len(floats)]) + floats
    entry = b"\x0a\x0csteps/vector\x12" + bytes([len(feature)]) + feature
    extra = b"\x0a" + bytes([len(entry)]) + entry
    # Two pieces of one message field are merged by every protobuf reader.
    message = (
        encode_example({f"steps/{key}": value for key, value in record.items()}) + b"\x0a" + bytes([len(extra)]) + extra
    )
    (folder / "foreign-train.tfrecord-00000-of-00001").write_bytes(frame(message))
    source = RLDSSource(
        folder, layout=RLDSLayout(image_key="image", instruction_key="instruction", embedding_key="vector")
    )
    found = source.text_embedding(0)
    assert found is not None
    np.testing.assert_array_equal(found, embedding)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(2, np.float32), "has 2 values. It must have 3"),
        (np.zeros(3, np.int64), "is not a list of floats"),
    ],
)
def test_an_embedding_of_another_form_is_refused(tmp_path: Path, vector: FeatureValue, message: str) -> None:
    features = {"action": _tensor(1), "vector": _tensor(3)}
    folder = _data_set(tmp_path / "set", features, [_steps(1, action=np.zeros(1, np.float32), vector=vector)])
    layout = RLDSLayout(image_key="image", instruction_key="instruction", embedding_key="vector")
    with pytest.raises(DataError, match=message):
        RLDSSource(folder, layout=layout)


def test_an_index_takes_at_most_60_bytes_per_step_of_an_11_dimensional_action(tmp_path: Path) -> None:
    record = _steps(45, action=np.zeros(45 * 11, np.float32))
    folder = _data_set(tmp_path / "set", {"action": _tensor(11)}, [record] * 40)
    RLDSSource(folder, layout=LAYOUT)
    size = sum(path.stat().st_size for path in (folder / ".rt1-index").rglob("*.npy"))
    assert size / (40 * 45) < 60


def test_a_tensor_whose_size_differs_from_step_to_step_is_no_action(tmp_path: Path) -> None:
    records = [_steps(1, action=np.zeros(2, np.float32))]
    folder = _data_set(tmp_path / "foreign", {"action": _tensor(-1)}, records)
    with pytest.raises(DataError, match=r"'steps/action'.*nested"):
        RLDSSource(folder, layout=LAYOUT)
