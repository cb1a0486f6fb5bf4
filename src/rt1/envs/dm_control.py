"""DeepMind Control tasks from pixels, ``dm_control:DOMAIN-TASK``, measured by their return as V-D4RL does."""

from __future__ import annotations

import importlib.util
import warnings
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.common.border import reading
from rt1.common.json_config import check_between, to_json
from rt1.common.suggest import lookup
from rt1.envs.base import BaseEnv, Image, Observation, ScriptedExpert, StepResult
from rt1.envs.gl import choose_gl, choose_gl_early, open_renderer
from rt1.envs.mujoco_scene import Scene, copy_scene, restore_scene
from rt1.errors import DataError

NATIVE_STEPS = 1000
MAX_RETURN = 1000.0
"""Largest return of an episode: 1,000 native steps with a reward of at most 1."""


@dataclass(frozen=True, kw_only=True)
class DMControlConfig:
    """How DeepMind Control is shown and driven."""

    image_size: int = 84
    """Height and width of the image, pixels. V-D4RL has 84 and 64."""
    action_repeat: int = 2
    """Native steps per decision. V-D4RL has 2."""
    camera: str = ""
    """Camera name or number. Default: as V-D4RL, 2 for quadruped and 0 for all others."""
    experts: str = ""
    """Folder of experts, DOMAIN-TASK.safetensors, as examples/dm_control_expert.py writes them."""

    def __post_init__(self) -> None:
        check_between(self, 8, 2048, "image_size")
        check_between(self, 1, 100, "action_repeat")


def score(episode_return: float) -> float:
    """Return V-D4RL's score of a return: a tenth of it, at most 100."""
    return episode_return / 10


class DMControlEnv(BaseEnv):
    """One task of DeepMind Control's suite. Satisfies :class:`rt1.envs.base.Env`. It never reports success."""

    draws_later: ClassVar[bool] = True

    def __init__(self, task: str, config: DMControlConfig | None = None, *, render: bool = True) -> None:
        """Open a task by its name, ``DOMAIN-TASK``.

        Without ``render`` images are black and no GL library is needed.
        """
        self.task, self._config = task, config or DMControlConfig()
        self._domain, _, name = task.partition("-")
        choose_gl_early(required=render)
        suite = _dm_control_suite()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env = suite.load(self._domain, name)
        space = self._env.action_spec()
        low, high = (np.broadcast_to(bound, space.shape) for bound in (space.minimum, space.maximum))
        self.action_spec = ActionSpec(parts=(Continuous(name="action", low=tuple(low), high=tuple(high)),))
        self.instruction = instruction(task)
        self.control_rate = 1.0 / (self._env.control_timestep() * self._config.action_repeat)
        self.max_steps = -(-NATIVE_STEPS // self._config.action_repeat)
        self._draws = render
        self._drawn: Any = None  # a copy of the physics for pictures
        self._state: NDArray[np.float32] = np.zeros(0, dtype=np.float32)

    def start(self, seed: int) -> Observation:
        """Start an episode with the random state of ``seed``."""
        fresh = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
        self._env.task.random.set_state(fresh.get_state())
        self._see(self._env.reset())
        return self._observe()

    def apply(self, action: FloatArray) -> StepResult:
        """Hold one action for ``action_repeat`` native steps. The reward is their sum."""
        reward, timestep = 0.0, None
        for _ in range(self._config.action_repeat):
            timestep = self._env.step(action)
            reward += float(timestep.reward or 0.0)
            if timestep.last():
                break
        assert timestep is not None
        self._see(timestep)
        truncated = bool(timestep.last() and timestep.discount == 1.0)
        return StepResult(
            observation=self._observe(), success=False, done=timestep.last(), truncated=truncated, reward=reward
        )

    def state(self) -> FloatArray:
        """Return the suite's observation of positions and velocities as one vector, float32. For experts only."""
        return self._state

    def snapshot(self) -> Scene:
        """Return the scene for :meth:`picture`."""
        return copy_scene(self._env.physics.data.ptr)

    def picture(self, snapshot: Scene, size: int) -> Image:
        """Draw the camera's picture for people, uint8 RGB (size, size, 3)."""
        if self._drawn is None:
            self._drawn = self._env.physics.copy(share_model=True)
        restore_scene(self._drawn.data.ptr, snapshot)
        flags = {"shadow": False, "reflection": False}  # which take most of the time without a GPU
        return self._render(self._drawn, size, render_flag_overrides=flags)

    def close(self) -> None:
        """Free the simulator and its renderers."""
        if self._drawn is not None:
            self._drawn.free()
        self._env.close()

    def _see(self, timestep: Any) -> None:
        values = [np.ravel(value) for value in timestep.observation.values()]
        self._state = np.concatenate(values).astype(np.float32)

    def _observe(self) -> Observation:
        size = self._config.image_size
        if not self._draws:
            return Observation(image=np.zeros((size, size, 3), dtype=np.uint8))
        return Observation(image=self._render(self._env.physics, size))

    def _render(self, physics: Any, size: int, **options: Any) -> Image:
        camera = self._config.camera or ("2" if self._domain == "quadruped" else "0")
        number = int(camera) if camera.isdecimal() else camera
        draw = lambda: physics.render(height=size, width=size, camera_id=number, **options)  # noqa: E731
        return np.array(open_renderer(draw), dtype=np.uint8)


def instruction(task: str) -> str:
    """Return the sentence of a task.

    >>> instruction("walker-walk")
    'make the walker walk'
    """
    domain, _, name = task.partition("-")
    return f"make the {domain} {name}".replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class DMControlSuite:
    """One task of DeepMind Control, or all tasks of a domain. Satisfies :class:`rt1.envs.base.TaskSuite`."""

    name: ClassVar[str] = "dm_control"
    max_return: ClassVar[float] = MAX_RETURN

    task: str
    """``DOMAIN-TASK``, or ``DOMAIN`` for all its tasks, which share their actions."""
    config: DMControlConfig = field(default_factory=DMControlConfig)
    """Image and control settings."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        return {"task": self.task, **to_json(self.config)}

    @property
    def picture_backend(self) -> str:
        """The GL library that draws the images."""
        return choose_gl()

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The task, or the domain's tasks."""
        known = all_tasks()
        if inside := tuple(name for name in known if name.partition("-")[0] == self.task):
            return inside
        return (lookup("dm_control task", self.task, {name: name for name in known}),)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self.config.image_size, self.config.image_size

    @cached_property
    def control_rate(self) -> float:
        """Steps per second, Hz."""
        with closing(self.open(self.tasks[0], render=False)) as env:
            return env.control_rate

    def open(self, task: str, *, render: bool = True) -> DMControlEnv:
        """Open a task's environment."""
        return DMControlEnv(task, self.config, render=render)

    def sentences(self, task: str) -> tuple[str, ...]:
        """Return the task's instruction."""
        return (instruction(task),)

    def expert(self, task: str) -> ScriptedExpert | None:
        """Return the task's expert, if the folder ``experts`` has one.

        Raises:
            ValueError: the folder is not there.
        """
        if not self.config.experts:
            return None
        if not Path(self.config.experts).is_dir():
            raise ValueError(
                f"experts is {self.config.experts}, which is no folder. Give --experts FOLDER, or --experts '' for none"
            )
        path = Path(self.config.experts) / f"{task}.safetensors"
        return NetworkExpert(path) if path.is_file() else None

    def same_scene_task(self, task: str) -> str | None:  # noqa: ARG002
        """Return None."""
        return None


class NetworkExpert:
    """A network on the state: layers with ReLU between and tanh at the end, in numpy. It is pickled as its path."""

    def __init__(self, path: Path) -> None:
        """Read ``N.weight`` (out, in) and ``N.bias`` of the layers N = 0, 1, ... from a safetensors file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self._path = path
        with reading(path, cure="Write it again", also=(SafetensorError,)):
            tensors = load_file(path)
            count = len(tensors) // 2
            self._layers = [(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in range(count)]
            hidden = np.zeros(self._layers[0][0].shape[1:] if count else ())
            for weight, bias in self._layers:  # sizes that do not fit raise here
                hidden = weight @ hidden + bias
        if not count:
            raise DataError(f"{path} holds no layer, must hold at least one. Write it again")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path,)

    def __call__(self, env: DMControlEnv) -> FloatArray:
        """Return the action for the environment's state, float32 (A,), between its bounds."""
        hidden = env.state()
        if hidden.shape != self._layers[0][0].shape[1:]:
            raise DataError(
                f"{self._path} takes a state of {self._layers[0][0].shape[1]} numbers, {env.task} has {hidden.size}. "
                "Use the expert of this task"
            )
        for number, (weight, bias) in enumerate(self._layers):
            hidden = weight @ hidden + bias
            if number + 1 < len(self._layers):
                hidden = np.maximum(hidden, 0)
        spec = env.action_spec
        action = spec.low + (np.tanh(hidden) + 1) / 2 * (spec.high - spec.low)
        return np.clip(action, spec.low, spec.high).astype(np.float32)


def all_tasks() -> tuple[str, ...]:
    """Return the names of all tasks, ``DOMAIN-TASK``."""
    return tuple(f"{domain}-{task}" for domain, task in _dm_control_suite().ALL_TASKS)


def _dm_control_suite() -> Any:
    if importlib.util.find_spec("dm_control") is None:
        raise ModuleNotFoundError("DeepMind Control is not installed. Run: pip install 'rt1[dm_control]'")
    choose_gl_early(required=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return open_renderer(lambda: importlib.import_module("dm_control.suite"))
