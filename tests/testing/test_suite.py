"""The check of a suite of tasks passes what keeps its promises and names what does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.actions import FloatArray
from rt1.envs import registry
from rt1.envs.base import Observation, SingleTask, StepResult
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.registry import register_suite
from rt1.testing import check_suite


@pytest.fixture
def suite(make_suite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(registry, "_SUITES", dict(registry._SUITES))
    register_suite("points", lambda settings: make_suite(**settings))
    return make_suite()


def test_a_suite_that_keeps_its_promises_passes(suite: Any) -> None:
    check_suite(suite)
    assert all(env.closed for env in suite.opened)


def test_the_tasks_that_are_named_are_checked(suite: Any) -> None:
    check_suite(suite, tasks=["far"], seed=9)
    assert {env.instruction for env in suite.opened} == {suite.sentences("far")[0]}


def test_our_own_suite_passes(gl: str) -> None:
    assert gl
    check_suite(MetaWorldSuite(config=MetaWorldConfig(image_size=16, control_rate=8.0)), tasks=["handle-press"])


def _set(**members: Any) -> Callable[[Any], None]:
    def apply(suite: Any) -> None:
        for name, value in members.items():
            setattr(suite, name, value)

    return apply


def _is_local(suite: Any) -> None:
    """Be of a class that another process cannot import."""
    suite.__class__ = type("Local", (type(suite),), {})


def _fails(suite: Any) -> None:
    suite.expert = lambda _: lambda _: np.array([0, 0, 1], np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(name="Points"), "name is 'Points'"),
        (_set(name="unheard_of"), "'unheard_of'"),
        (_set(task_sentences={}), r"tasks is \(\)"),
        (_set(image_size=(16, 0)), r"image_size is \(16, 0\)"),
        (_set(control_rate=0), "control_rate is 0"),
        (_set(max_steps=np.ones(1)), "settings .*JSON"),
        (_is_local, "points cannot be sent"),
        (_set(sentences=lambda _: ["go"]), r"sentences of near are \['go'\]"),
        (_set(sentences=lambda _: ("go", " ")), "sentences of near .*empty"),
        (_set(sentences=lambda _: ("go",)), "near has the instruction 'open the drawer'.*'go'"),
        (_set(same_scene_task=lambda _: "near"), "'near'.*another task"),
        (_set(control_rate=5.0), "control_rate 10.0.*5.0"),
        (_set(image_size=(16, 8)), r"image size \(16, 16\).*\(16, 8\)"),
        (_set(expert=lambda _: lambda _: [0, 0, 1]), "expert of near returned list"),
        (_set(expert=None), "expert is None"),
        (_fails, "expert of near failed 10 times"),
    ],
)
def test_a_suite_that_breaks_a_promise_is_refused(suite: Any, change: Callable[[Any], None], message: str) -> None:
    change(suite)
    with pytest.raises(ValueError, match=message) as refusal:
        check_suite(suite)
    assert "\n" not in str(refusal.value)


def test_an_environment_that_breaks_a_promise_is_refused(suite: Any) -> None:
    shifts, make_env = itertools.count(), suite.make_env

    def make(**options: Any) -> Any:
        env = make_env(**options)
        reset, shift = env.reset, next(shifts)
        env.reset = lambda seed: reset(seed + shift)
        return env

    suite.make_env = make
    with pytest.raises(ValueError, match="seed"):
        check_suite(suite)


def test_an_environment_with_one_task_is_its_own_suite() -> None:
    class Lamp(SingleTask):
        name, instruction = "lamp", "switch it on"

        def start(self, seed: int) -> Observation:
            raise NotImplementedError

        def apply(self, action: FloatArray) -> StepResult:
            raise NotImplementedError

    lamp = Lamp()
    assert (lamp.tasks, lamp.sentences("lamp"), dict(lamp.settings)) == (("lamp",), ("switch it on",), {})
    assert isinstance(lamp.open("lamp"), Lamp)
    assert (lamp.expert("lamp"), lamp.same_scene_task("lamp")) == (None, None)
