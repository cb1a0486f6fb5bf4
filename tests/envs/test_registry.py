"""Task suites by name, stored with recordings and checkpoints and read back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from rt1.common.json_config import to_json
from rt1.envs import registry
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.registry import (
    EnvSettings,
    demo_suite,
    register_suite,
    suite_from_json,
    suite_of,
    suite_to_json,
    tasks_of,
)

CONFIG = MetaWorldConfig(image_size=24, control_rate=10.0)
SUITE = MetaWorldSuite(config=CONFIG)


def test_an_unknown_environment_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"'meta-world'.*'metaworld'"):
        EnvSettings(env="meta-world")


def test_the_settings_of_the_command_line_make_a_suite() -> None:
    assert EnvSettings(image_size=(24,), control_rate=10.0).suite() == SUITE


def test_a_stored_suite_is_made_again() -> None:
    settings = {name: value for name, value in to_json(CONFIG).items() if value is not None}
    assert suite_to_json(SUITE) == {"suite": "metaworld", "settings": settings}
    assert suite_from_json(suite_to_json(SUITE)) == SUITE


def test_what_earlier_versions_stored_is_read() -> None:
    assert suite_from_json({"env": "metaworld", "metaworld": to_json(CONFIG)}) == SUITE


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"suite": "gazebo", "settings": {}}, "'gazebo'.*metaworld"),
        ({"suite": "metaworld", "settings": {"camra": "corner"}}, "'camra'.*'camera'"),
        ({"suite": "metaworld", "settings": 3}, "settings is 3"),
        ({"suite": ["metaworld"]}, "suite is "),
        ({"suite": "metaworld", "config": {}}, "'config'.*settings"),
    ],
)
def test_a_description_that_fits_no_suite_is_refused(stored: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suite_from_json(stored)


def test_a_name_given_wins_over_what_a_checkpoint_says() -> None:
    provenance = {"env": suite_to_json(SUITE)}
    assert suite_of(provenance) == suite_of(provenance, "metaworld") == SUITE
    with pytest.raises(ValueError, match="'gazebo'"):
        suite_of(provenance, "gazebo")


def test_a_suite_of_your_own_is_found_once_it_is_registered(
    make_suite: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_SUITES", dict(registry._SUITES))
    register_suite("points", lambda settings: make_suite(**settings))
    assert suite_from_json(suite_to_json(make_suite(max_steps=7))) == make_suite(max_steps=7)
    assert suite_of({"env": suite_to_json(SUITE)}, "points") == make_suite()


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's own, importable from the current folder, and the registry as it was before."""
    monkeypatch.setattr(registry, "_SUITES", dict(registry._SUITES))
    monkeypatch.setattr(registry, "_FACTORIES", {})
    (tmp_path / "own_lamp_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.delitem(sys.modules, "own_lamp_module", raising=False)
    return "own_lamp_module"


MODULE = """
from rt1.actions import ActionSpec, Continuous
from rt1.envs.base import Observation, SingleTask, StepResult
import numpy as np

class Lamp(SingleTask):
    name, instruction, image_size, control_rate, max_steps = "lamp", "switch it on", (8, 8), 5.0, 3
    action_spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0,), high=(1.0,)),))

    def start(self, seed):
        return Observation(image=np.full((8, 8, 3), seed % 256, np.uint8))

    def apply(self, action):
        return StepResult(observation=self.start(0), success=False, done=False)
"""

OPENER = """
from rt1.envs.base import BaseEnv

class Bright_Lamp(BaseEnv):
    instruction, control_rate, max_steps, action_spec = "switch it on", 5.0, 3, Lamp.action_spec
    start, apply = Lamp.start, Lamp.apply
"""


def test_a_factory_is_imported_on_the_users_word_and_not_on_a_files(own_module: str) -> None:
    stored = {"suite": "lamp", "settings": {}, "factory": f"{own_module}:Lamp"}
    with pytest.raises(ValueError, match=f"'{own_module}:Lamp'.*file's word.*--env {own_module}:Lamp"):
        suite_of({"env": stored})
    assert own_module not in sys.modules
    suite = suite_of({"env": stored}, f"{own_module}:Lamp")
    assert suite.sentences("lamp") == ("switch it on",)
    assert suite_to_json(suite) == stored
    assert suite_of({"env": stored}).name == "lamp"  # from now on


def test_a_factory_that_opens_an_environment_becomes_a_suite_of_one_task(own_module: str, tmp_path: Path) -> None:
    with (tmp_path / f"{own_module}.py").open("a") as file:
        file.write(OPENER)
    suite = EnvSettings(env=f"{own_module}:Bright_Lamp").suite()
    assert (suite.name, tuple(suite.tasks)) == ("bright_lamp", ("bright_lamp",))
    assert (suite.image_size, suite.control_rate) == ((8, 8), 5.0)
    assert suite.sentences("bright_lamp") == ("switch it on",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_lamp_module:Lmap", "'Lmap'.*'Lamp'"),
        ("own_lamp_module:np", "cannot be called"),
        ("own_lamp_module:__name__", "cannot be called"),
        ("os:getcwd", "os:getcwd is str, must be"),
        ("no_such_package.sim:make", "no_such_package, which is neither installed .*pip install no-such-package"),
        ("gym:", "must be gym:ID"),
        ("dm_control", "must be dm_control:DOMAIN-TASK"),
        ("metaworld:reach", "--env metaworld --tasks reach"),
        ("my_sims/lamp.py:Lamp", "names a file.*--env my_sims.lamp:Lamp"),
    ],
)
def test_a_name_that_cannot_be_used_is_one_line(own_module: str, name: str, message: str) -> None:
    assert own_module
    with pytest.raises((ValueError, ImportError), match=message) as refusal:
        EnvSettings(env=name).suite()
    assert "\n" not in str(refusal.value)


def test_options_are_added_to_a_stored_suite_and_those_it_lacks_are_refused() -> None:
    provenance = {"env": suite_to_json(SUITE)}
    larger = EnvSettings(image_size=(48,)).suite_of(provenance)
    assert larger == MetaWorldSuite(config=MetaWorldConfig(image_size=48, control_rate=10.0))
    with pytest.raises(ValueError, match="'action_repeat'"):
        EnvSettings(action_repeat=3).suite_of(provenance)
    with pytest.raises(ValueError, match=r"image_size is \[1, 2, 3\]"):
        EnvSettings(image_size=(1, 2, 3))


def test_data_that_name_no_environment_say_so() -> None:
    with pytest.raises(ValueError, match=r"runs/a names no environment.*--env"):
        EnvSettings().suite_of({"tasks": ["push"]}, "runs/a")


def test_an_id_keeps_the_settings_that_were_stored_for_it() -> None:
    stored = {"suite": "gym", "settings": {"id": "Pendulum-v1", "sentence": "swing up", "max_return": 1.0}}
    suite = suite_of({"env": stored}, "gym:Pendulum-v1")
    assert suite.settings["sentence"] == "swing up"
    assert EnvSettings(env="gym:CartPole-v1").suite_of({"env": stored}).settings["sentence"] == ""


def test_a_file_describes_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "walker.toml"
    path.write_text('suite = "dm_control"\n[settings]\ntask = "walker-walk"\nimage_size = 64\n')
    assert suite_of({}, str(path)).image_size == (64, 64)


def test_a_package_offers_suites_by_an_entry_point(own_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="lamp", value=f"{own_module}:Lamp", group=registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    assert "lamp" in registry.known_suites()
    assert suite_from_json({"suite": "lamp"}).control_rate == 5.0
    assert suite_of({}, "lamp").sentences("lamp") == ("switch it on",)


def test_the_tasks_are_those_of_the_training_or_the_only_one() -> None:
    assert tasks_of(SUITE, {"tasks": ["push"]}) == ("push",)
    assert tasks_of(SUITE, {}) == ()
    assert tasks_of(suite_from_json({"suite": "gym", "settings": {"id": "CartPole-v1"}}), {"tasks": ["x"]}) == (
        "CartPole-v1",
    )


def test_the_demo_has_small_images() -> None:
    assert demo_suite(32).image_size == (32, 32)
