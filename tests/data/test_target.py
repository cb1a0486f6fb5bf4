"""Whether a data set fits an environment or a policy: what differs is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous
from rt1.data.target import Target, environment_target, target_differences


@pytest.fixture
def source(make_source: Callable[..., Any]) -> Any:
    """Three episodes at 10 Hz whose moves fill -1..1."""
    source = make_source(20, 20, 20, size=(16, 16))
    rng = np.random.default_rng(0)
    for moves in source.moves:
        moves[:] = rng.uniform(-1, 1, moves.shape)
    source.details = {"control_rate": 10.0}
    return source


@pytest.fixture
def target(source: Any) -> Target:
    """A target that the source fits."""
    sentences = tuple({source.instruction(episode).upper() for episode in range(3)})
    return Target(
        name="lab", action_spec=source.action_spec, control_rate=10.0, image_size=(16, 16), sentences=sentences
    )


def _spec(low: float, high: float, *, name: str = "move", dimensions: int = 3) -> ActionSpec:
    return ActionSpec(parts=(Continuous(name=name, low=(low,) * dimensions, high=(high,) * dimensions),))


def test_a_data_set_that_fits_has_no_differences(source: Any, target: Target) -> None:
    assert target_differences(source, target) == []
    assert target_differences(source, Target(name="lab", action_spec=source.action_spec)) == []


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({"control_rate": 20.0}, "other-rate", "10 steps per second, lab has 20"),
        ({"image_size": (96, 96)}, "other-image-size", "16 x 16, those of lab 96 x 96"),
        ({"sentences": ("wave",)}, "other-instructions", "The first of lab is 'wave'"),
    ],
)
def test_a_difference_is_named(source: Any, target: Target, change: dict[str, Any], check: str, words: str) -> None:
    ((name, message),) = target_differences(source, replace(target, **change))
    assert name == check
    assert words in message


@pytest.mark.parametrize(
    ("spec", "check", "words"),
    [
        (_spec(0, 1), "other-bounds", "0..1 of lab"),
        (_spec(-100, 100), "other-scale", "within the bounds -100..100 of lab"),
    ],
)
def test_bounds_that_the_actions_exceed_or_hardly_use_are_named(
    source: Any, target: Target, spec: ActionSpec, check: str, words: str
) -> None:
    differences = target_differences(source, replace(target, action_spec=spec))
    assert [name for name, _ in differences] == [check] * 3
    assert all(words in message for _, message in differences)


def test_other_names_are_named_and_compared_by_their_place(source: Any, target: Target) -> None:
    same = target_differences(source, replace(target, action_spec=_spec(-1, 1, name="hand")))
    assert [name for name, _ in same] == ["other-dimensions"]
    other = target_differences(source, replace(target, action_spec=_spec(0, 1, name="hand")))
    assert [name for name, _ in other] == ["other-dimensions", *["other-bounds"] * 3]
    fewer = target_differences(source, replace(target, action_spec=_spec(0, 1, name="hand", dimensions=2)))
    assert [name for name, _ in fewer] == ["other-dimensions"]


def test_an_environment_says_what_it_takes_and_shows(make_suite: Callable[..., Any]) -> None:
    suite = make_suite()
    target = environment_target(suite, "near")
    assert (target.name, target.control_rate, target.image_size) == ("points", 10.0, (16, 16))
    assert set(target.sentences) == {sentence for task in suite.tasks for sentence in suite.sentences(task)}
    unknown = make_suite(task_sentences={"near": ("go",), "far": ()})  # known after a reset only
    assert environment_target(unknown, "near").sentences == ()
