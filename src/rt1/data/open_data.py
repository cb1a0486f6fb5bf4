"""Opens a data folder with the options of the command line: RLDS, Open X by name, LeRobot, or arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rt1.actions import rt1_action_spec
from rt1.common.border import reading
from rt1.common.json_config import check_at_least
from rt1.common.suggest import lookup
from rt1.data.arrays.huggingface_files import HUB_PREFIX, SAVED_FILE, SAVED_SPLITS_FILE, open_dataset
from rt1.data.arrays.layouts import LAYOUTS, LayoutName
from rt1.data.bounds import with_bounds
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.lerobot.schema import INFO_FILE
from rt1.data.remote.fetch import is_unfinished
from rt1.data.rlds.open_x import OPEN_X, open_x_source
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import FEATURES_FILE, RT1_FILE, RLDSLayout, layout_keys, read_features
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import DefaultInstruction
from rt1.data.sources.instructions import EpisodesWithInstruction, SeveralInstructions
from rt1.errors import DataError
from rt1.hub.names import dataset_path

_LEROBOT, _NPZ, _HDF5 = "a LeRobot data set", "a folder of npz episodes", "HDF5"
_SAVED, _HUGGING_FACE = "a saved Hugging Face data set", "a Hugging Face data set with splits"
_OPEN_X, _RLDS = "read as Open X, where --open-x names the keys", "read as RLDS"
_KEYS = ("image_key", "instruction_key", "embedding_key", "action_keys")
_ALL = ("instruction", "bounds")
_OF_ROWS = ("bgr", "channels_first", "action_is_previous")
_OF_HDF5 = ("group", "mask", "start_key", "start_value", "encoded", "instruction_file")
_OPTIONS = {
    _LEROBOT: ("image_key", "action_keys", "instruction_key", "open_x", *_ALL),
    _SAVED: (*_KEYS, *_ALL, "bgr", "episode_key"),
    _HUGGING_FACE: (*_KEYS, *_ALL, "bgr", "episode_key", "split"),
    _NPZ: (*_KEYS, *_ALL, *_OF_ROWS),
    _HDF5: (*_KEYS, *_ALL, *_OF_ROWS, *_OF_HDF5, "layout"),
    _OPEN_X: ("open_x", "split", "skip_corrupt", *_ALL),
    _RLDS: (*_KEYS, *_ALL, "split", "skip_corrupt"),
}
"""Options that apply to each kind."""

PARQUET_ENDING = ".parquet"
NPZ_ENDING = ".npz"
HDF5_ENDINGS = (".hdf5", ".h5")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options that a data folder may need to be read."""

    layout: LayoutName | None = None
    """Of HDF5: the project whose files they are, which sets the other options. Options given here come first."""
    split: str = "train"
    """Split of an RLDS or Hugging Face data set."""
    image_key: str | None = None
    """Key of the images. Keys are needed unless rt1 recorded the data set."""
    instruction_key: str | None = None
    """Key of the instruction, by default of LeRobot its task. Several, as KEY,KEY, are the instructions of one episode
    (--instruction-choice)."""
    skip_empty: bool = False
    """Leave out the episodes with an empty instruction."""
    embedding_key: str | None = None
    """Key of the text embedding, if any."""
    action_keys: tuple[str, ...] = ()
    """Keys of the action, in the order they are joined."""
    open_x: str | None = None
    """Name of an Open X data set, instead of keys: its action is mapped to RT-1's, with RT-1's bounds."""
    skip_corrupt: bool = False
    """Leave out damaged records, counted and listed, instead of stopping at the first."""
    instruction: str = ""
    """Instruction of the episodes that store none."""
    bounds: tuple[str, ...] = ()
    """Bounds of the action: LOW HIGH for all dimensions, q01 or q001 for the quantiles of the data, or a JSON file. By
    default as rt1 recorded them, or the smallest and largest value of the data."""
    bgr: bool = False
    """Of npz, HDF5 and Hugging Face: images are stored with blue first."""
    channels_first: bool = False
    """Of npz and HDF5: images are (S, 3, H, W), as V-D4RL's are."""
    action_is_previous: bool = False
    """Of npz and HDF5: a row holds the action that led to its image, as V-D4RL's do."""
    group: str = ""
    """Of HDF5: the group whose members are the episodes, data in robomimic's files, / for the file's own groups."""
    mask: str | None = None
    """Of HDF5: the array in the group mask that names the episodes to read, such as train or valid."""
    start_key: str | None = None
    """Of HDF5: the array that marks the rows where an episode begins, if one array holds several."""
    start_value: int | None = None
    """Of HDF5: value of the start key at such a row. Default: its value at the first row."""
    encoded: bool = False
    """Of HDF5: images must be stored as JPEG, PNG or WebP bytes. By default the array's type says whether they are."""
    instruction_file: str = ""
    """Of HDF5: JSON file with the instruction, relative to the episode's file, {stem} in it for that file's name. The
    instruction key is then its key."""
    episode_key: str | None = None
    """Of Hugging Face: the column with the episode of a row. By default a row is an episode."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "start_value")


def open_data(folder: Path, options: DataOptions) -> EpisodeSource:
    """Return the episodes of a folder, or of ``hf://datasets/user/name[@revision]``, which is downloaded.

    An unreadable folder, or options that do not fit, raise :class:`DataError`.
    """
    if (local := dataset_path(folder)) != folder:
        source = open_data(local, options)
        source.name = "hf://" + str(folder).removeprefix("hf:").lstrip("/")
        return source
    if is_unfinished(folder):
        raise DataError(f"{folder}: the download is not finished. Run the same rt1 fetch command again to resume")
    if not folder.exists() and not str(folder).startswith(HUB_PREFIX):
        raise DataError(f"{folder} is not a folder or file here. Check the path. docs/data.md lists the formats")
    keys = (options.instruction_key or "").split(",")
    if len(keys) == 1:
        source = _open(folder, options)
    else:
        source = SeveralInstructions([_open(folder, replace(options, instruction_key=key)) for key in keys])
    return EpisodesWithInstruction(source) if options.skip_empty else source


def _open(folder: Path, options: DataOptions) -> EpisodeSource:
    kind = _kind(folder, options)
    unusable = [f for f in fields(DataOptions) if f.name not in (*_OPTIONS[kind], "skip_empty")]
    if changed := [f.name for f in unusable if getattr(options, f.name) != f.default]:
        names = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise DataError(f"{names} cannot be used here: {folder} is {kind}. Leave it out")
    try:
        source = _OPENERS[kind](folder, options)
        episodes = range(len(source.lengths)) if options.instruction else ()
        if any(not source.instruction(episode).strip() for episode in episodes):
            source = DefaultInstruction(source, options.instruction)
        return with_bounds(source, options.bounds) if options.bounds else source
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{folder}: {error}") from error


def _kind(path: Path, options: DataOptions) -> str:
    tests = {
        _LEROBOT: (path / INFO_FILE).is_file(),
        _SAVED: (path / SAVED_FILE).is_file(),
        _HUGGING_FACE: str(path).startswith(HUB_PREFIX) or (path / SAVED_SPLITS_FILE).is_file(),
        _NPZ: _has(path, NPZ_ENDING),
        _HDF5: path.suffix in HDF5_ENDINGS or any(_has(path, ending) for ending in HDF5_ENDINGS),
    }
    if kind := next((kind for kind, fits in tests.items() if fits), None):
        return kind
    if not (path / FEATURES_FILE).is_file():
        endings = {PARQUET_ENDING: _HUGGING_FACE, NPZ_ENDING: _NPZ, **dict.fromkeys(HDF5_ENDINGS, _HDF5)}
        if kind := next((kind for ending, kind in endings.items() if _has(path, f"**/*{ending}")), None):
            return kind
    return _RLDS if options.open_x is None else _OPEN_X


def _has(folder: Path, ending: str) -> bool:
    pattern = ending if "*" in ending else f"*{ending}"
    return next(folder.glob(pattern), None) is not None


def _open_lerobot(folder: Path, options: DataOptions) -> EpisodeSource:
    if options.open_x is None:
        return LeRobotSource(
            folder,
            image_key=options.image_key,
            action_key=options.action_keys or "action",
            instruction_key=options.instruction_key,
        )
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
        instruction_key=options.instruction_key,
        action_spec=rt1_action_spec(bins=512, world_bound=2.0),
        map_actions=lambda actions: dataset.to_rt1({"action": actions}),
        name=dataset.name,
    )


def _open_open_x(folder: Path, options: DataOptions) -> EpisodeSource:
    assert options.open_x is not None
    return open_x_source(folder, dataset=options.open_x, split=options.split, skip_corrupt=options.skip_corrupt)


def _open_rlds(folder: Path, options: DataOptions) -> EpisodeSource:
    keys = {name: value for name in _KEYS if (value := getattr(options, name))}
    features = read_features(folder)
    if not keys and not (folder / RT1_FILE).is_file():
        raise DataError(
            f"{folder} has no {RT1_FILE}. Name its keys with --image-key, --instruction-key, --action-keys (and "
            f"--embedding-key), or an Open X data set with --open-x. It has {', '.join(layout_keys(features))}"
        )
    layout = RLDSLayout(**keys) if keys else None
    if layout is not None and options.instruction and not options.instruction_key:
        key = layout.instruction_key if layout.instruction_key in layout_keys(features) else None
        layout = replace(layout, instruction_key=key)
    return RLDSSource(folder, split=options.split, layout=layout, skip_corrupt=options.skip_corrupt)


def _array_layout(path: Path, kind: str, options: DataOptions) -> dict[str, Any]:
    """Return the fields of an array layout: those of a known layout, then the options that are given."""
    values = dict(LAYOUTS[options.layout]) if options.layout else {}
    names = set(_OPTIONS[kind]) - {"layout", "split", "bounds"}
    values |= {f.name: value for f in fields(options) if f.name in names and (value := getattr(options, f.name))}
    if options.start_value is not None:  # 0 says something, too
        values["start_value"] = options.start_value
    if not values.get("instruction_key") and not values.get("instruction"):
        raise DataError(
            f"{path}: name the array that holds the instruction with --instruction-key, or give one sentence for all "
            "episodes with --instruction"
        )
    return values


def _open_hugging_face(path: Path, options: DataOptions) -> EpisodeSource:
    from rt1.data.arrays.huggingface import HuggingFaceLayout, HuggingFaceSource

    keys = {"instruction_key": None, "episode_key": None, **_array_layout(path, _HUGGING_FACE, options)}
    with reading(path):  # an error of the source has its name only
        name = str(path).removeprefix(HUB_PREFIX) if str(path).startswith(HUB_PREFIX) else path.resolve().name
        return HuggingFaceSource(open_dataset(path, options.split), layout=HuggingFaceLayout(**keys), name=name)


def _open_npz(path: Path, options: DataOptions) -> EpisodeSource:
    from rt1.data.arrays.base import ArrayLayout
    from rt1.data.arrays.npz import NpzSource

    return NpzSource(path, layout=ArrayLayout(**_array_layout(path, _NPZ, options)))


def _open_hdf5(path: Path, options: DataOptions) -> EpisodeSource:
    from rt1.data.arrays.hdf5 import HDF5Layout, HDF5Source

    return HDF5Source(path, layout=HDF5Layout(**_array_layout(path, _HDF5, options)))


_OPENERS: dict[str, Callable[[Path, DataOptions], EpisodeSource]] = {
    _LEROBOT: _open_lerobot,
    _SAVED: _open_hugging_face,
    _HUGGING_FACE: _open_hugging_face,
    _NPZ: _open_npz,
    _HDF5: _open_hdf5,
    _OPEN_X: _open_open_x,
    _RLDS: _open_rlds,
}
