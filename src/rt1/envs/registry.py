"""Task suites by name, as commands, recordings and checkpoints give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rt1.common.json_config import LARGEST, check_above, check_at_least, check_between, from_json, to_json
from rt1.common.json_files import read_object
from rt1.common.suggest import unknown_name
from rt1.envs.base import TaskSuite
from rt1.envs.custom import is_factory, suite_from_factory
from rt1.envs.dm_control import DMControlConfig, DMControlSuite, all_tasks
from rt1.envs.gymnasium import GymConfig, GymSuite, registered_ids
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.simpler import make_suite
from rt1.errors import RenderingError, first_line

DEFAULT_SUITE = "metaworld"
DEMO_TASKS = ("faucet-open", "faucet-close", "window-open", "button-press-topdown", "door-unlock")
"""Tasks that need looking: faucet-open and faucet-close share a scene, open-loop replay solves few of the others."""
ENTRY_POINTS = "rt1_suites"
"""Group of entry points by which an installed package offers suites: ``NAME = "MODULE:FACTORY"``."""

MakeSuite = Callable[[Mapping[str, Any]], TaskSuite]


def _gym(settings: Mapping[str, Any]) -> TaskSuite:
    rest = dict(settings)
    if isinstance(size := rest.get("image_size"), int):
        rest["image_size"] = (size, size)
    return GymSuite(id=_argument("gym", "ID", rest.pop("id", "")), config=from_json(GymConfig, rest, where="gym"))


def _dm_control(settings: Mapping[str, Any]) -> TaskSuite:
    rest = dict(settings)
    task = _argument("dm_control", "DOMAIN-TASK", rest.pop("task", ""))
    return DMControlSuite(task=task, config=from_json(DMControlConfig, rest, where="dm_control"))


def _argument(name: str, form: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is given as {value!r:.200}, must be {name}:{form}. rt1 envs lists them")
    return value


_SUITES: dict[str, MakeSuite] = {
    "metaworld": lambda settings: MetaWorldSuite(config=from_json(MetaWorldConfig, settings, where="metaworld")),
    "gym": _gym,
    "dm_control": _dm_control,
    "simpler": lambda settings: make_suite(settings, "simpler"),
    "simpler_widowx": lambda settings: make_suite(settings, "simpler_widowx"),
}
ARGUMENTS = {"gym": ("id", "ID"), "dm_control": ("task", "DOMAIN-TASK")}
"""Suite -> the setting that follows its name after a colon, and how it is written."""
_FACTORIES: dict[str, str] = {}
"""Name of a suite -> the ``PACKAGE.MODULE:FACTORY`` that made it."""


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """Which environment, and how it is shown and driven."""

    env: str | None = None
    """Environment: metaworld, gym:ID, dm_control:DOMAIN-TASK, simpler, simpler_widowx,
    PACKAGE.MODULE:FACTORY, or a .json or .toml file with suite and settings.
    Default: that of the data, else metaworld. rt1 envs lists them."""
    image_size: tuple[int, ...] = ()
    """Height and width of the image, pixels. One number is both. Default: as recorded, else 96 (metaworld), 84
    (dm_control), the environment's own (gym)."""
    control_rate: float | None = None
    """Decisions per second, Hz (metaworld, gym). Meta-World holds each action for round(80 / control_rate) native
    steps. Default: 20 (metaworld), render_fps (gym)."""
    camera: str | None = None
    """Camera name or number (metaworld, dm_control)."""
    supersample: int | None = None
    """Render this many times larger in each direction and average (metaworld). Default: 1."""
    crop: tuple[float, float, float] | None = None
    """Square part of the camera's picture that is shown (metaworld): its top, its left and its side, as shares of the
    picture. Default: all of it."""
    fast_render: bool = True
    """Render without shadows, reflections and multisampling (metaworld)."""
    action_repeat: int | None = None
    """Native steps per decision (dm_control). Default: 2."""
    experts: str | None = None
    """Folder of experts as examples/dm_control_expert.py writes them (dm_control)."""
    kwargs: tuple[str, ...] = ()
    """Arguments of gymnasium.make as NAME=VALUE, for example obs_type=pixels (gym). VALUE is JSON or a word."""
    picture: str | None = None
    """Key of the observation's picture with dots between levels, or "render" (gym)."""
    sentence: str | None = None
    """Sentence that names the task (gym). Default: the environment's task_description."""
    max_steps: int | None = None
    """Steps of an episode, at most the environment's own limit, which is the default (metaworld, gym)."""
    success_return: float | None = None
    """Return from which an episode is a success (gym). Default: info says success or is_success."""
    max_return: float | None = None
    """Largest return of an episode. With it the return is measured in place of success (gym)."""

    def __post_init__(self) -> None:
        if self.env is not None:
            _split(self.env)
        if len(self.image_size) > 2:
            raise ValueError(f"image_size is {list(self.image_size)}, must be one number, or a height and a width")
        check_between(self, 8, 2048, "image_size")
        check_between(self, 0, 1, "crop")
        check_at_least(self, 1, "supersample", "action_repeat", "max_steps")
        check_between(self, -LARGEST, LARGEST, "success_return", "max_return", "control_rate")
        check_above(self, 0, *(name for name in ("control_rate", "max_return") if getattr(self, name) is not None))

    def suite(self) -> TaskSuite:
        """Return the suite with these settings."""
        return self._with_options(described(self.env or DEFAULT_SUITE))

    def suite_of(self, provenance: Mapping[str, Any], what: str = "the data") -> TaskSuite:
        """Return the named suite, or that of a checkpoint's recordings, with the settings that were given here.

        Raises:
            ValueError: no suite is named here or there, or settings are for another suite.
        """
        stored = None if provenance.get("env") is None else _normal(provenance["env"])
        if self.env is None and stored is None:
            raise ValueError(
                f"{what} names no environment. Give --env: metaworld, gym:ID, dm_control:DOMAIN-TASK, simpler or "
                "PACKAGE.MODULE:FACTORY"
            )
        named = stored if self.env is None else described(self.env)
        return self._with_options(stored if _same(named, stored) else named)

    def _with_options(self, description: Mapping[str, Any] | None) -> TaskSuite:
        """Return a stored suite with the options that were given. Its configuration refuses those that it lacks."""
        assert description is not None
        defaults = to_json(EnvSettings())
        options = {key: value for key, value in to_json(self).items() if key != "env" and value != defaults[key]}
        if len(options.get("image_size", ())) == 1:
            (options["image_size"],) = options["image_size"]
        return suite_from_json({**description, "settings": {**description["settings"], **options}})


def register_suite(name: str, make: MakeSuite) -> None:
    """Register your own suite, so that data and checkpoints that name it can be used.

    Args:
        name: the suite's ``name``.
        make: returns the suite with the given ``settings``.
    """
    _SUITES[name] = make


def described(name: str) -> dict[str, Any]:
    """Return the description, as :func:`suite_to_json` returns it, of a suite that a user names.

    A factory is imported and called here: a user's word is needed for that, a file's is not enough.
    """
    prefix, rest = _split(name)
    if Path(name).suffix in (".json", ".toml"):
        return _normal(read_object(Path(name)))
    if prefix in ARGUMENTS:
        return {"suite": prefix, "settings": {ARGUMENTS[prefix][0]: rest}}
    if not is_factory(name):
        return {"suite": prefix, "settings": {}}
    suite = suite_from_factory(name, {})
    if suite.name in _SUITES and _FACTORIES.get(suite.name) != name:
        raise ValueError(f"{name} makes a suite named {suite.name!r}, which another one is called. Rename it")
    _FACTORIES[suite.name] = name
    register_suite(suite.name, lambda settings: suite_from_factory(name, settings))
    return suite_to_json(suite)


def is_environment(name: str) -> bool:
    """Whether a name is that of an environment, as ``--env`` takes it, and not of a folder."""
    if Path(name).is_file():
        return Path(name).suffix in (".json", ".toml")
    return not Path(name).exists() and (name.partition(":")[0] in known_suites() or is_factory(name))


def suite_to_json(suite: TaskSuite) -> dict[str, Any]:
    """Return what recordings and checkpoints store of a suite, plain JSON."""
    factory = {"factory": _FACTORIES[suite.name]} if suite.name in _FACTORIES else {}
    return {"suite": suite.name, "settings": dict(suite.settings), **factory}


def suite_from_json(data: Mapping[str, Any]) -> TaskSuite:
    """Return the suite that :func:`suite_to_json` described.

    Raises:
        ValueError: a name that is not registered, or settings that its suite refuses.
    """
    stored = from_json(_StoredSuite, _normal(data), where="the environment")
    if stored.factory and stored.suite not in known_suites():
        raise ValueError(
            f"the data were recorded in {stored.factory!r}, which rt1 does not import on a file's word. "
            f"Give --env {stored.factory}, in training --closed-loop.env {stored.factory}"
        )
    return _maker(stored.suite)(stored.settings)


def suite_of(provenance: Mapping[str, Any], name: str | None = None) -> TaskSuite:
    """Return the suite that is named, or that of a checkpoint's recordings. See :meth:`EnvSettings.suite_of`."""
    return EnvSettings(env=name).suite_of(provenance)


def lerobot_options(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a policy does itself in LeRobot's Meta-World, whose steps and pictures are the native ones.

    Returns:
        ``env_hold``, native steps of an action, and ``env_crop``, part of the picture as ``MetaWorldConfig.crop``.

    Raises:
        ValueError: the checkpoint's environment has settings that Meta-World refuses.
    """
    env = provenance.get("env")
    if not isinstance(env, Mapping) or env.get("suite", env.get("env")) != MetaWorldSuite.name:
        return {"env_hold": 1, "env_crop": None}
    suite = suite_from_json(env)
    assert isinstance(suite, MetaWorldSuite)
    crop = suite.config.crop
    return {"env_hold": suite.config.hold, "env_crop": None if crop is None else list(crop)}


def tasks_of(suite: TaskSuite, provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tasks that a checkpoint was trained on, or a suite's only task."""
    if len(suite.tasks) == 1:
        return tuple(suite.tasks)
    tasks = provenance.get("tasks", ())
    if not isinstance(tasks, list | tuple) or not all(isinstance(task, str) for task in tasks):
        raise ValueError(f"the tasks are {tasks!r:.80}, must be a list of names")
    return tuple(tasks)


def known_suites() -> list[str]:
    """Return the names of all suites: built in, registered, and offered by installed packages."""
    return sorted({*_SUITES, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def listed_suites() -> dict[str, str]:
    """Return what is written as ``--env`` for each suite, and its tasks or why it cannot be used here."""
    forms = {name: ":".join([name, *([ARGUMENTS[name][1]] if name in ARGUMENTS else [])]) for name in known_suites()}
    return {form: _content(name) for name, form in forms.items()} | {
        "PACKAGE.MODULE:FACTORY": "a function or class of your own that returns a task suite or opens an environment",
    }


def _content(name: str) -> str:
    lists = {"gym": registered_ids, "dm_control": all_tasks}
    try:
        names = lists[name]() if name in lists else _maker(name)({}).tasks
    except (ImportError, RenderingError) as error:
        return f"not here: {first_line(error)}"
    return f"{len(names)} tasks: {', '.join(names)}"


def demo_suite(image_size: int) -> TaskSuite:
    """Return the suite of ``rt1 demo``, with small and smooth images."""
    return MetaWorldSuite(config=MetaWorldConfig(image_size=image_size, supersample=2))


@dataclass(frozen=True, kw_only=True)
class _StoredSuite:
    suite: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    factory: str = ""


def _normal(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description as it is stored now. Earlier versions stored ``{"env": name, name: settings}``."""
    if not isinstance(data, Mapping):
        raise ValueError(f"the environment is {data!r:.80}, must be an object with suite and settings")
    if "suite" not in data:
        name = data.get("env", DEFAULT_SUITE)
        return {"suite": name, "settings": data.get(str(name), {})}
    return {"settings": {}, **data}


def _same(named: Mapping[str, Any] | None, stored: Mapping[str, Any] | None) -> bool:
    """Whether both describe one suite, whatever its other settings are."""
    if named is None or stored is None or named["suite"] != stored["suite"]:
        return False
    key = ARGUMENTS.get(named["suite"], ("",))[0]
    return bool(named["settings"].get(key) == stored["settings"].get(key))


def _split(name: str) -> tuple[str, str]:
    """Split NAME or NAME:ARGUMENT. A name that cannot be raises ``ValueError`` with a suggestion."""
    prefix, _, rest = name.partition(":")
    if Path(name).suffix in (".json", ".toml"):
        return name, ""
    if prefix in ARGUMENTS:
        return prefix, _argument(prefix, ARGUMENTS[prefix][1], rest)
    if prefix in ("metaworld", "simpler") and rest:
        raise ValueError(f"{name} has {rest!r} after the environment. Give --env {prefix} --tasks {rest}")
    if (prefix in known_suites() and not rest) or is_factory(name):
        return prefix, rest
    if prefix.endswith(".py"):
        module = ".".join(Path(prefix).with_suffix("").parts)
        raise ValueError(f"{name} names a file, must name a module. Give --env {module}:{rest or 'FACTORY'}")
    raise ValueError(unknown_name("environment", name, known_suites()))


def _maker(name: str) -> MakeSuite:
    if name in _SUITES:
        return _SUITES[name]
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return lambda settings: suite_from_factory(point.value, settings)
    raise ValueError(unknown_name("environment", name, known_suites()))
