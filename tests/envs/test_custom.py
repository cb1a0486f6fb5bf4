"""A function of one's own as a task suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rt1.envs.base import TaskSuite
from rt1.envs.custom import CustomSuite, as_env, is_factory
from rt1.testing import check_env


def test_a_function_that_opens_environments_makes_a_suite(make_env: Callable[..., Any]) -> None:
    expert = type(make_env()).expert_action
    suite = CustomSuite(make_env=lambda _task: make_env(), tasks=("near",), experts={"near": expert})
    assert isinstance(suite, TaskSuite)
    check_env(lambda: suite.open("near"))
    assert (suite.image_size, suite.control_rate, suite.sentences("near")) == ((16, 16), 10.0, ("open the drawer",))
    assert (suite.same_scene_task("near"), suite.expert("near"), suite.expert("far")) == (None, expert, None)


def test_what_is_no_environment_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"lamp is int, must be .*check_env"):
        as_env(3, "lamp")


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("a:b", True),
        ("pkg.mod:Make_2", True),
        ("gym_x/T-v0", False),
        ("a.b", False),
        ("a:b()", False),
        ("a:b:c", False),
    ],
)
def test_a_factory_is_told_by_its_form(name: str, holds: bool) -> None:  # noqa: FBT001
    assert is_factory(name) == holds
