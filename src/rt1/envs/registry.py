"""Task suites by name, as commands, recordings and checkpoints give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rt1.common.json_config import from_json, to_json
from rt1.common.suggest import lookup
from rt1.envs.base import TaskSuite
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.simpler import make_suite

DEFAULT_SUITE = "metaworld"
DEMO_TASKS = ("faucet-open", "faucet-close", "window-open", "button-press-topdown", "door-unlock")
"""Tasks that need looking: faucet-open and faucet-close share a scene, open-loop replay solves few of the others."""

MakeSuite = Callable[[Mapping[str, Any]], TaskSuite]
_SUITES: dict[str, MakeSuite] = {
    "metaworld": lambda settings: MetaWorldSuite(config=from_json(MetaWorldConfig, settings)),
    "simpler": lambda settings: make_suite(settings, "simpler"),
    "simpler_widowx": lambda settings: make_suite(settings, "simpler_widowx"),
}


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """Which environment, and how it is shown and driven."""

    env: str = DEFAULT_SUITE
    """Environment name."""
    metaworld: MetaWorldConfig = field(default_factory=MetaWorldConfig)
    """Settings of Meta-World."""

    def __post_init__(self) -> None:
        lookup("environment", self.env, _SUITES)

    def suite(self) -> TaskSuite:
        """Return the suite with these settings."""
        return suite_from_json(to_json(self))


def register_suite(name: str, make: MakeSuite) -> None:
    """Register your own suite, so that data and checkpoints that name it can be used.

    Args:
        name: the suite's ``name``.
        make: returns the suite with the given ``settings``.
    """
    _SUITES[name] = make


def suite_to_json(suite: TaskSuite) -> dict[str, Any]:
    """Return what recordings and checkpoints store of a suite, plain JSON."""
    return {"suite": suite.name, "settings": dict(suite.settings)}


def suite_from_json(data: Mapping[str, Any]) -> TaskSuite:
    """Return the suite that :func:`suite_to_json` described.

    Raises:
        ValueError: a name that is not registered, or settings that its suite refuses.
    """
    if "suite" not in data:  # as earlier versions stored it: {"env": name, name: settings}
        name = data.get("env", DEFAULT_SUITE)
        data = {"suite": name, "settings": data.get(str(name), {})}
    stored = from_json(_StoredSuite, data, where="the environment")
    return lookup("environment", stored.suite, _SUITES)(stored.settings)


def suite_of(provenance: Mapping[str, Any], name: str | None = None) -> TaskSuite:
    """Return the suite of a checkpoint's recordings, or the one that is named, with its default settings."""
    stored = provenance.get("env")
    suite = suite_from_json(stored or {"suite": name or DEFAULT_SUITE})
    return suite if name in (None, suite.name) else suite_from_json({"suite": name})


def demo_suite(image_size: int) -> TaskSuite:
    """Return the suite of ``rt1 demo``, with small and smooth images."""
    return MetaWorldSuite(config=MetaWorldConfig(image_size=image_size, supersample=2))


@dataclass(frozen=True, kw_only=True)
class _StoredSuite:
    suite: str
    settings: Mapping[str, Any] = field(default_factory=dict)
