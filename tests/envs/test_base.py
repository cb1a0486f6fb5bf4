"""What a suite of tasks offers to all who take one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rt1.envs.base import TaskSuite, action_spec_of, check_tasks, recorded_sentences
from rt1.envs.metaworld import MetaWorldSuite


def test_tasks_are_checked_and_named_in_full() -> None:
    suite = MetaWorldSuite()
    assert check_tasks(suite, ["reach", "push-v3"]) == ("reach-v3", "push-v3")
    assert check_tasks(suite, ["all"]) == suite.tasks
    with pytest.raises(ValueError, match=r"'raech'.*'reach'"):
        check_tasks(suite, ["push", "raech"])


def test_of_two_versions_the_one_that_is_named_is_taken(make_suite: Callable[..., Any]) -> None:
    suite = make_suite(task_sentences={"push-v1": ("push",), "push-v2": ("push on",)})
    assert check_tasks(suite, ["push-v1"]) == ("push-v1",)
    assert check_tasks(suite, ["push"]) == ("push-v2",)


@pytest.mark.parametrize("tasks", [[], ["reach", "reach"], ["reach", "reach-v3"]])
def test_no_task_and_a_task_given_twice_are_refused(tasks: list[str]) -> None:
    with pytest.raises(ValueError, match="none twice"):
        check_tasks(MetaWorldSuite(), tasks)


def test_the_last_paraphrase_is_never_recorded() -> None:
    suite = MetaWorldSuite()
    sentences = suite.sentences("faucet-open")
    assert len(sentences) >= 3
    assert recorded_sentences(suite, "faucet-open") == sentences[:-1]
    assert recorded_sentences(suite, "assembly") == suite.sentences("assembly")  # a single sentence is recorded


def test_a_suite_has_every_member_of_the_protocol(make_suite: Callable[..., Any]) -> None:
    assert isinstance(make_suite(), TaskSuite)
    assert isinstance(MetaWorldSuite(), TaskSuite)


def test_the_action_spec_is_that_of_an_environment_which_is_closed_again(make_suite: Callable[..., Any]) -> None:
    suite = make_suite()
    assert action_spec_of(suite, "near").dimension_names == ("move_0", "move_1", "move_2")
    assert [env.closed for env in suite.opened] == [True]
