"""Open X data sets read with RT-1's action: every set of the table in its own schema, real bridge, bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import FloatArray, rt1_action_spec
from rt1.data.rlds.open_x import OPEN_X, OpenXDataset, open_x_source
from rt1.data.rlds.open_x_actions import RawActions, mode_of_flag, rt1_action
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.tfrecord import FeatureValue, encode_example, frame
from rt1.data.sources.images import encode_jpeg
from rt1.data.statistics import source_statistics
from rt1.errors import DataError
from rt1.testing import check_source

STEPS = 4
TEXT = {"natural_language_embedding": "f512", "natural_language_instruction": "text"}
FLAGS = {"is_first": "b", "is_last": "b", "is_terminal": "b", "reward": "f"}
ARM = {"rotation_delta": "f3", "terminate_episode": "f", "world_vector": "f3"}
RT1_ACTION = {
    "base_displacement_vector": "f2",
    "base_displacement_vertical_rotation": "f1",
    "gripper_closedness_action": "f1",
    "rotation_delta": "f3",
    "terminate_episode": "i3",
    "world_vector": "f3",
}

# The features of a step as published: f float32, i int32, b bool with their shape, z zlib-packed float32.
SCHEMAS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "fractal20220817_data": (
        RT1_ACTION,
        {
            **TEXT, "image": "image", "base_pose_tool_reached": "f7", "gripper_closed": "f1",
            "gripper_closedness_commanded": "f1", "height_to_bottom": "f1", "orientation_box": "f2x3",
            "orientation_start": "f4", "robot_orientation_positions_box": "f3x3", "rotation_delta_to_go": "f3",
            "src_rotation": "f4", "vector_to_go": "f3", "workspace_bounds": "f3x3",
        },
    ),
    "kuka": (
        RT1_ACTION,
        {
            **TEXT, "image": "image", "clip_function_input/base_pose_tool_reached": "z7",
            "clip_function_input/workspace_bounds": "z3x3", "gripper_closed": "z1", "height_to_bottom": "z1",
            "task_id": "z1",
        },
    ),
    "bridge": ({**ARM, "open_gripper": "b"}, {**TEXT, "image": "image", "state": "f7"}),
    "taco_play": (
        {"actions": "f7", "rel_actions_gripper": "f7", "rel_actions_world": "f7", "terminate_episode": "f"},
        {
            **TEXT, "rgb_static": "image", "rgb_gripper": "image", "depth_gripper": "f84x84",
            "depth_static": "f150x200", "robot_obs": "f15", "structured_language_instruction": "text",
        },
    ),
    "jaco_play": (
        {"gripper_closedness_action": "f1", "terminate_episode": "i3", "world_vector": "f3"},
        {
            **TEXT, "image": "image", "image_wrist": "image", "end_effector_cartesian_pos": "f7",
            "end_effector_cartesian_velocity": "f6", "joint_pos": "f8",
        },
    ),
    "berkeley_cable_routing": (
        ARM,
        {
            **TEXT, "image": "image", "robot_state": "f7", "top_image": "image", "wrist225_image": "image",
            "wrist45_image": "image",
        },
    ),
    "roboturk": ({**ARM, "gripper_closedness_action": "f1"}, {**TEXT, "front_rgb": "image"}),
    "nyu_door_opening_surprising_effectiveness": (
        {**ARM, "gripper_closedness_action": "f1"},
        {**TEXT, "image": "image"},
    ),
    "viola": (
        {**ARM, "gripper_closedness_action": "f"},
        {
            **TEXT, "agentview_rgb": "image", "eye_in_hand_rgb": "image", "ee_states": "f16", "gripper_states": "f1",
            "joint_states": "f7",
        },
    ),
    "berkeley_autolab_ur5": (
        {**ARM, "gripper_closedness_action": "f"},
        {**TEXT, "image": "image", "hand_image": "image", "image_with_depth": "image", "robot_state": "f15"},
    ),
    "toto": ({**ARM, "open_gripper": "b"}, {**TEXT, "image": "image", "state": "f7"}),
    "language_table": (
        {"": "f2"},
        {"effector_target_translation": "f2", "effector_translation": "f2", "instruction": "i512", "rgb": "image"},
    ),
    "bridge_dataset": (
        {"": "f7"},
        {"image_0": "image", "image_1": "image", "image_2": "image", "image_3": "image", "state": "f7"},
    ),
}  # fmt: skip
SCHEMAS["bridge_orig"] = SCHEMAS["bridge_dataset"]


def _features(name: str) -> dict[str, str]:
    action, observation = SCHEMAS[name]
    features = {f"action/{key}".rstrip("/"): kind for key, kind in action.items()}
    features |= {f"observation/{key}": kind for key, kind in observation.items()} | FLAGS
    if name.startswith("bridge_"):
        features |= {"language_instruction": "text", "language_embedding": "f512", "discount": "f"}
    return features


def _shape(kind: str) -> tuple[int, ...]:
    return tuple(int(size) for size in kind[1:].split("x")) if kind[1:] else ()


def _description(kind: str) -> dict[str, Any]:
    if kind == "image":
        return {"image": {"shape": {"dimensions": ["8", "8", "3"]}, "dtype": "uint8"}}
    if kind == "text":
        return {"tensor": {"shape": {}, "dtype": "string", "encoding": "none"}}
    dtype = {"f": "float32", "z": "float32", "i": "int32", "b": "bool"}[kind[0]]
    dimensions = {"dimensions": [str(size) for size in _shape(kind)]}
    return {"tensor": {"shape": dimensions, "dtype": dtype, "encoding": "zlib" if kind[0] == "z" else "none"}}


def _value(key: str, kind: str, rng: np.random.Generator) -> FeatureValue:
    """Make up the values of all steps of a feature. Flags end the episode at its last step."""
    if kind == "image":
        return [encode_jpeg(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(STEPS)]
    if kind == "text":
        return [b"pick it up"] * STEPS
    width = int(np.prod(_shape(kind)))
    last = np.arange(STEPS) == STEPS - 1
    if key.endswith("terminate_episode"):
        rows = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
        return rows.reshape(-1) if kind == "i3" else last.astype(np.float32)
    if kind == "b":
        return last.astype(np.int64)
    if kind[0] == "i":
        return np.tile(np.pad(np.frombuffer(b"pick it up", np.uint8), (0, width - 10)), STEPS).astype(np.int64)
    values = rng.uniform(-0.04, 0.04, (STEPS, width)).astype(np.float32)
    return [zlib.compress(row.tobytes()) for row in values] if kind[0] == "z" else values.reshape(-1)


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    children: dict[str, dict[str, Any]] = {}
    for key, leaf in leaves.items():
        head, _, rest = key.partition("/")
        children.setdefault(head, {})[rest] = leaf
    nested = {head: child[""] if "" in child else _tree(child) for head, child in children.items()}
    return {"featuresDict": {"features": nested}}


def _write(folder: Path, name: str, **replaced: FeatureValue) -> tuple[Path, dict[str, FeatureValue]]:
    """Write a set of one episode in the schema of a published one, and return its folder and the stored values."""
    kinds, rng = _features(name), np.random.default_rng(0)
    stored = {key: _value(key, kind, rng) for key, kind in kinds.items()} | replaced
    steps = {"sequence": {"feature": _tree({key: _description(kind) for key, kind in kinds.items()}), "length": "-1"}}
    folder.mkdir()
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": {"steps": steps}}}))
    record = frame(encode_example({f"steps/{key}": value for key, value in stored.items()}))
    (folder / f"{name}-train.tfrecord-00000-of-00001").write_bytes(record)
    return folder, stored


RLDS = sorted(name for name, entry in OPEN_X.items() if not entry.lerobot)


@pytest.mark.parametrize("name", RLDS)
def test_a_set_in_its_published_schema_is_read_with_rt1_s_action(tmp_path: Path, name: str) -> None:
    folder, stored = _write(tmp_path / "set", name)
    source = open_x_source(folder, dataset=name)
    check_source(source)
    entry = OPEN_X[name]
    assert source.action_spec == rt1_action_spec(bins=512, world_bound=2.0)
    assert source.lengths.tolist() == [STEPS - entry.first_step]
    assert source.instruction(0) == "pick it up"
    assert source.encoded_images(0, 1, 3) == list(stored[entry.image_key])[1 + entry.first_step : 3 + entry.first_step]
    np.testing.assert_array_equal(source.outcome(0).rewards, np.asarray(stored["reward"])[entry.first_step :])
    embedding = source.text_embedding(0)
    assert (embedding is None) == (entry.embedding_key is None)
    raw = {key: np.asarray(stored[key], np.float32).reshape(STEPS, -1) for key in entry.action_keys}
    for key in entry.one_hot_keys:
        raw[key] = np.array([[1], [1], [0], [-1]], np.float32)
    expected = entry.to_rt1({key: part[entry.first_step :] for key, part in raw.items()})
    np.testing.assert_array_equal(source.actions(0, 0, len(expected)), expected)
    assert expected[:, 0].tolist() in ([1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0])


def test_every_named_set_is_one_of_those_tested() -> None:
    assert set(RLDS) == set(SCHEMAS)


def test_a_lerobot_set_is_not_read_from_rlds(tmp_path: Path) -> None:
    folder, _ = _write(tmp_path / "set", "bridge_dataset")
    with pytest.raises(DataError, match="bridge_orig_lerobot is a LeRobot data set"):
        open_x_source(folder, dataset="bridge_orig_lerobot")


def test_the_index_of_fractal_holds_its_one_hot_as_one_number(tmp_path: Path) -> None:
    folder, _ = _write(tmp_path / "set", "fractal20220817_data")
    source = open_x_source(folder, dataset="fractal20220817_data")
    assert sum(source.action_widths.values()) == 11


def test_real_bridge_episodes_get_rt1_s_action(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bridge"
    folder.mkdir()
    for path in (shared / "data" / "bridge_rlds" / "bridge_dataset" / "1.0.0").glob("[!.]*"):
        shutil.copyfile(path, folder / path.name)
    source = open_x_source(folder, dataset="bridge_dataset")
    check_source(source)
    assert source.lengths.tolist() == [9] * len(source.lengths)
    actions = np.concatenate([source.actions(episode, 0, 9) for episode in range(len(source.lengths))])
    unmapped = RLDSSource(folder, layout=OPEN_X["bridge_dataset"].layout())
    raw = np.concatenate([unmapped.actions(episode, 1, 10) for episode in range(len(source.lengths))])
    assert set(actions[:, 7].tolist()) == {-1.0, 1.0}
    np.testing.assert_array_equal(actions[:, 7] == -1, raw[:, 6] > 0.5)
    inside = np.abs(raw[:, :3]) < 0.0497
    np.testing.assert_allclose(actions[:, 1:4][inside] / 35, raw[:, :3][inside], atol=1e-6)
    assert not source.action_spec.out_of_bounds(actions).any()
    first = np.concatenate([unmapped.actions(episode, 0, 1)[:, :6] for episode in range(len(source.lengths))])
    assert np.abs(first).max() < 1e-5  # the first action of an episode, which nobody gave, is what is left out


def _own(**more: Any) -> OpenXDataset:
    def to_rt1(raw: RawActions) -> FloatArray:
        return rt1_action(mode=mode_of_flag(raw["is_last"]), world=raw["action/world_vector"])

    return dataclasses.replace(
        OPEN_X["viola"], name="own", action_keys=("action/world_vector", "is_last"), to_rt1=to_rt1, **more
    )


def test_an_own_set_is_described_without_touching_the_table(tmp_path: Path) -> None:
    folder, stored = _write(tmp_path / "set", "viola")
    source = open_x_source(folder, dataset=_own(bgr=True), action_spec=rt1_action_spec())
    assert source.name == "own"
    assert source.bgr
    assert source.action_spec == rt1_action_spec()
    world = np.asarray(stored["action/world_vector"]).reshape(STEPS, 3)
    np.testing.assert_array_equal(source.actions(0, 1, 3)[:, 1:4], world[1:3])


def test_a_changed_mapping_counts_although_the_index_is_kept(tmp_path: Path) -> None:
    folder, _ = _write(tmp_path / "set", "viola")
    before = open_x_source(folder, dataset=_own()).actions(0, 0, STEPS)
    doubled = _own()
    changed = dataclasses.replace(doubled, to_rt1=lambda raw: doubled.to_rt1(raw) * np.float32(2))
    np.testing.assert_array_equal(open_x_source(folder, dataset=changed).actions(0, 0, STEPS), before * 2)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda raw: raw["action/world_vector"],
        lambda raw: np.full((len(raw["is_last"]), 11), np.nan, np.float32),
        lambda raw: np.zeros((len(raw["is_last"]), 11)),
    ],
)
def test_a_mapping_that_does_not_give_rt1_s_action_is_refused_when_opened(tmp_path: Path, wrong: Any) -> None:
    folder, _ = _write(tmp_path / "set", "viola")
    with pytest.raises(DataError, match=r"episode 0: to_rt1 returned .*\. It must return finite float32 \(4, 11\)"):
        open_x_source(folder, dataset=dataclasses.replace(_own(), to_rt1=wrong))


def test_its_control_rate_is_known_and_its_statistics_are_kept_beside_the_index(tmp_path: Path) -> None:
    folder, _ = _write(tmp_path / "set", "viola")
    source = open_x_source(folder, dataset="viola")
    assert source.details["control_rate"] == OPEN_X["viola"].control_rate
    first = source_statistics(source)
    assert source.cache_folder is not None
    kept = next(source.cache_folder.glob("statistics-*.json"))
    kept.write_text(kept.read_text().replace('"count": 4', '"count": 5'))
    assert (first.statistics.count, source_statistics(source).statistics.count) == (4, 5)


def test_an_unknown_name_is_answered_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'bridge_datase'.*'bridge_dataset'"):
        open_x_source(tmp_path, dataset="bridge_datase")


def test_a_set_of_another_kind_is_refused_by_its_missing_key(tmp_path: Path) -> None:
    folder, _ = _write(tmp_path / "set", "toto")
    with pytest.raises(DataError, match=r"'action/gripper_closedness_action'.*'action/open_gripper'"):
        open_x_source(folder, dataset="viola")


def test_a_terminate_vector_with_two_ones_is_refused(tmp_path: Path) -> None:
    rows = np.array([[0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0]]).reshape(-1)
    folder, _ = _write(tmp_path / "set", "kuka", **{"action/terminate_episode": rows})
    with pytest.raises(DataError, match=r"step 1: .*terminate_episode' .*\[0, 1, 1\].*one-hot"):
        open_x_source(folder, dataset="kuka")


def test_an_episode_of_only_left_out_steps_is_refused(tmp_path: Path) -> None:
    folder, _ = _write(tmp_path / "set", "viola")
    with pytest.raises(DataError, match=r"episode 0 .*4 steps.*first 4"):
        open_x_source(folder, dataset=_own(first_step=4))


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, STEPS)])
def test_steps_outside_an_episode_are_refused(tmp_path: Path, start: int, stop: int) -> None:
    folder, _ = _write(tmp_path / "set", "bridge")
    source = open_x_source(folder, dataset="bridge")
    with pytest.raises(IndexError, match=r"bridge: .*episode 0.*3 steps"):
        source.actions(0, start, stop)
    with pytest.raises(IndexError, match=r"It has the episodes 0\.\.0"):
        source.encoded_images(1, 0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_step": -1}, "first_step of 'own' is -1"),
        ({"control_rate": 0.0}, "control_rate is 0.0"),
        ({"weight": np.nan}, "weight nan"),
    ],
)
def test_a_description_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _own(**change)
