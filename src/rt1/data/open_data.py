"""A data folder opened by what the command line says of it: RLDS, Open X by name, LeRobot, or arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from rt1.data.lerobot import schema
from rt1.data.lerobot.reader import LeRobotSource
from rt1.data.open_arrays import ArrayOptions, is_arrays, open_arrays, refuse_others
from rt1.data.rlds.open_x import open_x_source
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RT1_FILE, RLDSLayout, layout_keys, read_features
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError


@dataclass(frozen=True, kw_only=True)
class DataOptions(ArrayOptions):
    """What a data folder may not say of itself."""

    split: str = "train"
    """Split of an RLDS data set."""
    image_key: str | None = None
    """Key of the images; needed where the data set was not recorded by rt1, as are the other keys."""
    instruction_key: str | None = None
    """Key of the instruction."""
    embedding_key: str | None = None
    """Key of the text embedding, if it has one."""
    action_keys: tuple[str, ...] = ()
    """Keys of the action, in the order they are joined."""
    open_x: str | None = None
    """Name of an Open X data set, instead of keys: its action is mapped to RT-1's and held against RT-1's bounds."""
    skip_corrupt: bool = False
    """Leave out damaged records, counted and listed, instead of stopping at the first."""


def open_data(folder: Path, options: DataOptions) -> EpisodeSource:
    """Open a data set.

    Raises:
        DataError: a folder that cannot be read, keys that are missing, unknown or of no use here.
    """
    keys = {name: getattr(options, name) for name in ("image_key", "instruction_key", "embedding_key", "action_keys")}
    given = {name: value for name, value in keys.items() if value}
    if is_arrays(folder) and not (folder / schema.INFO_FILE).is_file():
        return open_arrays(folder, options, given)
    known = {f.name for f in fields(options)}
    others = {f.name for f in fields(ArrayOptions)}
    refuse_others(
        options, known - others, f"{folder} is no folder of npz or HDF5 episodes and no Hugging Face data set"
    )
    if (folder / schema.INFO_FILE).is_file():
        return _open_lerobot(folder, options)
    if options.open_x is not None:
        refuse_others(options, known - keys.keys(), "--open-x names the keys itself")
        return open_x_source(folder, dataset=options.open_x, split=options.split, skip_corrupt=options.skip_corrupt)
    if not given and not (folder / RT1_FILE).is_file():
        there = ", ".join(layout_keys(read_features(folder)))
        raise DataError(
            f"{folder} has no {RT1_FILE}; name its keys with --image-key, --instruction-key, --action-keys (and "
            f"--embedding-key), or an Open X data set with --open-x; it has {there}"
        )
    layout = RLDSLayout(**given) if given else None
    return RLDSSource(folder, split=options.split, layout=layout, skip_corrupt=options.skip_corrupt)


def _open_lerobot(folder: Path, options: DataOptions) -> EpisodeSource:
    refuse_others(options, ("image_key", "action_keys"), "a LeRobot data set needs at most --image-key, --action-keys")
    if len(options.action_keys) > 1:
        raise DataError(f"--action-keys names {', '.join(options.action_keys)}; a LeRobot data set has one")
    return LeRobotSource(folder, image_key=options.image_key, action_key=(*options.action_keys, "action")[0])
