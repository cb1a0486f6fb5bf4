"""The figures of a data set's page: histograms of actions and lengths, the actions of one episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.report.svg import INKS, panel, share_axis

_INSIDE = 40  # bars between the bounds
_BEYOND = 10  # bars at most on either side of them
_VISIBLE = 0.02  # of the tallest bar: a single value far out must be seen


def action_histogram(name: str, values: FloatArray, *, low: float, high: float, choices: int = 0) -> Markup:
    """Draw the distribution of a dimension's values as ``<svg>``: bounds dashed, values outside in another color.

    The outermost bars hold everything farther out.

    Args:
        name: of the dimension.
        values: float32 (S,), finite, physical units.
        low: lower bound; 0 for a discrete dimension.
        high: upper bound; ``choices - 1`` for a discrete dimension.
        choices: of a discrete dimension; 0 for a continuous one.
    """
    if choices:
        low, high = low - 0.5, high + 0.5
    inside = choices or _INSIDE
    width = (high - low) / inside
    numbers = _bar_numbers(values, low, high, inside)
    bars, counts = np.unique(numbers, return_counts=True)
    shares = counts / len(values)
    with panel(f"{name}: share of the steps by value") as (axes, svg):
        heights = np.maximum(shares, _VISIBLE * shares.max())
        colors = [INKS["policy" if 0 <= bar < inside else "swapped"] for bar in bars]
        axes.bar(low + (bars + 0.5) * width, heights, width=0.9 * width, color=colors)
        for bound in (low, high):
            axes.axvline(bound, color=INKS["ink"], linewidth=0.8, linestyle="--")
        margin = 0.5 * width
        axes.set_xlim(low + min(0, bars[0]) * width - margin, low + (max(inside, bars[-1] + 1)) * width + margin)
        share_axis(axes, float(heights.max()))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("value")
        axes.locator_params(axis="x", nbins=5, integer=choices > 0)
    return svg()


def two_histograms(name: str, values: FloatArray, others: FloatArray) -> Markup:
    """Draw the distributions of a dimension in two data sets, each float32 (S,), over each other, as ``<svg>``."""
    both = np.concatenate([values, others])
    low, high = np.quantile(both, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, _INSIDE + 1)
    with panel(f"{name} in both data sets: share of the steps by value") as (axes, svg):
        top = 0.0
        for data, ink in ((values, "policy"), (others, "swapped")):
            counts, _ = np.histogram(np.clip(data, edges[0], edges[-1]), edges)
            shares = counts / len(data)
            axes.stairs(shares, edges, color=INKS[ink], linewidth=1.6)
            top = max(top, float(shares.max()))
        share_axis(axes, top)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("value")
        axes.locator_params(axis="x", nbins=5)
    return svg()


def length_histogram(lengths: NDArray[np.int64]) -> Markup:
    """Draw how many episodes have which number of steps (E,), as ``<svg>``."""
    first, last = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(last - first + 1) // 40))
    bars, counts = np.unique((lengths - first) // width, return_counts=True)
    with panel("episodes by number of steps") as (axes, svg):
        centres = first + bars * width + (width - 1) / 2
        axes.bar(centres, counts, width=0.9 * width, color=INKS["policy"])
        spare = max(width, 6 - (last - first))  # a lone bar should not fill the figure
        axes.set_xlim(first - spare, last + spare)
        axes.locator_params(integer=True)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("steps")
    return svg()


def episode_trace(name: str, values: FloatArray, *, low: float, high: float, steps: Sequence[int]) -> Markup:
    """Draw a dimension, float32 (S,), over the steps of an episode: bounds dashed, a dot at each of ``steps``."""
    with panel(f"{name} over the steps") as (axes, svg):
        axes.plot(values, "-", color=INKS["policy"], linewidth=1.4)
        axes.plot(steps, values[list(steps)], "o", color=INKS["policy"], markersize=3.5)
        for bound in (low, high):
            axes.axhline(bound, color=INKS["ink"], linewidth=0.8, linestyle="--")
        axes.set_xlabel("step")
        axes.locator_params(axis="x", integer=True)
        axes.locator_params(axis="y", nbins=5)
    return svg()


def _bar_numbers(values: FloatArray, low: float, high: float, inside: int) -> NDArray[np.int64]:
    """Return the number of each value's bar: 0..inside-1 within the bounds, which belong to it, others beyond."""
    numbers = np.floor((values.astype(np.float64) - low) / (high - low) * inside)
    # Rounding must not put a value on the wrong side of a bound.
    numbers = np.where(values < low, np.minimum(numbers, -1), np.maximum(numbers, 0))
    numbers = np.where(values > high, np.maximum(numbers, inside), np.minimum(numbers, inside - 1))
    return np.clip(numbers, -_BEYOND, inside + _BEYOND - 1).astype(np.int64)
