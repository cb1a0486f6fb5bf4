"""Data sets opened by the ``--data`` arguments of the command line, and split into training and held-out episodes.

Two calls lead from the arguments to a loader::

    sources = open_mixture(["fractal=150", "bridge=50"], DataOptions())  # or ["mixture.toml"], or one folder
    data = split_sources(sources, cut=cut, held_out=0.05, seed=0)        # data.source, data.train, data.held_out
    loader = Loader(data.source, data.train, text=text, batch_size=256, seed=0)

where ``cut(lengths, episodes)`` makes the windows or the clips of :mod:`rt1.data.pipeline.windows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec
from rt1.common.border import reading
from rt1.common.json_config import LARGEST, from_json
from rt1.common.json_files import read_object
from rt1.data.arrays.huggingface_files import HUB_PREFIX
from rt1.data.bounds import spec_with_bounds, with_spec
from rt1.data.open_data import DataOptions, open_data
from rt1.data.pipeline.mixture import Mixture
from rt1.data.pipeline.windows import Clips, Windows, split_episodes
from rt1.data.rlds.open_x import OPEN_X
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import JoinedSource
from rt1.errors import DataError

ENDINGS = (".toml", ".json")
"""What the name of a mixture file ends in."""

Samples = Windows | Clips | Mixture
CutEpisodes = Callable[[NDArray[np.int64], NDArray[np.int64]], Windows | Clips]
"""Function of the lengths of all episodes of a source and the numbers of those to take samples from."""


@dataclass(frozen=True, kw_only=True)
class MixturePart(DataOptions):
    """One data set of a mixture file."""

    data: str
    """Folder, relative to the mixture file, or an address that begins with ``hf:``."""
    weight: float | None = None
    """Share of the samples, relative to the other weights. An Open X data set has a default weight."""
    embodiment: str | None = None
    """With ``heads = "separate"``: name of the robot it was recorded with. The data set's name if not given."""


@dataclass(frozen=True, kw_only=True)
class MixtureFile:
    """The content of a mixture file."""

    parts: tuple[MixturePart, ...]
    """The data sets, ``[[parts]]`` in TOML."""
    bounds: Literal["same", "widest"] = "same"
    """``same``: all action bounds must be equal. ``widest``: all data sets get the widest bounds. Dimensions, units
    and number of bins must be equal."""
    heads: Literal["one", "separate"] = "one"
    """``one``: all data sets have one action spec. ``separate``: each embodiment has its own action spec and head.
    ``bounds`` then applies to the data sets of one embodiment."""
    bins: int | None = None
    """Bins of all actions. None: as stored, which must be equal."""


@dataclass(frozen=True, kw_only=True)
class WeightedSource:
    """An opened data set and its weight."""

    source: EpisodeSource
    weight: float = 1.0
    """Share of the samples, relative to the other weights."""
    embodiment: str | None = None
    """Name of the embodiment, see :class:`rt1.data.sources.concat.JoinedSource`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitData:
    """One source of all episodes, and its training and held-out samples. A loader takes both."""

    source: EpisodeSource
    """The data set itself, or several joined."""
    train: Samples
    """Samples of the training episodes, mixed by weight."""
    held_out: Samples | None
    """Samples of the held-out episodes, mixed by weight, or None."""
    held_out_episodes: NDArray[np.int64]
    """Numbers of the held-out episodes in ``source``, ascending."""


def open_mixture(words: Sequence[str | Path], options: DataOptions) -> tuple[WeightedSource, ...]:
    """Open what ``--data`` names: ``FOLDER``, several of them, ``FOLDER=WEIGHT``, or one mixture file.

    Args:
        words: folders, or one ``.toml`` or ``.json`` file with the fields of :class:`MixtureFile`.
        options: options for all folders. A mixture file has its own, and needs the defaults here.

    Returns:
        The data sets in order, all with one action spec, or with the names of their embodiments.

    Raises:
        DataError: an unreadable folder or file, an unknown or wrong setting of a mixture file, weights for only some
            data sets, or different action specs.
    """
    described = _described(words, options)
    weights = _weights(described.parts)
    sources = [open_data(Path(part.data), part) for part in described.parts]
    if described.bins is not None:
        with reading(words[0], cure="Mend it there"):
            sources = [with_spec(source, replace(source.action_spec, bins=described.bins)) for source in sources]
    names = _embodiment_names(described, sources)
    if described.bounds == "widest":
        sources = _with_widest_bounds(sources, names)
    opened = tuple(
        WeightedSource(source=source, weight=weight, embodiment=name)
        for source, weight, name in zip(sources, weights, names, strict=True)
    )
    joined(opened)  # refuses action specs that differ
    return opened


def joined(sources: Sequence[WeightedSource]) -> EpisodeSource:
    """Return all episodes as one source: the only one, or several joined."""
    if len(sources) == 1:
        return sources[0].source
    return JoinedSource([part.source for part in sources], embodiments=[part.embodiment for part in sources])


def split_sources(sources: Sequence[WeightedSource], *, cut: CutEpisodes, held_out: float, seed: int) -> SplitData:
    """Hold out the same share of every source's episodes, by whole episodes, and mix the samples by weight.

    A single source stays as it is, with windows or clips that are no mixture.

    Args:
        sources: the data sets.
        cut: function that makes the samples of one source.
        held_out: share of each source's episodes that is held out, in [0, 1).
        seed: seed of the split, see :func:`rt1.data.pipeline.windows.split_episodes`.

    Raises:
        DataError: a source with too few episodes, or different action specs.
    """
    source = joined(sources)
    firsts = np.cumsum([0, *(len(part.source.lengths) for part in sources[:-1])])
    splits = [_split(part.source, held_out=held_out, seed=seed) for part in sources]
    train_episodes, held_out_episodes = (
        [numbers + first for numbers, first in zip(episodes, firsts, strict=True)]
        for episodes in zip(*splits, strict=True)
    )

    def samples(episodes: Sequence[NDArray[np.int64]]) -> Samples:
        parts = tuple(cut(source.lengths, numbers) for numbers in episodes)
        return parts[0] if len(parts) == 1 else Mixture(parts=parts, weights=tuple(part.weight for part in sources))

    return SplitData(
        source=source,
        train=samples(train_episodes),
        held_out=samples(held_out_episodes) if held_out else None,
        held_out_episodes=np.concatenate(held_out_episodes),
    )


def _described(words: Sequence[str | Path], options: DataOptions) -> MixtureFile:
    files = [Path(word) for word in words if Path(word).suffix in ENDINGS and not Path(word).is_dir()]
    if not files:
        return MixtureFile(parts=tuple(_of_word(str(word), options) for word in words))
    if len(words) > 1:
        raise DataError(f"{files[0]} is a mixture file. Give it alone and name the other data sets in it")
    if changed := [f"--{f.name.replace('_', '-')}" for f in fields(options) if getattr(options, f.name) != f.default]:
        raise DataError(f"{', '.join(changed)} cannot be used with {files[0]}: it has them for each data set")
    return _read(files[0])


def _of_word(word: str, options: DataOptions) -> MixturePart:
    folder, equals, weight = word.rpartition("=")
    if not word or (equals and not folder):
        raise DataError(f"data is {word!r}, which names no folder. Give FOLDER or FOLDER=WEIGHT")
    if not equals or Path(word).exists():
        return MixturePart(data=word, **vars(options))
    try:
        return MixturePart(data=folder, weight=float(weight), **vars(options))
    except ValueError as error:
        raise DataError(f"the weight in {word} is {weight!r}. Give FOLDER=WEIGHT with a number above 0") from error


def _read(path: Path) -> MixtureFile:
    with reading(path, cure="Mend it there"):
        described = from_json(MixtureFile, read_object(path, cure="Mend it there"), where=str(path))
        folders = [
            Path(part.data) if part.data.startswith(HUB_PREFIX) else path.parent / part.data for part in described.parts
        ]
        for folder in folders:
            if not str(folder).isprintable():
                raise DataError(f"{path} names the data {folder.name!r}, must be printable. Mend it there")
            folder.exists()  # raises for a name that no file can have
        parts = zip(described.parts, folders, strict=True)
        return replace(described, parts=tuple(replace(part, data=str(folder)) for part, folder in parts))


def _weights(parts: Sequence[MixturePart]) -> list[float]:
    """Return the weight of each part: its own, that of the Open X table, or 1 for all."""
    if not parts:
        raise DataError("no data set is named. Give at least one folder")
    stated = [OPEN_X[p.open_x].weight if p.weight is None and p.open_x in OPEN_X else p.weight for p in parts]
    without = [part.data for part, weight in zip(parts, stated, strict=True) if weight is None]
    if without and len(without) < len(parts):
        raise DataError(f"{', '.join(without)} has no weight and others have. Give every data set one: FOLDER=WEIGHT")
    weights = [1.0 if weight is None else weight for weight in stated]
    for part, weight in zip(parts, weights, strict=True):
        if not 0.0 < weight <= LARGEST:
            raise DataError(
                f"the weight of {part.data} is {weight}. It must be above 0 and at most {LARGEST}. Or leave it out"
            )
    return weights


def _split(source: EpisodeSource, *, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episodes. Record some, or check the folder and the split")
    try:
        return split_episodes(len(source.lengths), held_out=held_out, seed=seed)
    except ValueError as error:
        raise DataError(f"{source.name}: {error}") from error


def _embodiment_names(described: MixtureFile, sources: Sequence[EpisodeSource]) -> list[str | None]:
    """Return the name of each data set's embodiment. None for all where they have one action spec."""
    names = [part.embodiment for part in described.parts]
    if described.heads == "separate":
        return [source.name if name is None else name for source, name in zip(sources, names, strict=True)]
    if named := [name for name in names if name is not None]:
        cure = 'Set heads = "separate", or leave the name out'
        raise DataError(f'the mixture names the embodiment {named[0]!r} and has heads = "one". {cure}')
    return names


def _with_widest_bounds(sources: Sequence[EpisodeSource], embodiments: Sequence[str | None]) -> list[EpisodeSource]:
    """Return the sources with the widest bounds of their embodiment, if its specs differ in nothing else."""
    specs: dict[str | None, list[ActionSpec]] = {}
    for source, name in zip(sources, embodiments, strict=True):
        specs.setdefault(name, []).append(source.action_spec)
    widest = {name: _widest(group) for name, group in specs.items()}
    return [with_spec(s, widest[name] or s.action_spec) for s, name in zip(sources, embodiments, strict=True)]


def _widest(specs: Sequence[ActionSpec]) -> ActionSpec | None:
    """Return the spec with the widest bounds. None for specs of which joining reports another difference."""
    if len({spec.size for spec in specs}) > 1:
        return None
    low, high = np.min([spec.low for spec in specs], axis=0), np.max([spec.high for spec in specs], axis=0)
    widest, *others = (spec_with_bounds(spec, low, high) for spec in specs)
    return None if any(spec != widest for spec in others) else widest
