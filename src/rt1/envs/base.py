"""What an environment offers (images, actions in physical units, success), and what a suite of tasks offers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.common.suggest import lookup

Image = NDArray[np.uint8]
ScriptedExpert = Callable[[Any], FloatArray]
"""Expert of a task: takes the open environment and returns the action for its current state, float32 (A,)."""
_VERSION = re.compile(r"-v\d+$")
PICTURE_SIZE = 480
"""Pixels of the longer side of pictures for people."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a policy gets at a step: the image, and nothing of the simulator's state."""

    image: Image
    """uint8 RGB (H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What an environment returns for one action."""

    observation: Observation
    """The observation after the action."""
    success: bool
    """True once the task's goal is reached. Used for counting only, never shown to a policy."""
    done: bool
    """True when the episode is over: success, another end of the task, or the environment's own step limit."""
    truncated: bool = False
    """True when the step limit ended the episode, and not the task."""
    reward: float = 0.0
    """Reward of the step, for environments that are measured by their return."""


@runtime_checkable
class Env(Protocol):
    """A robot or simulator with one task. ``rt1.testing.check_env`` checks an implementation."""

    action_spec: ActionSpec
    """The actions that ``step`` takes, float32 (A,) in physical units."""
    instruction: str
    """The sentence that names the task. It may be empty before ``reset``, and may change with any step."""
    control_rate: float
    """Steps per second, Hz."""
    max_steps: int
    """Steps after which an episode ends by itself."""

    def reset(self, seed: int) -> Observation:
        """Start an episode. The same seed gives the same start."""
        ...

    def step(self, action: FloatArray) -> StepResult:
        """Apply one action for one control period. A value outside the bounds raises ``ValueError``."""
        ...

    def close(self) -> None:
        """Free the simulator and its renderer."""
        ...


@runtime_checkable
class PicturedEnv(Protocol):
    """Optional members of an environment: sharp pictures for people, which no policy gets.

    They do not change the episode. A snapshot may be drawn later, also by another environment of the same task that was
    reset with the same seed. So only what somebody looks at is drawn.
    """

    draws_later: bool
    """True where a snapshot takes no time, False where it holds a picture that was drawn for it."""

    def snapshot(self) -> Any:
        """Return what a picture of the current scene depends on, as an object that can be pickled. None: no picture."""
        ...

    def picture(self, snapshot: Any, size: int) -> Image:
        """Draw a snapshot, uint8 RGB (H, W, 3), with at most ``size`` pixels on the longer side."""
        ...


@runtime_checkable
class TaskSuite(Protocol):
    """Environments by task name: where policies are recorded, evaluated, improved and played.

    A suite holds settings only and is pickled for worker processes. ``rt1.testing.check_suite`` checks an
    implementation. Commands find suites by name in :mod:`rt1.envs.registry`.
    """

    @property
    def name(self) -> str:
        """Name in the registry and of recorded data sets: lower case letters, digits, underscores."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain JSON from which the registry makes the suite again. Stored with recordings and checkpoints."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """Names of all tasks. A version at the end (``-v3``) may be left out where a user names a task."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the observations, pixels."""
        ...

    @property
    def control_rate(self) -> float:
        """Steps per second of all environments, Hz."""
        ...

    def open(self, task: str, *, render: bool = True) -> Env:
        """Open a task's environment. Without ``render`` the images may be black, for physics and experts alone.

        One environment is open in a process at a time.
        """
        ...

    def sentences(self, task: str) -> tuple[str, ...]:
        """Return the task's instruction, then its paraphrases, of which the last is never recorded.

        It is empty where the instruction is known only after ``reset``.
        """
        ...

    def expert(self, task: str) -> ScriptedExpert | None:
        """Return the task's scripted expert, or None where there is none."""
        ...

    def same_scene_task(self, task: str) -> str | None:
        """Return the task that shares this one's scene and differs in the instruction only, or None."""
        ...


class BaseEnv(ABC):
    """Base of an environment. It checks seeds, actions and the order of calls, and ends an episode at the step limit.

    A subclass has the values of :class:`Env`, ``start`` and ``apply``.
    """

    action_spec: ActionSpec
    instruction: str
    control_rate: float
    max_steps: int
    _steps: int | None = None  # of the episode; None where none is running

    @abstractmethod
    def start(self, seed: int) -> Observation:
        """Start an episode. ``reset`` has checked the seed."""

    @abstractmethod
    def apply(self, action: FloatArray) -> StepResult:
        """Apply an action, float32 (A,), which ``step`` has checked."""

    def reset(self, seed: int) -> Observation:
        """Start an episode. The same seed (any int >= 0) gives the same start."""
        if seed < 0:
            raise ValueError(f"seed is {seed}, must be 0 or more")
        self._steps = None
        observation = self.start(seed)
        self._steps = 0
        return observation

    def step(self, action: FloatArray) -> StepResult:
        """Apply one action for one control period. Done at the end of the task, or after ``max_steps``."""
        if self._steps is None:
            raise RuntimeError("step() was called before reset(), or after the episode's end. Call reset(seed) first")
        action = np.asarray(action, dtype=np.float32)
        spec = self.action_spec
        if (outside := spec.out_of_bounds(action)).any():
            first = int(np.argmax(outside))
            raise ValueError(
                f"{spec.dimension_names[first]} = {action[first]:g} lies outside its bounds {spec.low[first]:g}.."
                f"{spec.high[first]:g}. Clip the action first"
            )
        self._steps += 1
        result = self.apply(action)
        if not result.done and self._steps >= self.max_steps:
            result = replace(result, done=True, truncated=True)
        if result.done:
            self._steps = None
        return result

    def close(self) -> None:  # noqa: B027 (most environments hold nothing)
        """Free nothing."""


class SingleTask(BaseEnv):
    """Base of an environment with one task, which is thereby a :class:`TaskSuite` of that task, too.

    A subclass has ``name``, ``image_size`` and the members that :class:`BaseEnv` asks for. It opens nothing before
    ``start``.
    """

    name: str
    settings: Mapping[str, Any] = MappingProxyType({})

    @property
    def tasks(self) -> tuple[str, ...]:
        """The only task, named as the suite."""
        return (self.name,)

    def open(self, task: str, *, render: bool = True) -> Any:  # noqa: ARG002 (there is one)
        """Return another environment of this class."""
        return type(self)()

    def sentences(self, task: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return the instruction."""
        return (self.instruction,)

    def expert(self, task: str) -> ScriptedExpert | None:  # noqa: ARG002
        """Return None. A subclass may have an expert."""
        return None

    def same_scene_task(self, task: str) -> str | None:  # noqa: ARG002
        """Return None."""
        return None


def check_tasks(suite: TaskSuite, tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks' full names. ``all`` stands for every task.

    Raises:
        ValueError: none at all, an unknown one, or one twice.
    """
    if tuple(tasks) == ("all",):
        return tuple(suite.tasks)
    known = {_VERSION.sub("", name): name for name in suite.tasks} | {name: name for name in suite.tasks}
    names = tuple(lookup(f"{suite.name} task", task, known) for task in tasks)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"tasks are {list(names)}. Give at least one and none twice")
    return names


def recorded_sentences(suite: TaskSuite, task: str) -> tuple[str, ...]:
    """Return the sentences that recordings use: all but the last paraphrase, which stays unread."""
    sentences = suite.sentences(task)
    return sentences[:-1] if len(sentences) > 1 else sentences


def max_return(suite: TaskSuite) -> float | None:
    """Return a suite's optional member ``max_return``: the largest return of an episode, where returns are compared.

    None, and a suite without the member, means that successes are counted.
    """
    value: float | None = getattr(suite, "max_return", None)
    return value


def picture_backend(suite: TaskSuite) -> str | None:
    """Return a suite's optional member ``picture_backend``: the name of the library that draws its images."""
    name: str | None = getattr(suite, "picture_backend", None)
    return name


def draws_later(env: Env) -> bool:
    """Whether snapshots of an environment are drawn only when somebody looks."""
    return isinstance(env, PicturedEnv) and env.draws_later


def snapshot_of(env: Env) -> Any:
    """Return a snapshot of the current scene. None where the environment does not offer pictures for people."""
    return env.snapshot() if isinstance(env, PicturedEnv) else None


def picture_of(env: Env, snapshot: Any) -> Image | None:
    """Draw a snapshot for people. None where there is none."""
    return env.picture(snapshot, PICTURE_SIZE) if isinstance(env, PicturedEnv) and snapshot is not None else None


def open_batch(suite: TaskSuite, task: str, count: int, *, render: bool = True) -> Sequence[Env]:
    """Open environments of a task to act in at the same time: ``count`` where the suite can do that, else one.

    A suite that can has the member ``open_batch``, which takes and returns the same.
    """
    member = getattr(suite, "open_batch", None)
    environments: Sequence[Env] = [suite.open(task, render=render)] if member is None else member(task, count, render)
    return environments


def action_spec_of(suite: TaskSuite, task: str, *, render: bool = False) -> ActionSpec:
    """Open a task's environment, close it, and return its action spec."""
    with closing(suite.open(task, render=render)) as env:
        return env.action_spec
