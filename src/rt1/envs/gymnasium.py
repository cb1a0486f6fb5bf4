"""Any Gymnasium environment with a picture, ``gym:ID``, as a task suite of one task."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import cv2
import numpy as np

from rt1.actions import ActionPart, ActionSpec, Continuous, Discrete, FloatArray
from rt1.common.json_config import LARGEST, check_above, check_at_least, check_between, to_json
from rt1.common.json_files import parse
from rt1.common.suggest import unknown_name
from rt1.envs.base import PICTURE_SIZE, BaseEnv, Image, Observation, ScriptedExpert, StepResult
from rt1.envs.gl import choose_gl_early
from rt1.envs.pictures import decode_picture, encode_picture, pictures_in, rgb_picture
from rt1.errors import RenderingError, first_line

_LOG = logging.getLogger(__name__)
SUCCESS_KEYS = ("success", "is_success")
"""Entries of ``info`` that say whether the task is solved."""
_TASK_DESCRIPTION = "task_description"
_RENDER = "render"


@dataclass(frozen=True, kw_only=True)
class GymConfig:
    """How a Gymnasium environment is made, shown and measured."""

    kwargs: tuple[str, ...] = ()
    """Arguments of gymnasium.make as NAME=VALUE, for example obs_type=pixels. VALUE is JSON or a word."""
    picture: str = ""
    """Key of the observation's picture, with dots between levels (pixels.top), or "render" for render(). Default: the
    picture under "pixels", else the only picture, else render()."""
    image_size: tuple[int, ...] = ()
    """Height and width that pictures are resized to. Default: the environment's own."""
    sentence: str = ""
    """Sentence that names the task. Default: the environment's task_description, read after each reset and step."""
    control_rate: float | None = None
    """Steps per second, Hz. Default: render_fps of the environment's metadata."""
    max_steps: int | None = None
    """Steps of an episode. Default: the environment's own limit, which is also the largest."""
    success_return: float | None = None
    """Return from which an episode is a success. Default: the environment's info says success or is_success."""
    max_return: float | None = None
    """Largest return of an episode. With it the return is measured in place of success."""

    def __post_init__(self) -> None:
        if self.image_size and len(self.image_size) != 2:
            raise ValueError(f"image_size is {list(self.image_size)}, must be a height and a width")
        check_between(self, 8, 2048, "image_size")
        check_at_least(self, 1, "max_steps")
        check_between(self, -LARGEST, LARGEST, "success_return", "max_return", "control_rate")
        check_above(self, 0, *(name for name in ("control_rate", "max_return") if getattr(self, name) is not None))
        for argument in self.kwargs:
            if not re.match(r"[A-Za-z_]\w*=", argument):
                raise ValueError(f"kwargs has {argument!r}, must be NAME=VALUE, for example obs_type=pixels")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of ``gymnasium.make``."""
        return {name: _value(text) for name, _, text in (argument.partition("=") for argument in self.kwargs)}


def _value(text: str) -> Any:
    try:
        return parse(text, name=text)
    except ValueError:
        return text


class GymnasiumEnv(BaseEnv):
    """A Gymnasium environment as :class:`rt1.envs.base.Env`.

    Success ends an episode, as ``terminated`` and ``truncated`` do. An action is cast to the type of the environment's
    space. What the environment itself returns stays as it is: wrappers belong around the environment.
    """

    draws_later: ClassVar[bool] = False

    def __init__(
        self, env: Any, config: GymConfig | None = None, *, name: str = "environment", render: bool = True
    ) -> None:
        """Take over an open ``gymnasium.Env``, which :meth:`close` closes.

        Args:
            env: the environment. Made with ``render_mode="rgb_array"`` where its observation has no picture.
            config: how it is shown and measured. ``kwargs`` are not used.
            name: its name in errors.
            render: False gives black images where they come from ``render()``.

        Raises:
            ValueError: an action space, a picture, a rate or a step limit that cannot be used.
        """
        config = config or GymConfig()
        if hasattr(env, "num_envs"):
            raise ValueError(f"{name} is a vector environment, must be a single one. Give the function that makes one")
        self._env, self._config, self._name, self._render = env, config, name, render
        parts, self._to_native = _actions(env.action_space, name)
        self.action_spec = ActionSpec(parts=parts)
        self.max_steps = _step_limit(env, config, name)
        self.control_rate = _control_rate(env, config, name)
        self.instruction = self._described({})
        self._picture = config.picture or _picture_key(env, name)
        self._black: Image | None = None
        self._frame: Any = None  # the last render()
        self._pictures = getattr(env, "render_mode", None) == "rgb_array"
        self._return = 0.0
        self.says_success = False
        """True once ``info`` has said whether the task is solved."""

    def start(self, seed: int) -> Observation:
        """Reset the environment with the seed."""
        observation, info = self._env.reset(seed=seed)
        self._return = 0.0
        self._success(info)
        self.instruction = self._described(info)
        return self._observe(observation)

    def apply(self, action: FloatArray) -> StepResult:
        """Step the environment."""
        observation, reward, terminated, truncated, info = self._env.step(self._to_native(action))
        self._return += float(reward)
        success = self._success(info)
        self.instruction = self._described(info)
        return StepResult(
            observation=self._observe(observation),
            success=success,
            done=success or bool(terminated) or bool(truncated),
            truncated=bool(truncated) and not terminated and not success,
            reward=float(reward),
        )

    def snapshot(self) -> bytes | None:
        """Return ``render()`` as a JPEG for :meth:`picture`, None where there is none. It cannot be drawn later."""
        try:
            value = self._frame if self._picture == _RENDER else self._rendered() if self._pictures else None
            if value is not None:
                return encode_picture(rgb_picture(value, "render()"), PICTURE_SIZE)
        except (RenderingError, ValueError) as error:
            _LOG.warning("%s has no sharp pictures: %s", self._name, first_line(error))
            self._pictures, self._frame = False, None
        return None

    def picture(self, snapshot: bytes, size: int) -> Image:
        """Return a snapshot, at most ``size`` pixels wide and high."""
        return decode_picture(snapshot, size)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _success(self, info: Mapping[str, Any]) -> bool:
        if self._config.success_return is not None:
            return self._return >= self._config.success_return
        flags = [bool(np.all(info[key])) for key in SUCCESS_KEYS if key in info]
        self.says_success |= bool(flags)
        return any(flags) and self._config.max_return is None

    def _described(self, info: Mapping[str, Any]) -> str:
        if self._config.sentence:
            return self._config.sentence
        try:
            text = self._env.get_wrapper_attr(_TASK_DESCRIPTION)
        except AttributeError:
            text = info.get(_TASK_DESCRIPTION, "")
        return str(text or "")

    def _observe(self, observation: Any) -> Observation:
        if self._picture == _RENDER:
            value = self._frame = self._rendered()
        else:
            value = observation
            for key in filter(None, self._picture.split(".")):
                if not isinstance(value, Mapping) or key not in value:
                    raise ValueError(unknown_name(f"picture of {self._name}", self._picture, pictures_in(observation)))
                value = value[key]
        image = rgb_picture(value, f"the picture of {self._name}")
        if (size := self._config.image_size) and image.shape[:2] != size:
            image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
        return Observation(image=image)

    def _rendered(self) -> Any:
        if not self._render and self._black is not None:
            return self._black
        try:
            picture = self._env.render()
        except Exception as error:  # an environment's renderer fails with whatever it met first
            raise RenderingError(f"{self._name} cannot render ({first_line(error)}). Install its GL driver") from error
        if picture is None:
            raise ValueError(
                f"{self._name} has no picture: render() returned nothing and its observation holds none. Make it with "
                "render_mode='rgb_array', or name the observation's picture"
            )
        if not self._render:
            self._black = picture = np.zeros_like(picture)
        return picture


def _actions(space: Any, name: str) -> tuple[tuple[ActionPart, ...], Callable[[FloatArray], Any]]:
    """Return the parts of an action space, and the function from (A,) to the space's own action."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return (Discrete(name="action", choices=int(space.n)),), lambda action: int(action[0]) + first
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"{name} takes {type(space).__name__} actions, must be Box or Discrete. Wrap it, for example with "
            "gymnasium.wrappers.TransformAction"
        )
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(
            f"{name} takes actions without bounds, must be bounded. Wrap it, for example with "
            "gymnasium.wrappers.RescaleAction or ClipAction"
        )
    shape, dtype = space.shape, space.dtype
    parts = (Continuous(name="action", low=tuple(low), high=tuple(high)),)
    if np.issubdtype(dtype, np.integer):
        return parts, lambda action: np.rint(action).astype(dtype).reshape(shape)
    return parts, lambda action: action.astype(dtype).reshape(shape)


def _step_limit(env: Any, config: GymConfig, name: str) -> int:
    limit = getattr(env.spec, "max_episode_steps", None) or getattr(env.unwrapped, "_max_episode_steps", None)
    steps = config.max_steps or limit
    if not steps:
        raise ValueError(f"{name} has no step limit. Give max_steps, the steps of an episode")
    if limit is not None and config.max_steps is not None and config.max_steps > limit:
        raise ValueError(f"max_steps is {config.max_steps}, must be at most {limit}, the step limit of {name}")
    return int(steps)


def _control_rate(env: Any, config: GymConfig, name: str) -> float:
    rate = config.control_rate or env.metadata.get("render_fps")
    if not rate:
        raise ValueError(f"{name} does not say its rate (render_fps of its metadata). Give control_rate, in Hz")
    return float(rate)


def _picture_key(env: Any, name: str) -> str:
    """Return the key of the observation's picture, "" where the observation itself is one, or ``render``."""
    keys = pictures_in(env.observation_space)
    if len(preferred := [key for key in keys if key.split(".")[0] == "pixels"] or keys) > 1:
        raise ValueError(f"{name} has the pictures {', '.join(preferred)}. Name one as picture")
    if not preferred and env.render_mode != "rgb_array":
        raise ValueError(
            f"{name} has no picture: its observation holds none and its render_mode is {env.render_mode!r}. Use an "
            "environment that renders rgb_array, or other arguments of gymnasium.make (obs_type=pixels for some)"
        )
    return preferred[0] if preferred else _RENDER


@dataclass(frozen=True)
class _Facts:
    """What a suite must know of its environment, read from one that is open."""

    image_size: tuple[int, int]
    control_rate: float
    instruction: str


@dataclass(frozen=True, kw_only=True)
class GymSuite:
    """One Gymnasium environment. Satisfies :class:`rt1.envs.base.TaskSuite`."""

    name: ClassVar[str] = "gym"

    id: str
    """ID as for ``gymnasium.make``: ``NAMESPACE/NAME-vN``, or ``MODULE:NAME-vN``."""
    config: GymConfig = field(default_factory=GymConfig)
    """How it is made, shown and measured."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        return {"id": self.id, **to_json(self.config)}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The name at the end of the ID, the only task."""
        return (re.split("[/:]", self.id)[-1],)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self._facts.image_size

    @property
    def control_rate(self) -> float:
        """Steps per second, Hz."""
        return self._facts.control_rate

    @property
    def max_return(self) -> float | None:
        """Largest return, where returns are measured."""
        return self.config.max_return

    def open(self, task: str, *, render: bool = True) -> GymnasiumEnv:  # noqa: ARG002 (there is one)
        """Open the environment."""
        return GymnasiumEnv(make_gym_env(self.id, self.config.arguments), self.config, name=self.id, render=render)

    def sentences(self, task: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return the instruction, or nothing where only the environment knows it."""
        return (self.config.sentence,) if self.config.sentence else ()

    def expert(self, task: str) -> ScriptedExpert | None:  # noqa: ARG002
        """Return None."""
        return None

    def same_scene_task(self, task: str) -> str | None:  # noqa: ARG002
        """Return None."""
        return None

    @cached_property
    def _facts(self) -> _Facts:
        """Open the environment once, for one step."""
        with closing(self.open(self.tasks[0])) as env:
            image = env.reset(0).image
            if not env.instruction:
                raise ValueError(f"{self.id} has no task_description. Give the sentence of its task (--sentence)")
            spec = env.action_spec
            middle = np.where(spec.discrete_choices > 0, spec.low, (spec.low + spec.high) / 2)
            env.step(middle.astype(np.float32))
            if not env.says_success and self.config.success_return is self.config.max_return is None:
                raise ValueError(
                    f"{self.id} does not say success: info has neither {' nor '.join(SUCCESS_KEYS)}. Give "
                    "success_return, the return of a success, or max_return, to measure returns"
                )
            return _Facts((image.shape[0], image.shape[1]), env.control_rate, env.instruction)


def registered_ids() -> tuple[str, ...]:
    """Return the IDs that Gymnasium knows. Those of packages that register theirs on import are not among them."""
    return tuple(sorted(_gymnasium().registry))


def make_gym_env(env_id: str, arguments: Mapping[str, Any]) -> Any:
    """Return ``gymnasium.make(env_id, ...)`` that renders arrays. Imports the package of the ID's namespace.

    Raises:
        ModuleNotFoundError: Gymnasium, or the package of the ID, is not installed.
        ValueError: an unknown ID, or arguments that the environment refuses.
    """
    gym = _gymnasium()
    choose_gl_early(required=False)
    module, _, rest = env_id.rpartition(":")
    _import_package(module or (rest.partition("/")[0] if "/" in rest else ""), env_id, gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # environments of others warn about their own spaces and versions
        try:
            return _make(gym, rest, arguments)
        except gym.error.DependencyNotInstalled as error:
            raise ModuleNotFoundError(f"{env_id} needs another package: {first_line(error)}") from error
        except gym.error.Error as error:
            raise ValueError(f"{env_id} cannot be made: {first_line(error)}") from error
        except TypeError as error:
            raise ValueError(f"{env_id} refuses the arguments {dict(arguments)}: {first_line(error)}") from error


def _make(gym: Any, env_id: str, arguments: Mapping[str, Any]) -> Any:
    """Make an environment that checks nothing twice. Some know no ``render_mode``."""
    options = {"render_mode": "rgb_array", "disable_env_checker": True, **arguments}
    try:
        return gym.make(env_id, **options)
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        return gym.make(env_id, **{name: value for name, value in options.items() if name != "render_mode"})


def _gymnasium() -> Any:
    if importlib.util.find_spec("gymnasium") is None:
        raise ModuleNotFoundError("Gymnasium is not installed. Run: pip install 'rt1[gym]'")
    import gymnasium

    return gymnasium


def _import_package(package: str, env_id: str, registry: Mapping[str, Any]) -> None:
    """Import what registers an ID, unless it is registered."""
    if not package or env_id.rpartition(":")[2] in registry:
        return
    if importlib.util.find_spec(package.partition(".")[0]) is None:
        raise ModuleNotFoundError(
            f"{env_id} needs the package {package}, which is not installed. Run: pip install "
            f"{package.partition('.')[0].replace('_', '-')}"
        )
    importlib.import_module(package)
