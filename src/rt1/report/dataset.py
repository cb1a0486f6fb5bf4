"""What is in a data set as one self-contained HTML page: histograms against the bounds, images, instructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.common.files import write_text
from rt1.data.compare import Comparison
from rt1.data.survey import ActionSurvey, DataSurvey, ShownEpisode
from rt1.report.dataset_checks import BGR_MARGIN, BGR_SHARE, Finding, sampling
from rt1.report.html import render, thumbnail
from rt1.report.svg import BOUND, INKS, panel, percent, percent_tick, share_bars

_SENTENCES = 200
_IMAGE_WIDTH = 320
_INSIDE = 40  # bars between the bounds
_BEYOND = 10  # bars at most on either side of them
_VISIBLE = 0.02  # of the tallest bar: a single value far out must be seen


def write_page(
    path: Path,
    survey: DataSurvey,
    shown: ShownEpisode,
    *,
    findings: Sequence[Finding],
    comparison: Comparison | None = None,
    command: str,
) -> Path:
    """Write the page, replacing an older one, and return ``path``.

    Raises:
        SaveError: the file cannot be written. The older one is unchanged.
        ModuleNotFoundError: matplotlib is not installed.
    """
    page = render(
        "dataset.html",
        title=f"Data set {survey.name}",
        subtitle=". ".join(sampling(survey)),
        survey=survey,
        shown=shown,
        findings=findings,
        comparison=None if comparison is None else _comparison(comparison),
        **_action_figures(survey.actions, shown),
        outside=[f"{percent(float(share))} outside" for share in survey.actions.outside],
        images=[
            (thumbnail(image, _IMAGE_WIDTH, 85), f"step {step}")
            for image, step in zip(shown.images, shown.steps, strict=True)
        ],
        most_sentences=_SENTENCES,
        length_histogram=length_histogram(survey.lengths),
        sampling=[*sampling(survey), _color_test(survey)],
        command=command,
    )
    write_text(path, page)
    return path


def _comparison(comparison: Comparison) -> dict[str, object]:
    """Return the images and histograms of two data sets."""
    sets = []
    for data, color in ((comparison.one, "policy"), (comparison.other, "swapped")):
        means = (("mean image", data.mean), ("mean first image", data.first_mean))
        images = [(thumbnail(np.rint(mean).astype(np.uint8), _IMAGE_WIDTH, 95), name) for name, mean in means]
        images += [(thumbnail(image, _IMAGE_WIDTH, 85), "first image") for image in data.first_images]
        sets.append({"name": data.name, "color": color, "images": images})
    names = comparison.common_names
    histograms = {
        name: two_histograms(name, comparison.one.values(name), comparison.other.values(name)) for name in names
    }
    return {"sets": sets, "histograms": histograms}


def _action_figures(actions: ActionSurvey, shown: ShownEpisode) -> dict[str, dict[str, Markup]]:
    """Return the histogram and the trace of each dimension."""
    histograms, traces = {}, {}
    for index, name in enumerate(actions.spec.dimension_names):
        low, high = float(actions.spec.low[index]), float(actions.spec.high[index])
        choices = int(actions.spec.discrete_choices[index])
        histograms[name] = action_histogram(name, actions.values[:, index], low=low, high=high, choices=choices)
        traces[name] = episode_trace(name, shown.actions[:, index], low=low, high=high, steps=shown.steps)
    return {"histograms": histograms, "traces": traces}


def _color_test(survey: DataSurvey) -> str:
    blue = float(np.mean(survey.images.blue_minus_red > BGR_MARGIN))
    return (
        f"colors: an image counts as blue where the mean of blue exceeds that of red by more than {BGR_MARGIN:g} of "
        f"255. {percent(blue)} are, and from {percent(BGR_SHARE)} on an exchange of red and blue is suspected. A scene "
        f"that is truly blue raises a false alarm, and a grey one hides an exchange"
    )


def action_histogram(name: str, values: FloatArray, *, low: float, high: float, choices: int = 0) -> Markup:
    """Draw the distribution of a dimension's values as ``<svg>``: bounds dashed, values outside in another color.

    The outermost bars hold everything farther out.

    Args:
        name: of the dimension.
        values: float32 (S,), finite, physical units.
        low: lower bound, 0 for a discrete dimension.
        high: upper bound, ``choices - 1`` for a discrete dimension.
        choices: of a discrete dimension, 0 for a continuous one.
    """
    if choices:
        low, high = low - 0.5, high + 0.5
    inside = choices or _INSIDE
    width = (high - low) / inside
    numbers = _bar_numbers(values, low, high, inside)
    bars, counts = np.unique(numbers, return_counts=True)
    shares = counts / len(values)
    with panel(f"{name}: share of the steps by value", x="value") as (axes, svg):
        heights = np.maximum(shares, _VISIBLE * shares.max())
        inks = ["policy" if 0 <= bar < inside else "swapped" for bar in bars]
        share_bars(axes, low + (bars + 0.5) * width, heights, width=width, inks=inks)
        for bound in (low, high):
            axes.axvline(bound, **BOUND)
        margin = 0.5 * width
        axes.set_xlim(low + min(0, bars[0]) * width - margin, low + (max(inside, bars[-1] + 1)) * width + margin)
        axes.locator_params(axis="x", nbins=5, integer=choices > 0)
    return svg()


def two_histograms(name: str, values: FloatArray, others: FloatArray) -> Markup:
    """Draw the distributions of a dimension in two data sets, each float32 (S,), over each other, as ``<svg>``."""
    low, high = np.quantile(np.concatenate([values, others]), [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, _INSIDE + 1)
    with panel(f"{name} in both data sets: share of the steps by value", x="value") as (axes, svg):
        for data, ink in ((values, "policy"), (others, "swapped")):
            counts, _ = np.histogram(np.clip(data, edges[0], edges[-1]), edges)
            axes.stairs(counts / len(data), edges, color=INKS[ink], linewidth=1.6)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.locator_params(nbins=5)
        axes.yaxis.set_major_formatter(percent_tick)
    return svg()


def length_histogram(lengths: NDArray[np.int64]) -> Markup:
    """Draw how many episodes have which number of steps (E,), as ``<svg>``."""
    first, last = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(last - first + 1) // 40))
    bars, counts = np.unique((lengths - first) // width, return_counts=True)
    with panel("episodes by number of steps", x="steps") as (axes, svg):
        centres = first + bars * width + (width - 1) / 2
        axes.bar(centres, counts, width=0.9 * width, color=INKS["policy"])
        spare = max(width, 6 - (last - first))  # a lone bar should not fill the figure
        axes.set_xlim(first - spare, last + spare)
        axes.locator_params(integer=True)
        axes.grid(visible=False, axis="x")
    return svg()


def episode_trace(name: str, values: FloatArray, *, low: float, high: float, steps: Sequence[int]) -> Markup:
    """Draw a dimension, float32 (S,), over the steps of an episode: bounds dashed, a dot at each of ``steps``."""
    with panel(f"{name} over the steps", x="step") as (axes, svg):
        axes.plot(values, "-", color=INKS["policy"], linewidth=1.4)
        axes.plot(steps, values[list(steps)], "o", color=INKS["policy"], markersize=3.5)
        for bound in (low, high):
            axes.axhline(bound, **BOUND)
        axes.locator_params(axis="y", nbins=5)
    return svg()


def _bar_numbers(values: FloatArray, low: float, high: float, inside: int) -> NDArray[np.int64]:
    """Return the number of each value's bar: 0..inside-1 within the bounds, which belong to it, others beyond."""
    numbers = np.floor((values.astype(np.float64) - low) / (high - low) * inside)
    # Rounding must not put a value on the wrong side of a bound.
    numbers = np.where(values < low, np.minimum(numbers, -1), np.maximum(numbers, 0))
    numbers = np.where(values > high, np.maximum(numbers, inside), np.minimum(numbers, inside - 1))
    return np.clip(numbers, -_BEYOND, inside + _BEYOND - 1).astype(np.int64)
