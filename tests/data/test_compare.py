"""Two data sets side by side: what is turned, swapped or opposite is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous
from rt1.data.compare import compare
from rt1.data.sources.images import encode_png

Turn = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def _scene(rng: np.random.Generator, step: int) -> NDArray[np.uint8]:
    """Return a table with a red block and an arm that moves a bit."""
    image = np.full((48, 64, 3), (200, 190, 170), np.uint8)
    image[30:] = (120, 80, 50)
    x = 8 + int(rng.integers(0, 6))
    image[34:42, x : x + 10] = (210, 40, 40)
    arm = 40 + step % 8 + int(rng.integers(0, 3))
    image[4:26, arm : arm + 6] = (60, 60, 70)
    return image


@pytest.fixture
def make(make_source: Callable[..., Any]) -> Callable[..., Any]:
    """Make a robot's recordings whose gripper opens first and closes later."""

    def make(seed: int, *, name: str, turn: Turn = lambda image: image, gripper: float = 1, episodes: int = 6) -> Any:
        rng = np.random.default_rng(seed)
        source = make_source(*[10 + seed % 3] * episodes, dimensions=4, name=name, size=(8, 8))
        labels = ("x", "y", "z", "gripper")
        source.action_spec = ActionSpec(parts=(Continuous(name="a", low=(-2.0,) * 4, high=(2.0,) * 4, labels=labels),))
        source.images = [
            [encode_png(np.ascontiguousarray(turn(_scene(rng, step)))) for step in range(len(moves))]
            for moves in source.moves
        ]
        for moves in source.moves:
            moves[:] = rng.normal(size=moves.shape) * (0.3, 0.2, 0.1, 0)
            moves[:, 3] = gripper * np.where(np.arange(len(moves)) < len(moves) // 2, -1, 1)
        return source

    return make


def _differences(one: Any, other: Any) -> list[tuple[str, str]]:
    return list(compare(one, other).differences)


def test_two_recordings_of_one_robot_have_no_differences(make: Callable[..., Any]) -> None:
    for seed in range(1, 6):
        assert _differences(make(0, name="lab"), make(seed, name="again", episodes=3 + seed)) == []


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda image: image[::-1, ::-1], "turned by 180 degrees"),
        (lambda image: image[:, ::-1], "flipped left to right"),
        (lambda image: image[::-1], "flipped upside down"),
    ],
)
def test_turned_images_are_named(make: Callable[..., Any], turn: Turn, words: str) -> None:
    ((check, message),) = _differences(make(0, name="lab"), make(1, name="sim", turn=turn))
    assert check == "flipped-images"
    assert f"the images of sim are likely {words} against those of lab" in message


def test_swapped_colors_are_named(make: Callable[..., Any]) -> None:
    ((check, message),) = _differences(make(0, name="lab"), make(1, name="sim", turn=lambda image: image[..., ::-1]))
    assert check == "swapped-colors"
    assert "red and blue of sim are likely exchanged" in message


@pytest.mark.parametrize("episodes", [2, 6])
def test_a_gripper_times_minus_one_is_named(make: Callable[..., Any], episodes: int) -> None:
    one, other = make(0, name="lab", episodes=episodes), make(1, name="sim", gripper=-1, episodes=episodes)
    ((check, message),) = _differences(one, other)
    assert check == "opposite-action"
    assert message == "gripper: likely opposite: the values of sim fit those of lab better (times -1)"


def test_a_gripper_mirrored_between_its_limits_is_named(make: Callable[..., Any]) -> None:
    one, other = make(0, name="lab"), make(1, name="sim")
    for moves in one.moves:
        moves[:, 3] = (moves[:, 3] + 1) / 2
    for moves in other.moves:
        moves[:, 3] = (1 - moves[:, 3]) / 2
    ((check, message),) = _differences(one, other)
    assert check == "opposite-action"
    assert message.endswith("(1 minus the value)")


def test_all_of_it_at_once_is_named(make: Callable[..., Any]) -> None:
    other = make(1, name="sim", turn=lambda image: image[::-1, ::-1, ::-1], gripper=-1)
    checks = [check for check, _ in _differences(make(0, name="lab"), other)]
    assert checks == ["flipped-images", "swapped-colors", "opposite-action"]


def test_another_unit_and_other_names_are_named(make: Callable[..., Any]) -> None:
    one, other = make(0, name="lab"), make(1, name="sim")
    for moves in other.moves:
        moves[:, 0] *= 57.3
    ((check, message),) = _differences(one, other)
    assert check == "other-scale"
    assert "x: the values spread" in message
    part = other.action_spec.parts[0]
    other.action_spec = ActionSpec(parts=(Continuous(name="b", low=part.low, high=part.high),))
    assert [check for check, _ in _differences(one, other)] == ["other-scale"]
    labels = ("y", "b", "c", "gripper")
    other.action_spec = ActionSpec(parts=(Continuous(name="b", low=part.low, high=part.high, labels=labels),))
    comparison = compare(one, other)
    assert comparison.common_names == ("y", "gripper")
    assert comparison.differences[0][0] == "other-dimensions"


def test_images_of_other_sizes_are_compared(make: Callable[..., Any]) -> None:
    def smaller(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA), np.uint8)[::-1, ::-1]

    ((check, _),) = _differences(make(0, name="lab"), make(1, name="sim", turn=smaller))
    assert check == "flipped-images"
