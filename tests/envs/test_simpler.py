"""SimplerEnv's interface for policies, and its tasks as environments over a fake simulator."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, rt1_action_spec
from rt1.common.json_files import read_object
from rt1.envs import simpler
from rt1.envs.base import Image, TaskSuite, check_tasks
from rt1.envs.registry import suite_from_json, suite_to_json
from rt1.envs.simpler import SimplerEnv, SimplerPolicy, SimplerSuite, make_suite
from rt1.envs.simpler_tasks import TASKS
from rt1.errors import ObservationError, RenderingError
from rt1.testing import check_env

REAL_RENDERING_ERROR = simpler._rendering_error
IMAGE = np.full((480, 640, 3), 9, dtype=np.uint8)


class FixedPolicy:
    """Returns its actions in turn and keeps the instructions and image shapes it got."""

    def __init__(self, spec: ActionSpec | None = None) -> None:
        self.action_spec = spec or rt1_action_spec()
        self.instructions: list[str] = []
        self.shapes: list[tuple[int, ...]] = []

    def reset(self, instruction: str) -> None:
        self.instructions.append(instruction)

    def act(self, image: Image) -> dict[str, Any]:
        self.shapes.append(image.shape)
        return self.action_spec.to_dict(np.array([1, 0.5, 0.25, -1, 0, 0, 0.5, 0.005, 0, 0, 0], dtype=np.float32))


def test_a_changed_description_starts_an_episode() -> None:
    policy = FixedPolicy()
    wrapper = SimplerPolicy(policy)
    wrapper.reset("pick coke can")
    wrapper.step(IMAGE)
    wrapper.step(IMAGE, "pick coke can")
    wrapper.step(IMAGE, "open top drawer")
    assert policy.instructions == ["pick coke can", "open top drawer"]
    assert policy.shapes == [(256, 320, 3)] * 3


def test_the_setup_decides_what_the_numbers_mean() -> None:
    google = SimplerPolicy(FixedPolicy(), "google_robot", action_scale=2.0)
    raw, action = google.step(IMAGE, "pick coke can")
    assert raw["gripper_closedness_action"] == action["gripper"] == 0.0  # too small
    assert action["world_vector"].tolist() == [1.0, 0.5, -2.0]
    assert action["terminate_episode"].tolist() == [0, 1, 0]
    raw, action = SimplerPolicy(FixedPolicy(), "widowx_bridge").step(IMAGE, "put carrot on plate")
    assert raw["world_vector"] == pytest.approx([0.5 / 35, 0.25 / 35, -1 / 35], abs=1e-7)
    assert action["gripper"] == -1.0


def test_an_unknown_setup_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"'widowx_brigde'.*'widowx_bridge'"):
        SimplerPolicy(FixedPolicy(), "widowx_brigde")


def test_a_policy_with_other_actions_is_refused() -> None:
    spec = ActionSpec(parts=(Continuous(name="world_vector", low=(-1.0,), high=(1.0,)),))
    with pytest.raises(ValueError, match=r"world_vector \(1,\).*terminate_episode \(3,\)"):
        SimplerPolicy(FixedPolicy(spec))


def test_a_refused_image_leaves_the_episode_as_it_is() -> None:
    policy = FixedPolicy()
    with pytest.raises(ObservationError, match=r"float64.*uint8"):
        SimplerPolicy(policy).step(cast("Any", IMAGE / 255), "pick coke can")
    assert policy.instructions == []


@pytest.mark.slow
def test_an_episode_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install 'rt1[report]'")
    wrapper = SimplerPolicy(FixedPolicy(), image_width=32, image_height=24)
    raw_actions = [wrapper.step(IMAGE, "pick coke can")[0] for _ in range(4)]
    wrapper.visualize_epoch(raw_actions, [IMAGE] * 5, tmp_path / "episode.png")
    assert (tmp_path / "episode.png").read_bytes().startswith(b"\x89PNG")


class FakeSimulator:
    """A simulator as SimplerEnv opens it: two subtasks, solved in its third step and later."""

    max_steps = 5

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.unwrapped = self
        self.commands: list[Any] = []
        self.closed = False

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        assert options == {"reconfigure": True}
        self.seed, self.subtask, self.commands = seed, 0, []
        return self._observation(), {}

    def step(self, command: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.commands.append(command)
        steps = len(self.commands)
        return self._observation(), 0.0, steps >= 3, steps >= self.max_steps, {}

    def is_final_subtask(self) -> bool:
        return self.subtask == 1

    def advance_to_next_subtask(self) -> None:
        self.subtask += 1

    def get_language_instruction(self) -> str:
        return ("open top drawer", "place apple into top drawer")[self.subtask]

    def close(self) -> None:
        self.closed = True

    def _observation(self) -> Any:
        image = np.full((512, 640, 3), (self.seed * 7 + len(self.commands)) % 256, dtype=np.uint8)
        return {"image": {"overhead_camera": {"rgb": image}}}


@pytest.fixture
def simulators(monkeypatch: pytest.MonkeyPatch) -> list[FakeSimulator]:
    """Fake the package ``simpler_env``; return the simulators that it opens."""
    opened: list[FakeSimulator] = []
    package = ModuleType("simpler_env")
    package.__spec__ = importlib.util.spec_from_loader("simpler_env", loader=None)

    def make(task: str, **options: Any) -> FakeSimulator:
        assert task in TASKS
        opened.append(FakeSimulator(options))
        return opened[-1]

    monkeypatch.setattr(package, "make", make, raising=False)
    monkeypatch.setitem(sys.modules, "simpler_env", package)
    monkeypatch.setattr(simpler, "_rendering_error", lambda: "")
    return opened


def _action(env: SimplerEnv, terminate: int = 1) -> Any:
    action = np.zeros(env.action_spec.size, dtype=np.float32)
    action[:2] = terminate, 0.5
    return action


@pytest.mark.usefixtures("simulators")
def test_a_task_is_an_environment() -> None:
    check_env(lambda: SimplerSuite().open("google_robot_open_top_drawer"))
    assert suite_from_json(suite_to_json(SimplerSuite())) == SimplerSuite()


def test_the_instruction_comes_from_the_simulator_and_changes_with_the_subtask(simulators: list[FakeSimulator]) -> None:
    env = SimplerEnv(task="google_robot_place_apple_in_closed_top_drawer")
    assert env.instruction == ""
    env.reset(3)
    assert env.instruction == "open top drawer"
    assert not env.step(_action(env, terminate=0)).done
    assert env.instruction == "place apple into top drawer"
    result = env.step(_action(env, terminate=0))
    assert (result.success, result.done) == (False, True)  # the policy ends before the goal is reached
    assert simulators[0].commands[0].tolist() == [0.5, 0, 0, 0, 0, 0, 0]


@pytest.mark.usefixtures("simulators")
def test_success_is_what_holds_in_the_last_step() -> None:
    env = SimplerEnv(task="google_robot_pick_coke_can")
    env.reset(0)
    results = [env.step(_action(env)) for _ in range(5)]
    assert [result.success for result in results] == [False, False, False, False, True]
    assert results[-1].done


def test_nothing_is_drawn_where_nobody_looks(simulators: list[FakeSimulator]) -> None:
    env = SimplerSuite().open("google_robot_pick_coke_can", render=False)
    assert simulators == []  # the action spec alone needs no simulator
    assert not env.reset(1).image.any()
    assert simulators[0].options == {"obs_mode": "none", "render_config": {}}
    env.close()
    assert simulators[0].closed


def test_drawers_are_rendered_without_ray_tracing_on_request(simulators: list[FakeSimulator]) -> None:
    make_suite({"ray_tracing": False}).open("google_robot_open_drawer").reset(0)
    assert simulators[0].options["obs_mode"] == "rgbd"
    assert simulators[0].options["render_config"]["camera_shader_dir"] == "ibl"


@pytest.mark.usefixtures("simulators")
def test_wrong_calls_are_refused() -> None:
    env = SimplerEnv(task="google_robot_pick_coke_can")
    with pytest.raises(RuntimeError, match="reset"):
        env.step(_action(env))
    with pytest.raises(ValueError, match=r"seed is -1"):
        env.reset(-1)
    env.reset(0)
    with pytest.raises(ValueError, match="bounds"):
        env.step(_action(env) + 9)


@pytest.mark.parametrize(("name", "rate", "tasks"), [("simpler", 3.0, 21), ("simpler_widowx", 5.0, 4)])
def test_each_robot_is_a_suite(name: str, rate: float, tasks: int) -> None:
    suite = suite_from_json({"suite": name, "settings": {"action_scale": 0.5}})
    assert isinstance(suite, TaskSuite)
    assert suite_to_json(suite) == {"suite": name, "settings": {"action_scale": 0.5, "ray_tracing": True}}
    assert (suite.control_rate, suite.image_size, len(suite.tasks)) == (rate, (256, 320), tasks)
    assert suite.expert(suite.tasks[0]) is None
    assert suite.same_scene_task(suite.tasks[0]) is None


def test_a_sentence_is_given_where_it_is_known_before_reset() -> None:
    assert SimplerSuite().sentences("google_robot_open_top_drawer") == ("open top drawer",)
    assert SimplerSuite().sentences("google_robot_move_near") == ()


def test_unknown_tasks_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'google_robot_pick_coke'.*'google_robot_pick_coke_can'"):
        check_tasks(SimplerSuite(), ["google_robot_pick_coke"])
    with pytest.raises(ValueError, match=r"action_scale.*0"):
        make_suite({"action_scale": 0.0})
    with pytest.raises(ValueError, match="'camera'"):
        make_suite({"camera": "overhead_camera"})


def test_a_missing_package_is_named_with_the_page_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simpler_env", None)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    with pytest.raises(ModuleNotFoundError, match=r"SimplerEnv.*docs/simpler\.md"):
        SimplerSuite().open("google_robot_pick_coke_can")


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (1, "Traceback\nRuntimeError: createDeviceUnique: ErrorExtensionNotPresent\n", "ErrorExtensionNotPresent"),
        (1, "ImportError: libvulkan.so.1: cannot open shared object file", "libvulkan"),
        (-11, "[time] [svulkan2] [error] Vulkan is incompatible with your driver.", r"\(Vulkan is incompatible"),
        (-11, "", "-11"),
    ],
)
def test_a_missing_vulkan_device_is_one_line(
    status: int, error: str, reason: str, make_process: Callable[..., None]
) -> None:
    make_process(status, error)
    env = SimplerEnv(task="google_robot_pick_coke_can")
    with pytest.raises(RenderingError, match=rf"{reason}.*docs/simpler\.md") as raised:
        env.reset(0)
    assert "\n" not in str(raised.value)


@pytest.fixture
def make_process(simulators: list[FakeSimulator], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:  # noqa: ARG001
    """Return a function that sets how the process ends that tries SAPIEN's renderer."""

    def make(status: int, error: str) -> None:
        result = SimpleNamespace(returncode=status, stderr=error)
        monkeypatch.setattr(subprocess, "run", lambda *args, **options: result)  # noqa: ARG005
        monkeypatch.setattr(simpler, "_rendering_error", REAL_RENDERING_ERROR.__wrapped__)

    return make


def test_the_vulkan_layer_is_built_and_named_as_its_page_says() -> None:
    root = Path(__file__).parents[2]
    folder, page = root / "tools" / "simpler_vulkan_layer", (root / "docs" / "simpler.md").read_text(encoding="utf-8")
    (manifest,) = folder.glob("*.json")
    layer = read_object(manifest)["layer"]
    assert f"VK_INSTANCE_LAYERS={layer['name']}" in page
    assert "make -C tools/simpler_vulkan_layer" in page
    assert f"{layer['library_path'].removeprefix('./')}: layer.c" in (folder / "Makefile").read_text(encoding="utf-8")
    assert all(extension["name"] in page for extension in layer["device_extensions"])
