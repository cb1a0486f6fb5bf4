"""One recorded episode as a card of a page: predicted and recorded action per dimension, and its images."""

from __future__ import annotations

from typing import Any

import numpy as np

from rt1.evaluate.episode_trace import AttentionView, EpisodePlot
from rt1.report.html import thumbnail
from rt1.report.offline_figures import attention_overlay
from rt1.report.svg import action_plots, percent

_IMAGE_WIDTH, _MAP_WIDTH = 240, 120  # pixels


def episode_card(episode: EpisodePlot) -> dict[str, Any]:
    """Return the card of an episode: its title, a plot and a note for each dimension, its images with captions."""
    errors = np.abs(episode.recorded - episode.predicted).mean(axis=0)
    images = zip(episode.images, episode.steps, strict=True)
    return {
        "title": episode.title,
        "figures": action_plots(episode.dimension_names, episode.recorded, episode.predicted),
        "notes": [f"mean error {error:.3g}" for error in errors],
        "images": [(thumbnail(image, _IMAGE_WIDTH), f"step {step}") for image, step in images],
    }


def attention_card(episode: EpisodePlot) -> dict[str, Any]:
    """Return TokenLearner's maps over images of an episode: the title, and a row of images for each step."""
    return {"title": episode.title, "rows": [_attention(view) for view in episode.attention]}


def _attention(view: AttentionView) -> list[tuple[str, str]]:
    row = [(thumbnail(view.image, _MAP_WIDTH), f"step {view.step}")]
    for number, map_RC in enumerate(view.map_KRC, start=1):
        overlay = attention_overlay(view.image, map_RC, width=_MAP_WIDTH)
        row.append((thumbnail(overlay, _MAP_WIDTH), f"map {number}: {percent(float(map_RC.max()))}"))
    return row
