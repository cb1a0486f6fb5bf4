"""Two data sets side by side: images that are likely turned or swapped in color, actions likely opposite in sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.data.sources.base import EpisodeSource, locate
from rt1.data.sources.decoding import decoded_images
from rt1.data.survey import spread
from rt1.envs.base import Image

Difference = tuple[str, str]
"""Check and message."""
Mean = NDArray[np.float64]
"""Mean image (32, 32, 3), RGB, 0..255."""

_SIZE = 32
_EPISODES = 400  # whose actions are read
_PARTS = 10  # of an episode, for the course of a dimension over it
_QUANTILES = np.linspace(0.01, 0.99, 50)

TURNS: Mapping[str, Callable[[Mean], Mean]] = {
    "turned by 180 degrees": lambda mean: mean[::-1, ::-1],
    "flipped left to right": lambda mean: mean[:, ::-1],
    "flipped upside down": lambda mean: mean[::-1],
    "turned by 90 degrees": np.rot90,
    "turned by 270 degrees": lambda mean: np.rot90(mean, 3),
}
"""What may have happened to images, and how it is undone or repeated."""


@dataclass(frozen=True, kw_only=True)
class ComparedSet:
    """What is compared of a data set."""

    name: str
    mean: Mean
    first_mean: Mean
    """Mean of the first images of episodes, which look more alike than later ones."""
    first_images: tuple[Image, ...]
    episodes: tuple[FloatArray, ...]
    """Finite actions (S, A) of evenly spread episodes, physical units."""
    names: tuple[str, ...]
    """Name of each dimension."""

    def values(self, name: str) -> FloatArray:
        """Return all values of a dimension."""
        return np.concatenate(self.episodes)[:, self.names.index(name)]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is likely different."""

    one: ComparedSet
    other: ComparedSet
    differences: tuple[Difference, ...]

    @property
    def common_names(self) -> tuple[str, ...]:
        """Dimensions that both have."""
        return tuple(name for name in self.one.names if name in self.other.names)


def compare(source: EpisodeSource, other: EpisodeSource, *, images: int = 64, actions: bool = True) -> Comparison:
    """Return two data sets side by side, from ``images`` images and as many first images of each.

    Dimensions are matched by name, or by their place where both have as many and no name is common. Without
    ``actions`` only the images are compared.
    """
    sets = [_compared(one, images) for one in (source, other)]
    if sets[0].name == sets[1].name:
        sets[1] = replace(sets[1], name=f"{sets[1].name} (other)")
    sets[1] = replace(sets[1], names=matched_names(sets[0].names, sets[1].names) if actions else ())
    one, two = sets
    differences = _image_differences(one, two)
    if actions:
        differences += name_differences(one.names, two.names)
    for name in (name for name in one.names if name in two.names):
        differences += _dimension_differences(name, one, two)
    return Comparison(one=one, other=two, differences=tuple(differences))


def _compared(source: EpisodeSource, images: int) -> ComparedSet:
    ends = np.cumsum(source.lengths)
    places = [tuple(map(int, locate(ends, step))) for step in spread(int(ends[-1]), images)]
    firsts = [decoded_images(source, int(e), 0, 1)[0] for e in spread(len(source.lengths), images)]
    return ComparedSet(
        name=source.name,
        mean=_mean([decoded_images(source, episode, step, step + 1)[0] for episode, step in places]),
        first_mean=_mean(firsts),
        first_images=tuple(firsts[place] for place in spread(len(firsts), 6)),
        episodes=finite_actions(source),
        names=source.action_spec.dimension_names,
    )


def _mean(images: list[Image]) -> Mean:
    small = [cv2.resize(np.ascontiguousarray(image), (_SIZE, _SIZE), interpolation=cv2.INTER_AREA) for image in images]
    return np.mean(np.stack(small).astype(np.float64), axis=0)


def _image_differences(one: ComparedSet, other: ComparedSet) -> list[Difference]:
    def likeness(turn: Callable[[Mean], Mean]) -> NDArray[np.float64]:
        pairs = ((one.mean, other.mean), (one.first_mean, other.first_mean))
        return np.array([_correlation(a.mean(axis=2), turn(b).mean(axis=2)) for a, b in pairs])

    differences = []
    same = likeness(lambda mean: mean)
    scores = {name: likeness(turn) for name, turn in TURNS.items()}
    best = max(scores, key=lambda name: float(scores[name].mean()))
    turn: Callable[[Mean], Mean] = lambda mean: mean  # noqa: E731
    # Most of a symmetric scene stays alike after a flip: what counts is how much of the rest the turn explains.
    explains = (scores[best] > 0.5) & (1 - scores[best] < 0.5 * (1 - same)) & (scores[best] - same > 0.05)
    if explains.all():
        message = (
            f"the images of {other.name} are likely {best} against those of {one.name}: the mean images correlate by "
            f"{scores[best].mean():.2f} after that, by {same.mean():.2f} as they are"
        )
        differences.append(("flipped-images", message))
        turn = TURNS[best]
    turned = turn(other.first_mean)
    as_is, swapped = (float(np.abs(_colors(one.first_mean) - _colors(b)).mean()) for b in (turned, turned[..., ::-1]))
    if as_is > 3 and swapped < 0.5 * as_is:
        message = (
            f"red and blue of {other.name} are likely exchanged against {one.name}: the colors of the mean images "
            f"differ by {swapped:.1f} of 255 after an exchange, by {as_is:.1f} as they are"
        )
        differences.append(("swapped-colors", message))
    return differences


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _colors(mean: Mean) -> NDArray[np.float64]:
    """Return each channel less the brightness, which differs between cameras."""
    return mean - mean.mean(axis=2, keepdims=True)


def finite_actions(source: EpisodeSource) -> tuple[FloatArray, ...]:
    """Return the finite actions (S, A) of evenly spread episodes, physical units."""
    numbers = spread(len(source.lengths), _EPISODES).tolist()
    episodes = (source.actions(episode, 0, int(source.lengths[episode])) for episode in numbers)
    return tuple(actions[np.isfinite(actions).all(axis=1)] for actions in episodes)


def matched_names(names: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``others``, or ``names`` where both are as many and none is common: dimensions match by their place."""
    return others if set(names) & set(others) or len(names) != len(others) else names


def name_differences(names: tuple[str, ...], others: tuple[str, ...]) -> list[Difference]:
    """Return that the names of the dimensions differ, if they do."""
    if names == others:
        return []
    return [("other-dimensions", f"the actions are {', '.join(names)} and {', '.join(others)}")]


def _dimension_differences(name: str, one: ComparedSet, other: ComparedSet) -> list[Difference]:
    a, b = one.values(name), other.values(name)
    wide, narrow = sorted((float(a.std()), float(b.std())), reverse=True)
    if narrow == 0:
        return []
    if wide > 5 * narrow:
        spreads = f"{a.std():.3g} and {b.std():.3g}"
        message = f"{name}: the values spread {wide / narrow:.1f} times as far ({spreads}). Check the unit"
        return [("other-scale", message)]
    middle = float(a.min()) + float(a.max())
    ways = {"times -1": 0.0, f"{middle:g} minus the value": middle}
    for way, offset in ways.items():
        if _is_opposite(name, one, other, offset, scale=wide):
            message = f"{name}: likely opposite: the values of {other.name} fit those of {one.name} better ({way})"
            return [("opposite-action", message)]
    return []


def _is_opposite(name: str, one: ComparedSet, other: ComparedSet, offset: float, *, scale: float) -> bool:
    """Return whether ``offset - values`` fits better, in all episodes and in each half of them."""
    count = min(len(one.episodes), len(other.episodes))
    least = scale * (0.1 + 0.6 / np.sqrt(count))  # the mean course of few episodes is mostly chance
    cuts = [slice(None)]
    if count >= 4:
        cuts += [slice(0, None, 2), slice(1, None, 2)]
    for cut in cuts:
        a, b = (_profile(data, name, cut) for data in (one, other))
        turned = np.concatenate([offset - b[: len(_QUANTILES)][::-1], offset - b[len(_QUANTILES) :]])
        same, opposite = (float(np.abs(a - profile).mean()) for profile in (b, turned))
        if not (opposite < 0.6 * same and same - opposite > least):
            return False
    return True


def _profile(data: ComparedSet, name: str, cut: slice) -> NDArray[np.float64]:
    """Return quantiles of a dimension's values, and its mean course over the episodes, as often as these."""
    index = data.names.index(name)
    episodes = [actions[:, index].astype(np.float64) for actions in data.episodes[cut] if len(actions)]
    courses = [np.interp(np.linspace(0, 1, _PARTS), np.linspace(0, 1, len(values)), values) for values in episodes]
    course = np.repeat(np.mean(courses, axis=0), len(_QUANTILES) // _PARTS)
    return np.concatenate([np.quantile(np.concatenate(episodes), _QUANTILES), course])
