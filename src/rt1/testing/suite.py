"""Checks of a suite of tasks against its protocol."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

from rt1.envs.base import Env, ScriptedExpert, TaskSuite, check_tasks, max_return
from rt1.envs.registry import suite_from_json, suite_to_json
from rt1.testing.common import check_members, is_floats, is_json, is_rate, plain, refuse, words
from rt1.testing.environment import check_env

_VALUES = ("name", "settings", "tasks", "image_size", "control_rate")
_METHODS = ("open", "sentences", "expert", "same_scene_task")
_EXPERT_EPISODES = 10


def check_suite(suite: TaskSuite, *, tasks: Sequence[str] = (), seed: int = 0, one_start: bool = False) -> None:
    """Check a suite against :class:`rt1.envs.base.TaskSuite`. Register it first.

    Checked are the members and their types, and that the suite can be stored, made again and sent to other processes.
    Of some tasks also the sentences, the environment (with :func:`check_env`), that both agree, and the expert.

    Args:
        suite: the suite.
        tasks: tasks to check. The first three if not given.
        seed: seed of the first episode.
        one_start: True where environments start alike under every seed.

    Raises:
        ValueError: a promise is broken. One line with what was found and what is required.
    """
    _check_values(suite)
    _check_stored(suite)
    for task in check_tasks(suite, tasks or tuple(suite.tasks)[:3]):
        _check_texts(suite, task)
        check_env(partial(suite.open, task), seed=seed, one_start=one_start)
        with closing(suite.open(task)) as env:
            _check_agreement(suite, task, env, seed)
        if (expert := suite.expert(task)) is not None:
            with closing(suite.open(task, render=False)) as env:
                _check_expert(suite, expert, env, task, seed)


def _check_values(suite: TaskSuite) -> None:
    check_members(suite, "TaskSuite", _VALUES, _METHODS)
    name, tasks, size = plain(suite.name), plain(suite.tasks), plain(suite.image_size)
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        refuse(f"name is {name!r}, must be lower case letters, digits and underscores")
    if not isinstance(tasks, list | tuple) or not tasks or len({*map(str, tasks)}) != len(tasks):
        refuse(f"tasks is {tasks!r:.200}, must be a list or tuple of different names, at least one")
    if not isinstance(size, tuple) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        refuse(f"image_size is {size!r}, must be (H, W), whole numbers above 0")
    if not is_rate(suite.control_rate):
        refuse(f"control_rate is {suite.control_rate!r}, must be a number of steps per second above 0")


def _check_stored(suite: TaskSuite) -> None:
    settings = plain(suite.settings)
    if not isinstance(settings, Mapping) or not is_json(dict(settings)):
        refuse(f"settings is {settings!r:.200}, must be a dict of plain JSON")
    again = suite_from_json(suite_to_json(suite))
    if suite_to_json(again) != suite_to_json(suite):
        refuse(f"from the settings {dict(settings)} the registry makes a suite with {dict(again.settings)}")
    try:
        ForkingPickler.dumps(suite)
    except Exception as error:  # whatever the suite holds
        raise ValueError(f"{suite.name} cannot be sent to a worker process ({error}). Hold settings only") from error


def _check_texts(suite: TaskSuite, task: str) -> None:
    sentences = plain(suite.sentences(task))
    if not isinstance(sentences, tuple) or len(set(sentences)) != len(sentences):
        refuse(f"the sentences of {task} are {sentences!r:.200}, must be a tuple of different ones")
    if not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
        refuse(f"the sentences of {task} are {sentences!r:.200}. None may be empty")
    other = suite.same_scene_task(task)
    if other is not None and (other == task or other not in suite.tasks or suite.same_scene_task(other) != task):
        refuse(f"same_scene_task({task!r}) is {other!r}, must be another task of the suite that names this one")


def _check_agreement(suite: TaskSuite, task: str, env: Env, seed: int) -> None:
    size = env.reset(seed).image.shape[:2]
    pairs: dict[str, tuple[Any, Any]] = {
        "instruction": (env.instruction, next(iter(suite.sentences(task)), env.instruction)),
        "control_rate": (env.control_rate, suite.control_rate),
        "image size": (size, suite.image_size),
    }
    for what, (found, expected) in pairs.items():
        if found != expected:
            refuse(f"the environment of {task} has the {what} {found!r}. The suite says {expected!r}")


def _check_expert(suite: TaskSuite, expert: ScriptedExpert, env: Env, task: str, seed: int) -> None:
    """Run the expert until it succeeds once, or for an episode where returns are measured."""
    for episode in range(_EXPERT_EPISODES):
        env.reset(seed + episode)
        for _ in range(env.max_steps):
            action = expert(env)
            if not is_floats(action, 1) or len(action) != env.action_spec.size:
                refuse(f"the expert of {task} returned {words(action)}, must be float32 ({env.action_spec.size},)")
            result = env.step(action)  # outside the bounds the environment raises
            if result.success or (result.done and max_return(suite) is not None):
                return
            if result.done:
                break
    refuse(f"the expert of {task} failed {_EXPERT_EPISODES} times. It must succeed, or expert() must return None")
