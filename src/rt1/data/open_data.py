"""Opens a data folder with the options of the command line: RLDS, Open X by name, LeRobot, or arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rt1.actions import rt1_action_spec
from rt1.common.border import reading
from rt1.common.suggest import lookup
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.schema import INFO_FILE
from rt1.data.rlds.open_x import OPEN_X, open_x_source
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RT1_FILE, RLDSLayout, layout_keys, read_features
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError

_LEROBOT, _HUGGING_FACE, _NPZ, _HDF5 = (
    "a LeRobot data set", "a saved Hugging Face data set", "a folder of npz episodes", "HDF5"
)  # fmt: skip
_OPEN_X, _RLDS = "read as Open X, where --open-x names the keys", "read as RLDS"
_KEYS = ("image_key", "instruction_key", "embedding_key", "action_keys")
_OF_ROWS = ("instruction", "channels_first", "action_leads_here")
_OPTIONS = {
    _LEROBOT: ("image_key", "action_keys", "open_x"),
    _HUGGING_FACE: (*_KEYS, "instruction", "episode_key"),
    _NPZ: (*_KEYS, *_OF_ROWS),
    _HDF5: (*_KEYS, *_OF_ROWS, "group", "start_key"),
    _OPEN_X: ("open_x", "split", "skip_corrupt"),
    _RLDS: (*_KEYS, "split", "skip_corrupt"),
}
"""Options that apply to each kind."""

HUGGING_FACE_FILE = "state.json"
"""File that ``datasets.Dataset.save_to_disk`` writes."""
NPZ_ENDING = ".npz"
HDF5_ENDINGS = (".hdf5", ".h5")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options that a data folder may need to be read."""

    split: str = "train"
    """Split of an RLDS data set."""
    image_key: str | None = None
    """Key of the images. Keys are needed unless rt1 recorded the data set."""
    instruction_key: str | None = None
    """Key of the instruction."""
    embedding_key: str | None = None
    """Key of the text embedding, if any."""
    action_keys: tuple[str, ...] = ()
    """Keys of the action, in the order they are joined."""
    open_x: str | None = None
    """Name of an Open X data set, instead of keys: its action is mapped to RT-1's, with RT-1's bounds."""
    skip_corrupt: bool = False
    """Leave out damaged records, counted and listed, instead of stopping at the first."""
    instruction: str = ""
    """Of npz, HDF5 and Hugging Face: the instruction of all episodes, if they store none."""
    channels_first: bool = False
    """Of npz and HDF5: images are (S, 3, H, W), as V-D4RL's are."""
    action_leads_here: bool = False
    """Of npz and HDF5: a row holds the action that led to its image, as V-D4RL's do."""
    group: str = ""
    """Of HDF5: the group whose members are the episodes, data in robomimic's files."""
    start_key: str | None = None
    """Of HDF5: the array that marks the rows where an episode begins, if one array holds several."""
    episode_key: str | None = None
    """Of Hugging Face: the column with the episode of a row. By default a row is an episode."""


def open_data(folder: Path, options: DataOptions) -> EpisodeSource:
    """Return the episodes of a folder. An unreadable folder, or options that do not fit, raise :class:`DataError`."""
    kind = _kind(folder, options)
    unusable = [f for f in fields(DataOptions) if f.name not in _OPTIONS[kind]]
    if changed := [f.name for f in unusable if getattr(options, f.name) != f.default]:
        names = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise DataError(f"{names} cannot be used here: {folder} is {kind}; leave it out")
    if kind == _LEROBOT:
        return _open_lerobot(folder, options)
    if kind == _OPEN_X:
        assert options.open_x is not None
        return open_x_source(folder, dataset=options.open_x, split=options.split, skip_corrupt=options.skip_corrupt)
    if kind == _RLDS:
        return _open_rlds(folder, options)
    try:
        return _open_arrays(folder, kind, options)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from error


def _kind(path: Path, options: DataOptions) -> str:
    if (path / INFO_FILE).is_file():
        return _LEROBOT
    if (path / HUGGING_FACE_FILE).is_file():
        return _HUGGING_FACE
    if _has(path, NPZ_ENDING):
        return _NPZ
    if path.suffix in HDF5_ENDINGS or any(_has(path, ending) for ending in HDF5_ENDINGS):
        return _HDF5
    return _RLDS if options.open_x is None else _OPEN_X


def _has(folder: Path, ending: str) -> bool:
    return next(folder.glob(f"*{ending}"), None) is not None


def _open_rlds(folder: Path, options: DataOptions) -> EpisodeSource:
    keys = {name: value for name in _KEYS if (value := getattr(options, name))}
    if not keys and not (folder / RT1_FILE).is_file():
        feature_keys = ", ".join(layout_keys(read_features(folder)))
        raise DataError(
            f"{folder} has no {RT1_FILE}; name its keys with --image-key, --instruction-key, --action-keys (and "
            f"--embedding-key), or an Open X data set with --open-x; it has {feature_keys}"
        )
    layout = RLDSLayout(**keys) if keys else None
    return RLDSSource(folder, split=options.split, layout=layout, skip_corrupt=options.skip_corrupt)


def _open_lerobot(folder: Path, options: DataOptions) -> EpisodeSource:
    if options.open_x is None:
        return LeRobotSource(folder, image_key=options.image_key, action_key=options.action_keys or "action")
    dataset = lookup("Open X data set", options.open_x, OPEN_X)
    if not dataset.lerobot or options.action_keys:
        names = ", ".join(name for name, entry in OPEN_X.items() if entry.lerobot)
        raise DataError(
            f"--open-x {dataset.name} cannot be used here: {folder} is a LeRobot data set, whose names are {names}, "
            "without --action-keys"
        )
    return LeRobotSource(
        folder,
        image_key=options.image_key or dataset.image_key,
        action_key=dataset.action_keys,
        action_spec=rt1_action_spec(bins=512, world_bound=2.0),
        map_actions=lambda actions: dataset.to_rt1({"action": actions}),
        name=dataset.name,
    )


def _action_key(path: Path, options: DataOptions) -> str | None:
    if len(options.action_keys) > 1:
        raise DataError(f"--action-keys names {', '.join(options.action_keys)}; {path} has the action in one array")
    return options.action_keys[0] if options.action_keys else None


def _open_arrays(path: Path, kind: str, options: DataOptions) -> EpisodeSource:
    if not options.instruction_key and not options.instruction:
        raise DataError(
            f"{path}: name the array that holds the instruction with --instruction-key, or give one sentence for all "
            "episodes with --instruction"
        )
    values = {name: getattr(options, name) for name in _OPTIONS[kind] if name != "action_keys"}
    values["action_key"] = _action_key(path, options)
    # Keys that are not named have the layout's default, except for two of which None says something.
    layout: dict[str, Any] = {
        name: value for name, value in values.items() if value is not None or name in ("instruction_key", "episode_key")
    }
    if kind == _HUGGING_FACE:
        from rt1.data.arrays.huggingface import HuggingFaceLayout, HuggingFaceSource
        from rt1.data.arrays.huggingface_saved import open_saved

        with reading(path):  # an error of the source has its name only
            return HuggingFaceSource(open_saved(path), layout=HuggingFaceLayout(**layout), name=path.name)
    if kind == _NPZ:
        from rt1.data.arrays.base import ArrayLayout
        from rt1.data.arrays.npz import NpzSource

        return NpzSource(path, layout=ArrayLayout(**layout))
    from rt1.data.arrays.hdf5 import HDF5Layout, HDF5Source

    return HDF5Source(path, layout=HDF5Layout(**layout))
