"""What is in a data set as one self-contained HTML page: histograms against the bounds, images, instructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from rt1.common.files import write_text
from rt1.data.compare import Comparison
from rt1.data.survey import ActionSurvey, DataSurvey, ShownEpisode
from rt1.report.dataset_checks import BGR_MARGIN, BGR_SHARE, Finding, sampling
from rt1.report.dataset_figures import action_histogram, episode_trace, length_histogram, two_histograms
from rt1.report.html import render, thumbnail
from rt1.report.svg import percent

_SENTENCES = 200
_IMAGE_WIDTH = 320


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
        SaveError: the file cannot be written; the older one is unchanged.
        ModuleNotFoundError: matplotlib is not installed.
    """
    page = render(
        "dataset.html",
        title=f"Data set {survey.name}",
        subtitle="; ".join(sampling(survey)),
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
        f"255; {percent(blue)} are, and from {percent(BGR_SHARE)} on an exchange of red and blue is suspected. A scene "
        f"that is truly blue raises a false alarm, and a grey one hides an exchange"
    )
