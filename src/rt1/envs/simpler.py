"""SimplerEnv, RT-1's own benchmark: a policy for its evaluator, and its tasks as suites. See docs/simpler.md."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rt1.actions import ActionSpec, Discrete, FloatArray, rt1_action_spec
from rt1.common.json_config import check_above, from_json, to_json
from rt1.common.suggest import lookup
from rt1.envs.base import Image, Observation, ScriptedExpert, StepResult
from rt1.envs.simpler_actions import IMAGE_SIZE, PARTS, POLICY_SETUPS, NamedAction, resize_with_pad, to_simulator
from rt1.envs.simpler_tasks import SUITES, TASKS
from rt1.errors import RenderingError

_FAST_SHADER = {"camera_shader_dir": "ibl", "viewer_shader_dir": "ibl"}
_OPEN_RENDERER = """
import sapien.core as sapien
engine, renderer = sapien.Engine(), sapien.SapienRenderer(offscreen_only=True)
engine.set_renderer(renderer)
engine.create_scene().add_camera("camera", 8, 8, 1.0, 0.1, 1.0)
"""


class NamedActionPolicy(Protocol):
    """What :class:`SimplerPolicy` asks of a policy. :class:`rt1.Policy` and exported policies have it."""

    action_spec: ActionSpec
    """The actions of ``act``."""

    def reset(self, instruction: str) -> None:
        """Start an episode with a sentence."""
        ...

    def act(self, image: Image) -> NamedAction:
        """Return the action by part name for a new image, uint8 RGB (256, 320, 3)."""
        ...


class SimplerPolicy:
    """A policy with the interface of SimplerEnv's ``RT1Inference``, for its evaluator and scripts."""

    def __init__(
        self,
        policy: NamedActionPolicy,
        policy_setup: str = "google_robot",
        *,
        action_scale: float = 1.0,
        image_width: int = IMAGE_SIZE[1],
        image_height: int = IMAGE_SIZE[0],
    ) -> None:
        """Wrap a policy.

        Args:
            policy: acts in the parts of RT-1's own action.
            policy_setup: ``google_robot`` or ``widowx_bridge``: what the numbers of its actions mean.
            action_scale: factor of position and rotation.
            image_width: of the image that the policy gets, pixels.
            image_height: likewise.

        Raises:
            ValueError: an unknown setup, or a policy with other actions.
        """
        self.setup = lookup("policy setup", policy_setup, POLICY_SETUPS)
        _check_parts(policy.action_spec)
        self.policy = policy
        self.action_scale = action_scale
        self.image_size = (image_height, image_width)
        self.task_description: str | None = None

    def reset(self, task_description: str) -> None:
        """Start an episode with an instruction."""
        self.policy.reset(task_description)
        self.task_description = task_description

    def step(self, image: Image, task_description: str | None = None) -> tuple[NamedAction, NamedAction]:
        """Act on an image. A changed instruction starts a new episode first.

        Args:
            image: uint8 RGB (H, W, 3), any size.
            task_description: the instruction. None leaves it as it is.

        Returns:
            The policy's action and the simulator's, as :func:`rt1.envs.simpler_actions.to_simulator` returns them.

        Raises:
            ObservationError: an image of another dtype or shape.
        """
        prepared = resize_with_pad(image, self.image_size)
        if task_description is not None and task_description != self.task_description:
            self.reset(task_description)
        return to_simulator(self.policy.act(prepared), self.setup, self.action_scale)

    def visualize_epoch(
        self, predicted_raw_actions: Sequence[NamedAction], images: Sequence[Image], save_path: str | Path
    ) -> None:
        """Save a figure of an episode: every third image, and the policy's actions over time.

        Args:
            predicted_raw_actions: first results of :meth:`step`.
            images: uint8 RGB (H, W, 3).
            save_path: the file, in a format of matplotlib.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        if importlib.util.find_spec("matplotlib") is None:
            raise ModuleNotFoundError("figures need matplotlib, which is not installed. Run: pip install 'rt1[report]'")
        from matplotlib.figure import Figure

        names = [f"{part}_{i}" for part, size in PARTS.items() for i in range(size)]
        values_SD = np.array([np.concatenate([action[part] for part in PARTS]) for action in predicted_raw_actions])
        figure = Figure(figsize=(45, 10))
        layout: list[Any] = [["image"] * len(names), names]
        axes = figure.subplot_mosaic(layout)
        for name, values_S in zip(names, values_SD.T, strict=True):
            axes[name].plot(values_S)
            axes[name].set(title=name, xlabel="step")
        axes["image"].imshow(np.concatenate([resize_with_pad(image, self.image_size) for image in images[::3]], axis=1))
        axes["image"].set_xlabel("every third image of the episode")
        figure.savefig(save_path)


@dataclass(frozen=True, kw_only=True)
class SimplerConfig:
    """How SimplerEnv is driven."""

    action_scale: float = 1.0
    """Factor of position and rotation."""
    ray_tracing: bool = True
    """Render drawers as published, by ray tracing, which takes minutes on a CPU. False renders all tasks alike."""

    def __post_init__(self) -> None:
        check_above(self, 0, "action_scale")


@dataclass(kw_only=True)
class SimplerEnv:
    """A task of SimplerEnv in its visual matching setting. Satisfies :class:`rt1.envs.base.Env`.

    As in SimplerEnv's evaluator an episode ends when the policy terminates the last subtask or at the step limit, and
    success is what holds in its last step. The simulator is opened by the first ``reset``.
    """

    task: str
    """SimplerEnv's name of the task."""
    config: SimplerConfig = field(default_factory=SimplerConfig)
    """Control settings."""
    render: bool = True
    """False gives black images."""

    def __post_init__(self) -> None:
        task = lookup("SimplerEnv task", self.task, TASKS)
        if importlib.util.find_spec("simpler_env") is None:
            raise ModuleNotFoundError("SimplerEnv is not installed. Install it as docs/simpler.md says")
        self.setup = POLICY_SETUPS[task.policy_setup]
        self.instruction = task.instruction
        self.max_steps = task.max_steps
        self.control_rate = self.setup.control_rate
        self.action_spec = rt1_action_spec(world_bound=2.0)  # RT-1-X's bounds, which hold RT-1's
        self._sim: Any = None
        self._steps: int | None = None

    def reset(self, seed: int) -> Observation:
        """Start an episode with the robot and objects of ``seed`` (any int >= 0)."""
        if seed < 0:
            raise ValueError(f"seed is {seed}, must be 0 or more")
        if self._sim is None:
            self._sim = _open_simulator(self.task, self.config, render=self.render)
        # A scene that is used again keeps traces of the episode before.
        observation, _ = self._sim.reset(seed=seed, options={"reconfigure": True})
        self._steps = 0
        return self._observe(observation)

    def step(self, action: FloatArray) -> StepResult:
        """Apply one action (11,) of RT-1 for one control period."""
        if self._steps is None:
            raise RuntimeError("step() was called before reset(). Call reset(seed) first")
        if self.action_spec.out_of_bounds(action).any():
            raise ValueError(f"action {np.asarray(action).tolist()} lies outside its bounds. Clip it first")
        _, command = to_simulator(
            self.action_spec.to_dict(np.asarray(action, dtype=np.float32)), self.setup, self.config.action_scale
        )
        is_terminated = bool(command["terminate_episode"][0] > 0)
        if is_terminated and not self._sim.unwrapped.is_final_subtask():
            self._sim.unwrapped.advance_to_next_subtask()
            is_terminated = False
        observation, _, is_solved, is_truncated, _ = self._sim.step(
            np.concatenate([command[part] for part in ("world_vector", "rot_axangle", "gripper")])
        )
        self._steps += 1
        done = bool(is_terminated or is_truncated or self._steps >= self.max_steps)
        return StepResult(observation=self._observe(observation), success=bool(is_solved) and done, done=done)

    def close(self) -> None:
        """Free the simulator."""
        if self._sim is not None:
            self._sim.close()
            self._sim = None

    def _observe(self, observation: Any) -> Observation:
        self.instruction = self._sim.unwrapped.get_language_instruction()
        if not self.render:
            return Observation(image=np.zeros((*IMAGE_SIZE, 3), dtype=np.uint8))
        return Observation(image=resize_with_pad(observation["image"][self.setup.camera]["rgb"]))


@dataclass(frozen=True, kw_only=True)
class SimplerSuite:
    """SimplerEnv's tasks of one robot. Satisfies :class:`rt1.envs.base.TaskSuite`."""

    name: str = "simpler"
    """``simpler`` for the Google robot, ``simpler_widowx`` for the WidowX robot of Bridge."""
    config: SimplerConfig = field(default_factory=SimplerConfig)
    """Control settings."""

    @property
    def policy_setup(self) -> str:
        """SimplerEnv's name of the robot and of what the actions mean."""
        return lookup("suite of SimplerEnv", self.name, SUITES)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        settings: dict[str, Any] = to_json(self.config)
        return settings

    @property
    def tasks(self) -> tuple[str, ...]:
        """SimplerEnv's names of the tasks."""
        return tuple(name for name, task in TASKS.items() if task.policy_setup == self.policy_setup)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return IMAGE_SIZE

    @property
    def control_rate(self) -> float:
        """Steps per second, Hz."""
        return POLICY_SETUPS[self.policy_setup].control_rate

    def open(self, task: str, *, render: bool = True) -> SimplerEnv:
        """Open a task's environment."""
        return SimplerEnv(task=task, config=self.config, render=render)

    def sentences(self, task: str) -> tuple[str, ...]:
        """Return the task's instruction. Nothing where it depends on the initial state."""
        instruction = lookup("SimplerEnv task", task, TASKS).instruction
        return (instruction,) if instruction else ()

    def expert(self, task: str) -> ScriptedExpert | None:  # noqa: ARG002
        """Return None: SimplerEnv has no experts."""
        return None

    def same_scene_task(self, task: str) -> str | None:  # noqa: ARG002
        """Return None: instructions name objects that the other tasks' scenes lack."""
        return None


def make_suite(settings: Mapping[str, Any], name: str = "simpler") -> SimplerSuite:
    """Return the suite of one robot with settings as :attr:`SimplerSuite.settings` returns them."""
    return SimplerSuite(name=name, config=from_json(SimplerConfig, settings))


def _check_parts(spec: ActionSpec) -> None:
    sizes = {part.name: part.choices if isinstance(part, Discrete) else part.size for part in spec.parts}
    if missing := [name for name, size in PARTS.items() if sizes.get(name) != size]:
        raise ValueError(
            f"the policy acts in {', '.join(f'{name} ({size},)' for name, size in sizes.items())}, must have "
            f"{', '.join(f'{name} ({PARTS[name]},)' for name in missing)}. Use one trained on RT-1's actions"
        )


def _open_simulator(task: str, config: SimplerConfig, *, render: bool) -> Any:
    if reason := _rendering_error():
        raise RenderingError(
            f"SAPIEN cannot render with Vulkan here ({reason}). Install Mesa 25 or newer and the layer as "
            "docs/simpler.md says"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own libraries, and that an option replaces a default
        import simpler_env

        # Each option every time: simpler_env.make keeps those of the last call.
        return simpler_env.make(
            task, obs_mode="rgbd" if render else "none", render_config={} if config.ray_tracing else _FAST_SHADER
        )


@cache
def _rendering_error() -> str:
    """Return why SAPIEN cannot render, empty if it can. Without a Vulkan device it crashes: another process tries."""
    trial = subprocess.run(  # noqa: S603 (this Python, and a constant)
        [sys.executable, "-c", _OPEN_RENDERER], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if trial.returncode == 0:
        return ""
    return (trial.stderr.strip() or f"exit status {trial.returncode}").splitlines()[-1].rpartition("] ")[2][:120]
