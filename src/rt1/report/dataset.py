"""What is in a data set as one self-contained HTML page: histograms against the bounds, images, instructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from markupsafe import Markup

from rt1.common.files import write_text
from rt1.data.survey import ActionSurvey, DataSurvey, ShownEpisode
from rt1.report import dataset_figures
from rt1.report.dataset_notes import BGR_MARGIN, BGR_SHARE, notes, sampling
from rt1.report.html import render, thumbnail
from rt1.report.svg import percent

_SENTENCES = 200
_IMAGE_WIDTH = 320


def write_page(path: Path, survey: DataSurvey, shown: ShownEpisode, *, command: str) -> Path:
    """Write the page, replacing an older one.

    Returns:
        ``path``. The page needs no network and no other file.

    Raises:
        SaveError: the file cannot be written; the older one is untouched.
        ModuleNotFoundError: matplotlib is not installed.
    """
    page = render(
        "dataset.html",
        title=f"Data set {survey.name}",
        subtitle="; ".join(sampling(survey)),
        survey=survey,
        shown=shown,
        notes=notes(survey),
        histograms=_histograms(survey.actions),
        outside=[f"{percent(float(share))} outside" for share in survey.actions.outside],
        images=[
            (thumbnail(image, _IMAGE_WIDTH, 85), f"step {step}")
            for image, step in zip(shown.images, shown.steps, strict=True)
        ],
        traces=_traces(survey.actions, shown),
        most_sentences=_SENTENCES,
        length_histogram=dataset_figures.length_histogram(survey.lengths),
        sampling=[*sampling(survey), _color_test(survey)],
        command=command,
    )
    write_text(path, page)
    return path


def _histograms(actions: ActionSurvey) -> dict[str, Markup]:
    spec = actions.spec
    return {
        name: dataset_figures.action_histogram(
            name,
            actions.values[:, index],
            low=float(spec.low[index]),
            high=float(spec.high[index]),
            choices=int(spec.discrete_choices[index]),
        )
        for index, name in enumerate(spec.dimension_names)
    }


def _traces(actions: ActionSurvey, shown: ShownEpisode) -> dict[str, Markup]:
    spec = actions.spec
    return {
        name: dataset_figures.episode_trace(
            name,
            shown.actions[:, index],
            low=float(spec.low[index]),
            high=float(spec.high[index]),
            steps=shown.steps,
        )
        for index, name in enumerate(spec.dimension_names)
    }


def _color_test(survey: DataSurvey) -> str:
    blue = float(np.mean(survey.images.blue_minus_red > BGR_MARGIN))
    return (
        f"colors: an image counts as blue where the mean of blue exceeds that of red by more than {BGR_MARGIN:g} of "
        f"255; {percent(blue)} are, and from {percent(BGR_SHARE)} on an exchange of red and blue is suspected. A scene "
        f"that is truly blue raises a false alarm, and a grey one hides an exchange"
    )
