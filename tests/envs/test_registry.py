"""Task suites by name, stored with recordings and checkpoints and read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rt1.common.json_config import to_json
from rt1.envs import registry
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.registry import EnvSettings, demo_suite, register_suite, suite_from_json, suite_of, suite_to_json

CONFIG = MetaWorldConfig(image_size=24, control_rate=10.0)
SUITE = MetaWorldSuite(config=CONFIG)


def test_an_unknown_environment_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"'meta-world'.*'metaworld'"):
        EnvSettings(env="meta-world")


def test_the_settings_of_the_command_line_make_a_suite() -> None:
    assert EnvSettings(image_size=(24,), control_rate=10.0).suite() == SUITE


def test_a_stored_suite_is_made_again() -> None:
    assert suite_to_json(SUITE) == {"suite": "metaworld", "settings": to_json(CONFIG)}
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


def test_the_demo_has_small_images() -> None:
    assert demo_suite(32).image_size == (32, 32)
