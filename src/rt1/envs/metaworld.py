"""Meta-World (MuJoCo) as an environment: 50 tasks with instructions, rendered headless in software."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.common.json_config import check_between, to_json
from rt1.common.suggest import lookup, unknown_name
from rt1.envs.base import BaseEnv, Image, Observation, ScriptedExpert, StepResult
from rt1.envs.gl import choose_gl, choose_gl_early, open_renderer
from rt1.envs.metaworld_protocols import PROTOCOLS
from rt1.envs.metaworld_tasks import INSTRUCTIONS, SHARED_SCENES
from rt1.envs.mujoco_scene import Scene, copy_scene, restore_scene
from rt1.envs.protocol import EvaluationProtocol

NATIVE_RATE = 80.0
NATIVE_STEPS = 500
CAMERAS = ("corner2", "topview", "corner", "corner3", "corner4", "behindGripper", "gripperPOV")
_CORNER2_POSITION = (0.75, 0.075, 0.7)  # LeRobot's closer view of the table


@dataclass(frozen=True, kw_only=True)
class MetaWorldConfig:
    """How Meta-World is shown and driven."""

    image_size: int = 96
    """Height and width of the image, pixels."""
    supersample: int = 1
    """Render this many times larger in each direction and average: smooth edges, for small images."""
    crop: tuple[float, float, float] | None = None
    """Square part of the camera's picture that is shown: its top, its left and its side, as shares of the picture.
    Default: all of it."""
    control_rate: float = 20.0
    """Decisions per second, Hz. Each action is held for round(80 / control_rate) native steps."""
    camera: str = "corner2"
    """Camera name. corner2 is placed as LeRobot places it, upright."""
    fast_render: bool = True
    """Render without shadows, reflections and multisampling (13 times faster). Off gives Meta-World's own look."""

    max_steps: int | None = None
    """Steps of an episode. Default: 500 native steps, the most that Meta-World allows."""

    def __post_init__(self) -> None:
        if self.camera not in CAMERAS:
            raise ValueError(unknown_name("camera", self.camera, CAMERAS))
        check_between(self, 8, 2048, "image_size")
        check_between(self, 1, 4, "supersample")
        check_between(self, 1, NATIVE_RATE, "control_rate")
        check_crop(self.part)
        limit = NATIVE_STEPS // self.hold
        if self.max_steps is not None and not 1 <= self.max_steps <= limit:
            raise ValueError(
                f"max_steps is {self.max_steps}, must be in 1..{limit}, since Meta-World ends after {NATIVE_STEPS} "
                f"native steps of {NATIVE_RATE:g} Hz, {self.hold} per step here. Leave it out"
            )

    @property
    def part(self) -> tuple[float, float, float]:
        """The part of the camera's picture that is shown: top, left and side, as shares."""
        return self.crop or (0.0, 0.0, 1.0)

    @property
    def hold(self) -> int:
        """Native 80 Hz steps per decision."""
        return max(1, round(NATIVE_RATE / self.control_rate))


def action_spec(*, bins: int = 256) -> ActionSpec:
    """Meta-World's action: hand displacement (1 = 1 cm per native step) and gripper effort (1 = close)."""
    return ActionSpec(
        bins=bins,
        parts=(
            Continuous(name="hand", low=(-1.0,) * 3, high=(1.0,) * 3, labels=("hand_x", "hand_y", "hand_z")),
            Continuous(name="gripper", low=(-1.0,), high=(1.0,)),
        ),
    )


def check_crop(crop: Sequence[float]) -> None:
    """Raise ``ValueError`` unless three numbers are the top, the left and the side of a square part of a picture."""
    if len(crop) != 3 or not (min(crop) >= 0 and 0.1 <= crop[2] <= 1 - max(crop[:2])):
        raise ValueError(
            f"crop is {list(crop)}, must be the top, the left and the side of a square within 0..1, with a side of at "
            "least 0.1. Use 0.12 0.24 0.75"
        )


def check_task(task: str) -> str:
    """Return the task's name with its version suffix. An unknown one raises ``ValueError`` with a suggestion."""
    name = task.removesuffix("-v3")
    lookup("Meta-World task", name, INSTRUCTIONS)
    return f"{name}-v3"


@dataclass(kw_only=True)
class MetaWorldEnv(BaseEnv):
    """One Meta-World task. Satisfies :class:`rt1.envs.base.Env`.

    The goal marker (a coloured dot) is hidden in tasks that share their scene with another one, where it would
    tell the task apart without the instruction. Elsewhere it is part of the scene.
    """

    draws_later: ClassVar[bool] = True
    task: str
    """Task name, with or without ``-v3``."""
    config: MetaWorldConfig = field(default_factory=MetaWorldConfig)
    """Image and control settings."""
    render: bool = True
    """False gives black images and needs no GL library: physics and experts alone."""
    renderer_of: MetaWorldEnv | None = None
    """An environment of the same task whose renderer draws for this one, too. It must be closed last."""

    def __post_init__(self) -> None:
        self.task = check_task(self.task)
        self.instruction = INSTRUCTIONS[self.task.removesuffix("-v3")][0]
        self.action_spec = action_spec()
        self.control_rate = NATIVE_RATE / self.config.hold
        self.max_steps = self.config.max_steps or NATIVE_STEPS // self.config.hold
        choose_gl_early(required=self.render)
        self._sim, self._expert = _simulator_and_expert(self.task)
        if self.config.camera == "corner2":
            self._sim.model.camera("corner2").pos[:] = _CORNER2_POSITION
        if self.task.removesuffix("-v3") in SHARED_SCENES:
            self._sim.model.site_group[:] = 5  # a group that MuJoCo does not draw
        self._renderer: _Renderer | None = None
        if self.renderer_of is not None:
            self._renderer = self.renderer_of._renderer  # noqa: SLF001 (its own class)
        elif self.render:
            self._renderer = _Renderer(self._sim.model, self.config)
        self._picture_renderer: _Renderer | None = None
        self._rest = _model_state(self._sim.model)
        self._state: NDArray[np.float64] | None = None

    def start(self, seed: int) -> Observation:
        """Start an episode with the goal and object positions of ``seed``."""
        # A body moved by an earlier episode stays moved in the compiled model: put everything back, so that an
        # episode depends on its seed alone and not on what this process ran before.
        for name, value in self._rest.items():
            getattr(self._sim.model, name)[:] = value
        self._sim._freeze_rand_vec = False  # noqa: SLF001 (Meta-World has no public switch for seeded goals)
        self._sim.seeded_rand_vec = True
        self._sim.seed(seed)
        self._state, _ = self._sim.reset()
        return self._observe()

    def apply(self, action: FloatArray) -> StepResult:
        """Hold one action (4,) in [-1, 1] for one control period. Done at success."""
        success = False
        for _ in range(self.config.hold):
            self._state, _, _, truncated, info = self._sim.step(action)
            success = success or bool(info["success"])
            if success or truncated:
                break
        return StepResult(observation=self._observe(), success=success, done=success)

    def expert_action(self) -> FloatArray:
        """Return the scripted expert's action (4,) for the current state, clipped to [-1, 1]. For recording only."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experts write out-of-range efforts and say so each time
            action = self._expert.get_action(self._state)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def snapshot(self) -> Scene:
        """Return the scene for :meth:`picture`."""
        return copy_scene(self._sim.data)

    def picture(self, snapshot: Scene, size: int) -> Image:
        """Draw the camera's whole picture for people, uint8 RGB (size, size, 3)."""
        if self._picture_renderer is None or self._picture_renderer.size != size:
            self._close_pictures()
            config = replace(self.config, image_size=size, supersample=1, crop=None)
            self._picture_renderer = _Renderer(self._sim.model, config)
        return self._picture_renderer.image(snapshot)

    def _close_pictures(self) -> None:
        if self._picture_renderer is not None:
            self._picture_renderer.close()

    def close(self) -> None:
        """Free the renderers. Without this EGL prints tracebacks at exit."""
        self._close_pictures()
        if self._renderer is not None and self.renderer_of is None:
            self._renderer.close()
        self._sim.close()

    def _observe(self) -> Observation:
        if self._renderer is None:
            size = self.config.image_size
            return Observation(image=np.zeros((size, size, 3), dtype=np.uint8))
        return _UndrawnObservation(partial(self._renderer.image, copy_scene(self._sim.data)))


@dataclass(frozen=True, kw_only=True)
class MetaWorldSuite:
    """Meta-World's 50 tasks. Satisfies :class:`rt1.envs.base.TaskSuite`."""

    name: ClassVar[str] = "metaworld"
    tasks: ClassVar[tuple[str, ...]] = tuple(f"{task}-v3" for task in INSTRUCTIONS)
    protocols: ClassVar[Mapping[str, EvaluationProtocol]] = PROTOCOLS

    config: MetaWorldConfig = field(default_factory=MetaWorldConfig)
    """Image and control settings."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON. Defaults that are None are left out, as in earlier recordings."""
        return {name: value for name, value in to_json(self.config).items() if value is not None}

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W), pixels."""
        return self.config.image_size, self.config.image_size

    @property
    def control_rate(self) -> float:
        """Steps per second, Hz."""
        return NATIVE_RATE / self.config.hold

    @property
    def picture_backend(self) -> str:
        """The GL library that draws the images."""
        return choose_gl()

    def open(self, task: str, *, render: bool = True) -> MetaWorldEnv:
        """Open a task's environment.

        A second environment with a renderer, or one that was not closed, disturbs the GL context of the first.
        """
        return MetaWorldEnv(task=task, config=self.config, render=render)

    def open_batch(self, task: str, count: int, render: bool = True) -> list[MetaWorldEnv]:  # noqa: FBT001, FBT002
        """Open environments of a task that share one renderer. Close them in reverse order."""
        first = self.open(task, render=render)
        others = [
            MetaWorldEnv(task=task, config=self.config, render=render, renderer_of=first) for _ in range(1, count)
        ]
        return [first, *others]

    def sentences(self, task: str) -> tuple[str, ...]:
        """Return the task's instruction and its paraphrases."""
        return INSTRUCTIONS[check_task(task).removesuffix("-v3")]

    def expert(self, task: str) -> ScriptedExpert:
        """Return the task's scripted expert."""
        check_task(task)
        return MetaWorldEnv.expert_action

    def same_scene_task(self, task: str) -> str | None:
        """Return the other task of a shared scene, or None."""
        other = SHARED_SCENES.get(check_task(task).removesuffix("-v3"))
        return None if other is None else check_task(other)


class _UndrawnObservation(Observation):
    """An observation whose image is drawn when it is first read: drawing takes most of an episode's time.

    It must be read before the environment closes.
    """

    def __init__(self, draw: Callable[[], Image]) -> None:
        self.__dict__["_draw"] = draw  # the base is frozen

    @cached_property
    def image(self) -> Image:
        return self.__dict__.pop("_draw")()


class _Renderer:
    """A MuJoCo renderer with fast flags. Images upright."""

    def __init__(self, model: Any, config: MetaWorldConfig) -> None:
        import mujoco

        if config.fast_render:
            model.vis.quality.offsamples = 0
        self._config, self.size = config, config.image_size
        self._data = mujoco.MjData(model)
        size = _whole_size(config)
        # A renderer that does not open lacks these, and its own cleanup prints a traceback.
        kind = type("Renderer", (mujoco.Renderer,), {"_mjr_context": None, "_gl_context": None})
        self._renderer = open_renderer(lambda: kind(model, size, size))
        if config.fast_render:
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0

    def image(self, scene: Scene) -> Image:
        restore_scene(self._data, scene)
        self._renderer.update_scene(self._data, camera=self._config.camera)
        image = self._renderer.render()
        if self._config.camera == "corner2":  # Meta-World's corner2 hangs upside down
            image = image[::-1, ::-1]
        return _averaged(self._shown(image), self._config.supersample)

    def _shown(self, image: Image) -> Image:
        """Return the part of the camera's picture that is asked for."""
        whole, side = len(image), self._config.image_size * self._config.supersample
        top, left = (min(round(share * whole), whole - side) for share in self._config.part[:2])
        return image[top : top + side, left : left + side]

    def close(self) -> None:
        self._renderer.close()


def _whole_size(config: MetaWorldConfig) -> int:
    """Return the size of the whole picture in pixels, such that its part has the size that is asked for."""
    return round(config.image_size * config.supersample / config.part[2])


def _averaged(image: Image, factor: int) -> Image:
    """Return the mean of each ``factor`` x ``factor`` square of pixels, rounded."""
    if factor == 1:
        return np.ascontiguousarray(image)
    height, width, channels = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    return ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)


def _simulator_and_expert(task: str) -> tuple[Any, Any]:
    if importlib.util.find_spec("metaworld") is None:
        raise ModuleNotFoundError("Meta-World is not installed. Run: pip install 'rt1[metaworld]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium and Meta-World warn about their own float widths at import
        open_renderer(lambda: importlib.import_module("mujoco"))  # which loads the GL library
        from metaworld import policies
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        sim = ALL_V3_ENVIRONMENTS[task]()
    sim._set_task_called = True  # noqa: SLF001 (goals come from the seed instead of a stored task)
    # The expert must see the goal. Meta-World hides it unless a stored task says otherwise, and keeps the space.
    sim._partially_observable = False  # noqa: SLF001
    sim.__dict__.pop("sawyer_observation_space", None)
    words = task.removesuffix("-v3").split("-")
    name = "Sawyer" + "".join(word.capitalize() for word in words) + "V3Policy"
    # One expert's class is named after its older task name.
    name = {"SawyerPegInsertSideV3Policy": "SawyerPegInsertionSideV3Policy"}.get(name, name)
    return sim, getattr(policies, name)()


def _model_state(model: Any) -> dict[str, NDArray[np.float64]]:
    return {name: np.array(getattr(model, name)) for name in ("body_pos", "body_quat", "site_pos", "geom_pos")}
