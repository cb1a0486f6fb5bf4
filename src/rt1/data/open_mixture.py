"""Several data sets opened by the command line's words, and split into what is trained on and what is held out.

Two calls lead from the words to what a loader takes::

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

from rt1.actions import ActionPart, ActionSpec, Continuous, FloatArray
from rt1.common.border import reading
from rt1.common.json_config import LARGEST, from_json
from rt1.common.json_files import read_object
from rt1.data.open_data import DataOptions, open_data
from rt1.data.pipeline.mixture import Mixture, Part, mixed
from rt1.data.pipeline.windows import Clips, Windows, split_episodes
from rt1.data.rlds.open_x import OPEN_X
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import JoinedSource, MappedSource
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
    """Its folder; relative to the mixture file."""
    weight: float | None = None
    """Its share of the samples, relative to the others' weights; of an Open X data set by default that of the table."""
    embodiment: str | None = None
    """With ``heads = "separate"``: name of the robot it was recorded with; the data set's name if not given."""


@dataclass(frozen=True, kw_only=True)
class MixtureFile:
    """What a mixture file holds."""

    parts: tuple[MixturePart, ...]
    """The data sets, ``[[parts]]`` in TOML."""
    bounds: Literal["same", "widest"] = "same"
    """``same``: data sets whose actions have other bounds are refused. ``widest``: all get bounds that hold each
    one's; the actions' dimensions, units and number of bins must be the same."""
    heads: Literal["one", "separate"] = "one"
    """``one``: all data sets have one action spec. ``separate``: each embodiment has its own, and a head of the network
    of its own; ``bounds`` is then for the data sets of one embodiment."""
    bins: int | None = None
    """Bins of all data sets' actions; None: as each has them, which must then be the same."""


@dataclass(frozen=True, kw_only=True)
class WeightedSource:
    """An opened data set and its share."""

    source: EpisodeSource
    """The episodes."""
    weight: float = 1.0
    """Its share of the samples, relative to the others' weights."""
    embodiment: str | None = None
    """Name of its embodiment, where they have several; see :class:`rt1.data.sources.concat.JoinedSource`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitData:
    """One source of all episodes, and which samples of it are for what; a loader takes both."""

    source: EpisodeSource
    """The episodes: the data set itself, or several joined."""
    train: Samples
    """Samples of the training episodes, by weight where there are several data sets."""
    held_out: Samples | None
    """Samples of the held-out episodes, likewise; None where none are held out."""
    held_out_episodes: NDArray[np.int64]
    """Numbers of the held-out episodes in ``source``, ascending."""


def open_mixture(words: Sequence[str | Path], options: DataOptions) -> tuple[WeightedSource, ...]:
    """Open what ``--data`` names: ``FOLDER``, several of them, ``FOLDER=WEIGHT``, or one mixture file.

    Args:
        words: folders, each with its weight behind ``=`` if it has one; or one ``.toml`` or ``.json`` file with the
            fields of :class:`MixtureFile`, where every data set has options of its own.
        options: how to read the folders, the same for all; must be the defaults beside a mixture file.

    Returns:
        The data sets in the order named, all with one action spec, or with the names of their embodiments.

    Raises:
        DataError: a folder or file that cannot be read, a mixture file with an unknown setting or a value of another
            type, weights that are given for some only, or data sets whose action specs differ.
    """
    described = _described(words, options)
    weights = _weights(described.parts)
    sources = [open_data(Path(part.data), _options(part)) for part in described.parts]
    if described.bins is not None:
        with reading(words[0], cure="mend it there"):
            specs = [replace(source.action_spec, bins=described.bins) for source in sources]
        sources = [MappedSource(s, spec, _unchanged) for s, spec in zip(sources, specs, strict=True)]
    names = _embodiment_names(described, sources)
    if described.bounds == "widest":
        for name in set(names):
            chosen = [place for place, own in enumerate(names) if own == name]
            for place, source in zip(chosen, _with_widest_bounds([sources[p] for p in chosen]), strict=True):
                sources[place] = source
    opened = tuple(
        WeightedSource(source=s, weight=w, embodiment=n) for s, w, n in zip(sources, weights, names, strict=True)
    )
    joined(opened)  # refuses action specs that differ
    return opened


def joined(sources: Sequence[WeightedSource]) -> EpisodeSource:
    """Return all episodes as one source: the one there is, or several joined."""
    if len(sources) == 1:
        return sources[0].source
    return JoinedSource([each.source for each in sources], embodiments=[each.embodiment for each in sources])


def split_sources(
    sources: Sequence[WeightedSource],
    *,
    cut: CutEpisodes,
    held_out: float,
    seed: int,
) -> SplitData:
    """Hold out the same share of every source's episodes, by whole episodes, and join what is left by weight.

    One source gives what it would give alone: itself, and windows or clips that are no mixture.

    Args:
        sources: the data sets.
        cut: makes the samples of episodes of one source.
        held_out: share of each source's episodes that is held out, in [0, 1).
        seed: seed of the choice; see :func:`rt1.data.pipeline.windows.split_episodes`.

    Raises:
        DataError: a source without episodes, or with too few to hold any out; action specs that differ.
    """
    splits = [_split(each.source, held_out=held_out, seed=seed) for each in sources]

    def samples(chosen: Sequence[NDArray[np.int64]], make: CutEpisodes) -> tuple[EpisodeSource, Samples]:
        cuts = [make(each.source.lengths, own) for each, own in zip(sources, chosen, strict=True)]
        if len(sources) == 1:
            return sources[0].source, cuts[0]
        return mixed(
            [
                Part(source=s.source, windows=c, weight=s.weight, embodiment=s.embodiment)
                for s, c in zip(sources, cuts, strict=True)
            ]
        )

    firsts = np.cumsum([0, *(len(each.source.lengths) for each in sources[:-1])])
    own_train, own_held_out = zip(*splits, strict=True)
    source, train = samples(own_train, cut)
    return SplitData(
        source=source,
        train=train,
        held_out=samples(own_held_out, cut)[1] if held_out else None,
        held_out_episodes=np.concatenate([own + first for own, first in zip(own_held_out, firsts, strict=True)]),
    )


def _described(words: Sequence[str | Path], options: DataOptions) -> MixtureFile:
    files = [Path(word) for word in words if Path(word).suffix in ENDINGS and not Path(word).is_dir()]
    if not files:
        return MixtureFile(parts=tuple(_of_word(str(word), options) for word in words))
    if len(words) > 1:
        raise DataError(f"{files[0]} is a mixture file, given beside others; give it alone, the others named in it")
    if changed := [f"--{f.name.replace('_', '-')}" for f in fields(options) if getattr(options, f.name) != f.default]:
        raise DataError(f"{', '.join(changed)} cannot be used beside {files[0]}: it has them for each data set")
    return _read(files[0])


def _of_word(word: str, options: DataOptions) -> MixturePart:
    folder, equals, weight = word.rpartition("=")
    own = {f.name: getattr(options, f.name) for f in fields(options)}
    if not word or (equals and not folder):
        raise DataError(f"data is {word!r}, which names no folder; give FOLDER or FOLDER=WEIGHT")
    if not equals or Path(word).exists():
        return MixturePart(data=word, **own)
    try:
        return MixturePart(data=folder, weight=float(weight), **own)
    except ValueError as error:
        raise DataError(f"the weight in {word} is {weight!r}; give FOLDER=WEIGHT with a number above 0") from error


def _read(path: Path) -> MixtureFile:
    with reading(path, cure="mend it there"):
        found = from_json(MixtureFile, read_object(path, cure="mend it there"), where=str(path))
        return replace(found, parts=tuple(replace(part, data=_folder(path, part.data)) for part in found.parts))


def _folder(path: Path, name: str) -> str:
    folder = path.parent / name
    folder.exists()  # raises for a name that no file can have
    return str(folder)


def _options(part: MixturePart) -> DataOptions:
    return DataOptions(**{f.name: getattr(part, f.name) for f in fields(DataOptions)})


def _weights(parts: Sequence[MixturePart]) -> list[float]:
    """Return each part's weight: as given, that of the Open X table, or all alike."""
    if not parts:
        raise DataError("no data set is named; give at least one folder")
    known = [OPEN_X[p.open_x].weight if p.weight is None and p.open_x in OPEN_X else p.weight for p in parts]
    without = [part.data for part, weight in zip(parts, known, strict=True) if weight is None]
    if without and len(without) < len(parts):
        raise DataError(f"{', '.join(without)} has no weight and others have; give every data set one: FOLDER=WEIGHT")
    weights = [1.0 if weight is None else weight for weight in known]
    for part, weight in zip(parts, weights, strict=True):
        if not 0.0 < weight <= LARGEST:
            raise DataError(
                f"the weight of {part.data} is {weight}; it must be above 0 and at most {LARGEST}; or leave it out"
            )
    return weights


def _split(source: EpisodeSource, *, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not len(source.lengths):
        raise DataError(f"{source.name} has no episodes; record some, or check the folder and the split")
    try:
        return split_episodes(len(source.lengths), held_out=held_out, seed=seed)
    except ValueError as error:
        raise DataError(f"{source.name}: {error}") from error


def _embodiment_names(described: MixtureFile, sources: Sequence[EpisodeSource]) -> list[str | None]:
    """Return the name of each data set's embodiment; None for all where they have one action spec."""
    if described.heads == "one":
        if named := [part.embodiment for part in described.parts if part.embodiment is not None]:
            raise DataError(
                f'the mixture names the embodiment {named[0]!r} and has heads = "one"; set heads = "separate", or '
                "leave the name out"
            )
        return [None] * len(sources)
    given = [part.embodiment for part in described.parts]
    return [source.name if name is None else name for source, name in zip(sources, given, strict=True)]


def _with_widest_bounds(sources: Sequence[EpisodeSource]) -> list[EpisodeSource]:
    """Give all sources the bounds that hold each one's, where their specs differ in nothing else."""
    specs = [source.action_spec for source in sources]
    if len({spec.size for spec in specs}) > 1:
        return list(sources)  # joining them says what differs
    low, high = np.min([spec.low for spec in specs], axis=0), np.max([spec.high for spec in specs], axis=0)
    widest = [_between(spec, low, high) for spec in specs]
    if any(spec != widest[0] for spec in widest):
        return list(sources)
    return [s if s.action_spec == widest[0] else MappedSource(s, widest[0], _unchanged) for s in sources]


def _between(spec: ActionSpec, low: FloatArray, high: FloatArray) -> ActionSpec:
    """Return a spec with its continuous parts between other bounds, each (A,)."""
    parts: list[ActionPart] = []
    first = 0
    for part in spec.parts:
        cut = slice(first, first := first + part.size)
        lows, highs = tuple(low[cut].tolist()), tuple(high[cut].tolist())
        parts.append(replace(part, low=lows, high=highs) if isinstance(part, Continuous) else part)
    return replace(spec, parts=tuple(parts))


def _unchanged(actions: FloatArray) -> FloatArray:
    return actions
