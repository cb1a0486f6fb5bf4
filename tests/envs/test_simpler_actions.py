"""SimplerEnv's formulas, number by number against its own wrapper (tests/reference/simpler.json)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.common.json_files import read_object
from rt1.envs.base import Image
from rt1.envs.simpler_actions import POLICY_SETUPS, NamedAction, resize_with_pad, to_simulator
from rt1.errors import ObservationError

REFERENCE = read_object(Path(__file__).parents[1] / "reference" / "simpler.json")


def _action(values: dict[str, Any]) -> NamedAction:
    return {
        name: np.array(value, dtype=np.int32 if name == "terminate_episode" else np.float32)
        for name, value in values.items()
    }


def _picture(height: int, width: int) -> Image:
    return (np.arange(height * width * 3) * 97 % 256).astype(np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("key", REFERENCE["results"])
def test_fixed_actions_give_what_simpler_env_computes(key: str) -> None:
    setup, scale = key.split()
    assert len(REFERENCE["results"][key]) == len(REFERENCE["actions"]) == 10
    for values, expected in zip(REFERENCE["actions"], REFERENCE["results"][key], strict=True):
        raw, action = to_simulator(_action(values), POLICY_SETUPS[setup], float(scale))
        assert action.keys() == expected["action"].keys()
        assert raw.keys() == values.keys()
        for name, value in expected["raw"].items():
            assert raw[name].dtype == np.float32
            np.testing.assert_array_equal(raw[name], np.array(value, dtype=np.float32), err_msg=name)
        for name, value in expected["action"].items():
            assert action[name].dtype == (np.int32 if name == "terminate_episode" else np.float64)
            np.testing.assert_allclose(action[name], value, rtol=0, atol=1e-13, err_msg=name)


def test_the_policys_own_action_is_left_as_it_is() -> None:
    action = _action(REFERENCE["actions"][1])
    to_simulator(action, POLICY_SETUPS["google_robot"], 1.0)
    assert action["gripper_closedness_action"][0] == np.float32(0.0099)


@pytest.mark.parametrize("case", REFERENCE["small_images"], ids=lambda case: str(case["from"]))
def test_a_fitted_image_is_tensorflows_bit_by_bit(case: dict[str, Any]) -> None:
    fitted = resize_with_pad(_picture(*case["from"]), tuple(case["to"]))
    np.testing.assert_array_equal(fitted.ravel(), case["values"])


@pytest.mark.parametrize("case", REFERENCE["large_images"], ids=lambda case: str(case["from"]))
def test_an_image_of_the_simulators_size_is_fitted_bit_by_bit(case: dict[str, Any]) -> None:
    fitted = resize_with_pad(_picture(*case["from"]))
    assert fitted.shape == (256, 320, 3)
    assert hashlib.sha256(fitted.tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), dtype=np.float32), r"float32 \(8, 8, 3\).*uint8"),
        (np.zeros((8, 8), dtype=np.uint8), r"uint8 \(8, 8\).*RGB"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"\(3, 8, 8\).*RGB"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"\(0, 8, 3\)"),
        (np.zeros((1, 900, 3), dtype=np.uint8), r"\(1, 900, 3\).*row"),
        ("image", "str.*uint8"),
    ],
)
def test_an_image_of_another_type_or_shape_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        resize_with_pad(image)
