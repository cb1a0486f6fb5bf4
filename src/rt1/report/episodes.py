"""One recorded episode as a card of a page: predicted and recorded action per dimension, and the images below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from rt1.data.images import encode_jpeg
from rt1.evaluate.episode_plot import AttentionView, EpisodePlot
from rt1.evaluate.rollout import Image
from rt1.report import html as markup
from rt1.report import svg as plots
from rt1.report.offline_figures import attention_overlay

_IMAGE_WIDTH, _MAP_WIDTH = 240, 120  # pixels
_QUALITY = 80


def episode_cards(episodes: Sequence[EpisodePlot]) -> str:
    """Return the cards of some episodes with the key to their colours; empty if there are none."""
    if not episodes:
        return ""
    legend = markup.legend({"recorded": "recorded", "policy": "predicted (dashed)"})
    return legend + '<div class="cards">' + "\n".join(map(_card, episodes)) + "</div>"


def attention_cards(episodes: Sequence[EpisodePlot]) -> str:
    """Return TokenLearner's maps over images of some episodes, a row of images for each step shown."""
    cards = []
    for episode in episodes:
        rows = "\n".join(map(_attention, episode.attention))
        cards.append(f'<article class="card"><h3>{markup.escape(episode.title)}</h3>{rows}</article>')
    return '<div class="cards">' + "\n".join(cards) + "</div>"


def shrunk(image: Image, width: int) -> Image:
    """Return an image, uint8 RGB, at most ``width`` pixels wide."""
    if image.shape[1] <= width:
        return np.ascontiguousarray(image)
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _card(episode: EpisodePlot) -> str:
    drawn = plots.action_plots(episode.dimension_names, episode.recorded, episode.predicted)
    errors = np.abs(episode.recorded - episode.predicted).mean(axis=0)
    figures = {
        f"{markup.escape(name)} <small>mean error {error:.3g}</small>": svg
        for (name, svg), error in zip(drawn.items(), errors, strict=True)
    }
    images = [
        (encode_jpeg(shrunk(image, _IMAGE_WIDTH), _QUALITY), f"step {step}")
        for image, step in zip(episode.images, episode.steps, strict=True)
    ]
    return (
        f'<article class="card"><h3>{markup.escape(episode.title)}</h3>'
        f"{markup.plot_grid(figures)}{markup.image_grid(images, small=True)}</article>"
    )


def _attention(view: AttentionView) -> str:
    named = [(shrunk(view.image, _MAP_WIDTH), f"step {view.step}")]
    for number, map_RC in enumerate(view.map_KRC, start=1):
        caption = f"map {number}: {plots.percent(float(map_RC.max()))}"
        named.append((attention_overlay(view.image, map_RC, width=_MAP_WIDTH), caption))
    return markup.image_grid([(encode_jpeg(image, _QUALITY), caption) for image, caption in named], small=True)
