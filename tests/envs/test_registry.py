"""Environments by name."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.envs.metaworld import MetaWorldConfig
from rt1.envs.registry import EnvSettings


def test_an_unknown_environment_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match="unknown environment 'meta-world'; did you mean 'metaworld'"):
        EnvSettings(env="meta-world")


def test_tasks_are_checked_and_named_in_full() -> None:
    env = EnvSettings()
    assert env.check_task("reach") == env.check_task("reach-v3") == "reach-v3"
    assert env.check_tasks(["reach", "push-v3"]) == ("reach-v3", "push-v3")
    with pytest.raises(ValueError, match="unknown Meta-World task 'raech'; did you mean 'reach'"):
        env.check_tasks(["push", "raech"])


@pytest.mark.parametrize("tasks", [[], ["reach", "reach"], ["reach", "reach-v3"]])
def test_no_task_and_a_task_given_twice_are_refused(tasks: list[str]) -> None:
    with pytest.raises(ValueError, match="give at least one and none twice"):
        EnvSettings().check_tasks(tasks)


def test_the_last_paraphrase_is_never_recorded() -> None:
    env = EnvSettings()
    sentences = env.sentences("faucet-open")
    assert len(sentences) >= 3
    assert env.recorded_sentences("faucet-open") == sentences[:-1]
    assert env.recorded_sentences("assembly") == env.sentences("assembly")  # a single sentence is recorded


def test_tasks_that_share_a_scene_are_twins_of_each_other() -> None:
    env = EnvSettings()
    assert env.twin("faucet-open") == "faucet-close-v3"
    assert env.twin("faucet-close-v3") == "faucet-open-v3"
    assert env.twin("reach") is None


def test_a_task_opens_with_the_settings_given() -> None:
    pytest.importorskip("metaworld", reason="Meta-World is not installed")
    env = EnvSettings(metaworld=MetaWorldConfig(image_size=24, control_rate=10.0)).open("reach", render=False)
    try:
        assert (env.task, env.control_rate, env.max_steps) == ("reach-v3", 10.0, 62)
        np.testing.assert_array_equal(env.reset(0).image, np.zeros((24, 24, 3), np.uint8))
    finally:
        env.close()
