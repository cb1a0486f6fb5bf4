"""Each data set's action on numbers worked out by hand: units, signs, gripper, end of the episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rt1.actions import FloatArray, rt1_action_spec
from rt1.data.rlds import open_x_actions as mappings
from rt1.data.rlds.open_x_actions import ActionMapping, mode_of_choice, mode_of_flag, rt1_action


def _raw(**parts: Any) -> dict[str, FloatArray]:
    """Name parts as a dictionary action has them, one row a step."""
    columns = {name: np.array(values, np.float32) for name, values in parts.items()}
    return {f"action/{name}": c[:, None] if c.ndim == 1 else c for name, c in columns.items()}


def _columns(action: FloatArray) -> dict[str, Any]:
    assert action.dtype == np.float32
    cut: dict[str, Any] = {"mode": 0, "world": slice(1, 4), "rotation": slice(4, 7), "gripper": 7, "base": slice(8, 11)}
    return {name: np.round(action[:, columns].astype(np.float64), 5).tolist() for name, columns in cut.items()}


def test_parts_that_a_set_does_not_have_are_zero() -> None:
    action = rt1_action(mode=np.ones((2, 1), np.float32), world=np.full((2, 3), 0.5, np.float32))
    assert action.tolist() == [[1, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]] * 2


def test_the_joined_action_has_the_order_of_the_action_spec() -> None:
    parts = {
        "world_vector": np.array([[0.1, 0.2, 0.3]]),
        "rotation_delta": np.array([[0.4, 0.5, 0.6]]),
        "gripper_closedness_action": np.array([[1.0]]),
        "base_displacement_vertical_rotation": np.array([[0.7]]),
        "base_displacement_vector": np.array([[0.8, 0.9]]),
    }
    joined = mappings.fractal({**_raw(**parts), **_raw(terminate_episode=[1.0])})
    expected = rt1_action_spec().from_dict({**parts, "terminate_episode": np.array([[0, 1, 0]])})
    np.testing.assert_array_equal(joined, expected)


def test_a_flag_ends_the_episode_where_it_is_one() -> None:
    assert mode_of_flag(np.array([[0], [0], [1]], np.float32))[:, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("stored", "mode"),
    [
        ([1, 1, 0, -1], [1, 1, 0, 0]),  # fractal: the last row, never run, is all zero
        ([1, 2, 0], [1, 2, 0]),
        ([-1, 1, 1], [1, 1, 1]),
    ],
)
def test_a_row_of_zeros_terminates_at_the_last_step_only(stored: list[float], mode: list[float]) -> None:
    assert mode_of_choice(np.array(stored, np.float32)[:, None])[:, 0].tolist() == mode


BRIDGE_WORLD = [[0.01, -0.05, 0.0], [0.2, -0.025, 0.04]]
BRIDGE_ROTATION = [[0.05, 0.0, -0.25], [1.0, -1.0, 0.125]]
BRIDGE_EXPECTED = {
    "world": [[0.35, -1.74, 0.0], [1.74, -0.875, 1.4]],  # 1.75 per 5 cm, clipped at 1.74
    "rotation": [[0.28, 0.0, -1.39], [1.39, -1.39, 0.7]],  # 1.4 per 0.25 rad, clipped at 1.39
    "base": [[0, 0, 0], [0, 0, 0]],
}


def test_google_s_bridge_is_stretched_as_rt1_x_does_and_an_open_gripper_is_minus_one() -> None:
    raw = _raw(terminate_episode=[0, 1], world_vector=BRIDGE_WORLD, rotation_delta=BRIDGE_ROTATION, open_gripper=[1, 0])
    assert _columns(mappings.bridge(raw)) == {**BRIDGE_EXPECTED, "mode": [1, 0], "gripper": [-1, 1]}


def test_berkeley_s_bridge_gives_the_same_from_its_vector_of_seven() -> None:
    gripper = np.array([[0.89], [0.16]])
    vector = np.concatenate([BRIDGE_WORLD, BRIDGE_ROTATION, gripper], axis=1).astype(np.float32)
    raw = {"action": vector, "is_terminal": np.array([[0], [1]], np.float32)}
    assert _columns(mappings.bridge_dataset(raw)) == {**BRIDGE_EXPECTED, "mode": [1, 0], "gripper": [-1, 1]}


def test_taco_play_is_relative_as_stored_and_plus_one_is_open() -> None:
    raw = _raw(rel_actions_world=[[0.5, -1, 2, 0.1, 0.2, 0.3, 1], [0, 0, 0, 0, 0, 0, -1]], terminate_episode=[0, 1])
    assert _columns(mappings.taco_play(raw)) == {
        "mode": [1, 0],
        "world": [[0.5, -1, 2], [0, 0, 0]],
        "rotation": [[0.1, 0.2, 0.3], [0, 0, 0]],
        "gripper": [-1, 1],
        "base": [[0, 0, 0], [0, 0, 0]],
    }


def test_jaco_play_is_normalised_per_axis_and_does_not_turn() -> None:
    mean, deviation = [0.00096585, -0.00580069, -0.00395066], [0.12234575, 0.09676983, 0.11155209]
    one_off = (np.array(mean) + np.array([1, -1, 0.5]) * np.array(deviation)).tolist()
    raw = _raw(terminate_episode=[1, -1], world_vector=[mean, one_off], gripper_closedness_action=[1, 0])
    columns = _columns(mappings.jaco_play(raw))
    np.testing.assert_allclose(columns.pop("world"), [[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]], atol=1e-5)
    zeros = [[0, 0, 0], [0, 0, 0]]
    assert columns == {"mode": [1, 0], "rotation": zeros, "gripper": [1, 0], "base": zeros}


def test_cable_routing_has_no_gripper() -> None:
    raw = _raw(terminate_episode=[0], world_vector=[[0.25, -0.5, 1]], rotation_delta=[[0, 0, 0.75]])
    action = mappings.berkeley_cable_routing(raw)
    assert action.tolist() == [[1, 0.25, -0.5, 1, 0, 0, 0.75, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("mapping", "world", "rotation"),
    [
        (mappings.roboturk, 1.0, 1.0),
        (mappings.nyu_door_opening, 20.0, 15.0),
        (mappings.viola, 1.75, 3.0),
        (mappings.berkeley_autolab_ur5, 100.0, 15.0),
    ],
)
def test_a_stretched_set_keeps_its_gripper(mapping: ActionMapping, world: float, rotation: float) -> None:
    raw = _raw(
        terminate_episode=[0, 0, 1],
        world_vector=np.full((3, 3), 0.015625),
        rotation_delta=np.full((3, 3), -0.03125),
        gripper_closedness_action=[1, -1, 0],
    )
    assert _columns(mapping(raw)) == {
        "mode": [1, 1, 0],
        "world": np.round(np.full((3, 3), 0.015625 * world), 5).tolist(),
        "rotation": np.round(np.full((3, 3), -0.03125 * rotation), 5).tolist(),
        "gripper": [1, -1, 0],
        "base": [[0, 0, 0]] * 3,
    }


def test_toto_s_open_gripper_is_minus_one() -> None:
    raw = _raw(
        terminate_episode=[0, 1],
        world_vector=[[0.5, -0.5, 0], [0, 0, 0.25]],
        rotation_delta=[[0.5, 0, -0.5], [0, 0, 0]],
        open_gripper=[1, 0],
    )
    assert mappings.toto(raw).tolist() == [
        [1, 1, -1, 0, 0.5, 0, -0.5, -1, 0, 0, 0],
        [0, 0, 0, 0.5, 0, 0, 0, 1, 0, 0, 0],
    ]


def test_language_table_moves_in_the_plane_and_ten_centimetres_fill_the_bounds() -> None:
    raw = {"action": np.array([[0.1, -0.05]], np.float32), "is_terminal": np.zeros((1, 1), np.float32)}
    assert _columns(mappings.language_table(raw)) == {
        "mode": [1],
        "world": [[2, -1, 0]],
        "rotation": [[0, 0, 0]],
        "gripper": [0],
        "base": [[0, 0, 0]],
    }
