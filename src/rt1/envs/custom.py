"""Environments of your own as a task suite: a function that opens one, or a factory by name."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rt1.common.suggest import unknown_name
from rt1.envs.base import Env, ScriptedExpert, TaskSuite
from rt1.errors import first_line

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_factory(name: str) -> bool:
    """Whether a name has the form ``PACKAGE.MODULE:FACTORY``."""
    return _PATH.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class CustomSuite:
    """A task suite around a function. Satisfies :class:`rt1.envs.base.TaskSuite`.

    What the suite must know of its environments is read from the first task's, which is opened once for that.
    """

    make_env: Callable[[str], Any]
    """Opens the environment of a task: an :class:`rt1.envs.base.Env` or a ``gymnasium.Env``."""
    tasks: tuple[str, ...]
    """Task names."""
    name: str = "custom"
    """Name of the suite and of recorded data sets: lower case letters, digits, underscores."""
    experts: Mapping[str, ScriptedExpert] = field(default_factory=dict)
    """Scripted experts by task, where there are some."""
    same_scene: Mapping[str, str] = field(default_factory=dict)
    """Tasks that share a scene and differ in the instruction only, each naming the other."""
    max_return: float | None = None
    """Largest return of an episode, where returns are measured in place of success."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON, stored with recordings."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self._facts[0]

    @property
    def control_rate(self) -> float:
        """Steps per second, Hz."""
        return self._facts[1]

    def open(self, task: str, *, render: bool = True) -> Env:
        """Open a task's environment."""
        return as_env(self.make_env(task), task, render=render)

    def sentences(self, task: str) -> tuple[str, ...]:
        """Return the instruction, or nothing where it is known only after ``reset``."""
        with closing(self.open(task, render=False)) as env:
            return (env.instruction,) if env.instruction else ()

    def expert(self, task: str) -> ScriptedExpert | None:
        """Return the task's expert, if there is one."""
        return self.experts.get(task)

    def same_scene_task(self, task: str) -> str | None:
        """Return the task that shares the scene, if there is one."""
        return self.same_scene.get(task)

    @cached_property
    def _facts(self) -> tuple[tuple[int, int], float]:
        with closing(self.open(self.tasks[0])) as env:
            height, width = env.reset(0).image.shape[:2]
            return (height, width), env.control_rate


def as_env(thing: Any, name: str, *, render: bool = True) -> Env:
    """Return an environment as it is, or a ``gymnasium.Env`` adapted. Anything else raises ``ValueError``."""
    if hasattr(thing, "observation_space") or hasattr(thing, "num_envs"):
        from rt1.envs.gymnasium import GymnasiumEnv

        return GymnasiumEnv(thing, name=name, render=render)
    if isinstance(thing, Env):
        return thing
    raise ValueError(
        f"{name} is {type(thing).__name__}, must be an rt1.envs.base.Env or a gymnasium.Env. rt1.testing.check_env "
        "says what it lacks"
    )


def suite_from_factory(path: str, settings: Mapping[str, Any]) -> TaskSuite:
    """Import ``PACKAGE.MODULE:FACTORY``, call it with the settings, and return the suite.

    The factory returns a :class:`rt1.envs.base.TaskSuite`, or opens an environment, which becomes a suite of one task.
    The current folder is searched, too.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: the module has no such name, or it returned something else.
    """
    module_name, _, attribute = path.partition(":")
    factory = _imported(module_name, attribute, path)
    try:
        product = factory(**settings)
    except TypeError as error:
        raise ValueError(f"{path} cannot be called with {dict(settings)}: {first_line(error)}") from error
    if isinstance(product, TaskSuite):
        return product
    name = re.sub(r"\W+|_+", "_", attribute.lower()).strip("_") or "custom"
    as_env(product, path).close()
    return CustomSuite(make_env=_Opener(factory, settings), tasks=(name,), name=name, settings=settings)


@dataclass(frozen=True)
class _Opener:
    """Opens the environment of a factory, whatever the task is called."""

    factory: Callable[..., Any]
    settings: Mapping[str, Any]

    def __call__(self, task: str) -> Any:  # noqa: ARG002
        return self.factory(**self.settings)


def _imported(module_name: str, attribute: str, path: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current folder, which a console script does not search
    package = module_name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{path} needs the package {package}, which is neither installed nor in this folder. If it is yours, run "
            f"rt1 in the folder that holds it. Else run: pip install {package.replace('_', '-')}"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            raise ModuleNotFoundError(f"{path}: the package {package} has no module {module_name}") from error
        raise
    with suppress(AttributeError):
        return getattr(module, attribute)
    names = [name for name, member in vars(module).items() if callable(member) and name[0] != "_"]
    raise ValueError(f"{path}: {unknown_name('class or function', attribute, names)}")
