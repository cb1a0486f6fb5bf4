"""Folders of npz or HDF5 episodes and saved Hugging Face data sets, opened by what the command line says of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rt1.common.border import reading
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError

HUGGING_FACE_FILE = "state.json"
"""What ``datasets.Dataset.save_to_disk`` writes beside the data."""

NPZ_ENDING = ".npz"
HDF5_ENDINGS = (".hdf5", ".h5")

_HUGGING_FACE, _NPZ, _HDF5 = "a saved Hugging Face data set", "a folder of npz episodes", "HDF5"
_KEYS = ("image_key", "instruction_key", "embedding_key", "action_keys")
_OF_ROWS = ("instruction", "channels_first", "action_leads_here")
_OPTIONS = {
    _HUGGING_FACE: (*_KEYS, "instruction", "episode_key"),
    _NPZ: (*_KEYS, *_OF_ROWS),
    _HDF5: (*_KEYS, *_OF_ROWS, "group", "start_key"),
}
"""What each kind may be told."""


@dataclass(frozen=True, kw_only=True)
class ArrayOptions:
    """What arrays do not say of themselves; see :class:`rt1.data.arrays.base.ArrayLayout`."""

    instruction: str = ""
    """Of npz, HDF5 and Hugging Face: the sentence of all episodes, where they carry none."""
    channels_first: bool = False
    """Of npz and HDF5: images are (S, 3, H, W), as V-D4RL's are."""
    action_leads_here: bool = False
    """Of npz and HDF5: a row holds the action that led to its image, as V-D4RL's do."""
    group: str = ""
    """Of HDF5: the group whose members are the episodes, data in robomimic's files."""
    start_key: str | None = None
    """Of HDF5: the array that tells the rows where an episode begins, where one array holds several."""
    episode_key: str | None = None
    """Of Hugging Face: the column that tells the episode of a row; a row is an episode if not given."""


def is_arrays(path: Path) -> bool:
    """Return whether a path is one of these."""
    if path.suffix in HDF5_ENDINGS:
        return True
    return (path / HUGGING_FACE_FILE).is_file() or any(_has(path, ending) for ending in (NPZ_ENDING, *HDF5_ENDINGS))


def _has(folder: Path, ending: str) -> bool:
    return next(folder.glob(f"*{ending}"), None) is not None


def open_arrays(path: Path, options: ArrayOptions, keys: dict[str, Any]) -> EpisodeSource:
    """Open one of these.

    Args:
        path: file or folder.
        options: what the arrays do not say of themselves.
        keys: the names given: ``image_key``, ``instruction_key``, ``embedding_key``, ``action_keys``.

    Raises:
        DataError: a name that is missing or means nothing here, or data that cannot be read.
    """
    kind = _kind(path)
    refuse_others(options, _OPTIONS[kind], f"{path} is {kind}")
    layout = _layout(path, options, keys)
    try:
        if kind == _HUGGING_FACE:
            from rt1.data.arrays.huggingface import HuggingFaceLayout, HuggingFaceSource
            from rt1.data.arrays.huggingface_saved import open_saved

            hugging_face = HuggingFaceLayout(**layout, episode_key=options.episode_key)
            with reading(path):  # an error of the source has its name only
                return HuggingFaceSource(open_saved(path), layout=hugging_face, name=path.name)
        layout |= {"channels_first": options.channels_first, "action_leads_here": options.action_leads_here}
        if kind == _NPZ:
            from rt1.data.arrays.base import ArrayLayout
            from rt1.data.arrays.npz import NpzSource

            return NpzSource(path, layout=ArrayLayout(**layout))
        from rt1.data.arrays.hdf5 import HDF5Layout, HDF5Source

        return HDF5Source(path, layout=HDF5Layout(**layout, group=options.group, start_key=options.start_key))
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def refuse_others(options: ArrayOptions, usable: Collection[str], why: str) -> None:
    """Raise :class:`DataError` where options are given that mean nothing here, with the reason."""
    changed = [f.name for f in fields(options) if f.name not in usable and getattr(options, f.name) != f.default]
    if changed:
        names = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise DataError(f"{names} cannot be used here: {why}; leave it out")


def _kind(path: Path) -> str:
    if (path / HUGGING_FACE_FILE).is_file():
        return _HUGGING_FACE
    return _NPZ if _has(path, NPZ_ENDING) else _HDF5


def _layout(path: Path, options: ArrayOptions, keys: dict[str, Any]) -> dict[str, Any]:
    actions = keys.get("action_keys", ())
    if len(actions) > 1:
        raise DataError(f"--action-keys names {', '.join(actions)}; {path} has the action in one array")
    layout: dict[str, Any] = {
        "image_key": keys.get("image_key"),
        "action_key": actions[0] if actions else None,
        "embedding_key": keys.get("embedding_key"),
    }
    layout = {name: value for name, value in layout.items() if value is not None}
    if not keys.get("instruction_key") and not options.instruction:
        raise DataError(
            f"{path}: name the array that holds the instruction with --instruction-key, or give one sentence for all "
            "episodes with --instruction"
        )
    return {**layout, "instruction_key": keys.get("instruction_key"), "instruction": options.instruction}
