"""The figures of an offline evaluation: errors, confusion near the diagonal, reliability, attention over images."""

from __future__ import annotations

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.envs.base import Image
from rt1.evaluate.scores import Reliability
from rt1.report.svg import BOUND, INKS, panel, percent_tick, share_bars

NEAR = 10
"""Bins on either side of the diagonal that have a bar of their own."""
_BLOCKS = 32  # rows and columns of a confusion matrix at most
_FEWEST = 5  # rows and columns at least: a lone token should not fill the figure
_BARS = 41
_USED = 0.99  # share of the tokens or errors that decides what range is shown


def near_diagonal(counts: NDArray[np.int64]) -> Markup:
    """Draw the share of tokens by the bins between prediction and record. The outermost bars hold all others.

    ``counts`` (2 V - 1,): how often predicted minus recorded token is -(V - 1) .. V - 1.
    """
    offsets, heights = _gathered(counts, NEAR + 1)
    inks = ["policy" if offset == 0 else "replay" if abs(offset) <= NEAR else "swapped" for offset in offsets]
    with panel("share of the tokens by bins off", x="predicted less recorded, bins") as (axes, svg):
        share_bars(axes, offsets, heights / counts.sum(), width=1.0, inks=inks)
        at_most, at_least = "\N{LESS-THAN OR EQUAL TO}", "\N{GREATER-THAN OR EQUAL TO}"
        far = NEAR + 1
        axes.set_xticks((-far, -5, 0, 5, far), [f"{at_most}-{far}", "-5", "0", "5", f"{at_least}{far}"])
    return svg()


def error_histogram(name: str, counts: NDArray[np.int64], *, bin_width: float) -> Markup:
    """Draw the share of steps by error in physical units. The outermost bars hold all others.

    ``counts`` are those of :func:`near_diagonal` for this dimension, ``bin_width`` is in physical units.
    """
    reach = _reach(counts)
    per_bar = max(1, -(-(2 * reach + 1) // _BARS))
    per_bar += per_bar % 2 == 0  # odd, so that the middle bar stands on 0
    bars = -(-(reach - per_bar // 2) // per_bar)
    offsets, heights = _gathered(counts, bars * per_bar + per_bar // 2)
    sums = heights.reshape(-1, per_bar).sum(axis=1) / counts.sum()
    centres = offsets.reshape(-1, per_bar).mean(axis=1) * bin_width
    with panel(f"{name}: share of the steps by error", x="predicted less recorded") as (axes, svg):
        share_bars(axes, centres, sums, width=per_bar * bin_width)
        axes.axvline(0, **BOUND)
        axes.locator_params(axis="x", nbins=5)
    return svg()


def confusion(name: str, counts_VV: NDArray[np.int64], *, choices: int = 0) -> Markup:
    """Draw the confusion matrix of a dimension, cropped to the range of 99 % of its tokens.

    Each row is shaded by its own shares: no color is never, full color always.

    Args:
        name: of the dimension.
        counts_VV: how often a recorded token (row) was predicted as which (column).
        choices: of a discrete dimension, 0 for a continuous one. The column of that number holds all predicted tokens
            that are no choice.
    """
    if choices:
        counts_VV, first, last = _folded(counts_VV, choices), 0, choices
    else:
        first, last = _crop(counts_VV)
        last = max(last, min(len(counts_VV) - 1, first + _FEWEST - 1))
        first = min(first, max(0, last - _FEWEST + 1))
    per_block = -(-(last - first + 1) // _BLOCKS)
    starts = np.arange(0, last - first + 1, per_block)
    blocks = len(starts)
    inner_VV = counts_VV[first : last + 1, first : last + 1]
    sums = np.add.reduceat(np.add.reduceat(inner_VV, starts, axis=0), starts, axis=1)
    shares = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1)
    with panel(f"{name}: predicted by recorded token", x="predicted token", left=0.2, square=True) as (axes, svg):
        edge = (first - 0.5, first - 0.5 + blocks * per_block)
        axes.plot(edge, edge, color=INKS["ink"], linewidth=0.6, linestyle=":")
        shade = np.zeros((blocks, blocks, 4))
        shade[..., :3] = np.array([0x2A, 0x8F, 0xD0]) / 255  # with its own alpha, so it shows on light and dark pages
        shade[..., 3] = np.sqrt(shares)  # rare ones must be seen
        axes.imshow(shade, origin="lower", extent=(*edge, *edge), interpolation="nearest", zorder=3)
        axes.set_ylabel("recorded token")
        axes.grid(visible=False)
        axes.locator_params(integer=True, nbins=5)
    return svg()


def reliability_curve(reliability: Reliability) -> Markup:
    """Draw accuracy over confidence, with the diagonal of a perfectly calibrated network."""
    filled = reliability.count > 0
    with panel("accuracy by confidence", x="confidence") as (axes, svg):
        axes.plot((0, 1), (0, 1), **BOUND)
        axes.plot(
            reliability.confidence[filled], reliability.accuracy[filled], "o-", color=INKS["policy"], markersize=3.5
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.tick_params(axis="x", pad=6)  # clear of the 0 % next to it
        axes.xaxis.set_major_formatter(percent_tick)
        axes.yaxis.set_major_formatter(percent_tick)
    return svg()


def confidence_histogram(reliability: Reliability) -> Markup:
    """Draw the share of the tokens by confidence."""
    shares = reliability.count / reliability.count.sum()
    width = 1 / len(shares)
    with panel("share of the tokens by confidence", x="confidence") as (axes, svg):
        share_bars(axes, (np.arange(len(shares)) + 0.5) * width, shares, width=width)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(percent_tick)
    return svg()


def attention_overlay(image: Image, map_RC: FloatArray, *, width: int) -> Image:
    """Return a uint8 RGB image, ``width`` pixels wide, that is bright where a TokenLearner map (rows, columns) attends.

    The brightest position is the map's largest weight, independent of its size.
    """
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
    weight = cv2.resize(map_RC / map_RC.max(), (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    warm = np.array((255.0, 170.0, 30.0))
    shown = small * (0.4 + 0.4 * weight) + 0.4 * weight * warm
    return np.asarray(np.clip(shown, 0, 255), np.uint8)


def _gathered(counts: NDArray[np.int64], reach: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the offsets -reach..reach and their counts, the outermost with everything beyond them."""
    middle = len(counts) // 2
    places = np.clip(np.arange(len(counts)) - middle, -reach, reach)
    offsets = np.arange(-reach, reach + 1)
    return offsets, np.bincount(places + reach, weights=counts, minlength=len(offsets)).astype(np.int64)


def _reach(counts: NDArray[np.int64]) -> int:
    """Return the distance from the middle within which nearly all counts lie, at least 5."""
    middle = len(counts) // 2
    by_distance = counts[middle:].copy()
    by_distance[1:] += counts[:middle][::-1]
    return max(5, int(np.searchsorted(by_distance.cumsum(), _USED * counts.sum())))


def _folded(counts_VV: NDArray[np.int64], choices: int) -> NDArray[np.int64]:
    """Return the counts of the choices, (choices + 1, choices + 1), what is no choice in the last row and column."""
    places = np.minimum(np.arange(len(counts_VV)), choices)
    folded = np.zeros((choices + 1, choices + 1), dtype=np.int64)
    np.add.at(folded, (places[:, None], places[None]), counts_VV)
    return folded


def _crop(counts_VV: NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and the last token of the range in which nearly all recorded and predicted tokens lie."""
    spare = (1 - _USED) / 2
    firsts, lasts = [], []
    for counts in (counts_VV.sum(axis=0), counts_VV.sum(axis=1)):
        share = counts.cumsum() / counts.sum()
        firsts.append(int(np.searchsorted(share, spare, side="right")))
        lasts.append(int(np.searchsorted(share, 1 - spare)))
    return min(firsts), max(lasts)
