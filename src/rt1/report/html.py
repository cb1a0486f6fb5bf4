"""The HTML pages, from the Jinja2 templates of this package, and the images and episodes on them."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from rt1.common.progress import duration
from rt1.data.sources.images import encode_jpeg
from rt1.envs.base import Image
from rt1.evaluate.episode_trace import AttentionView, EpisodePlot
from rt1.report.offline_figures import attention_overlay
from rt1.report.svg import action_plots, percent

_IMAGE_WIDTH, _MAP_WIDTH = 240, 120  # pixels


def render(template: str, /, **values: object) -> str:
    """Return a template of the folder ``templates`` with its values filled in. All but ``Markup`` is escaped."""
    return _environment().get_template(template).render(values)


def data_uri(data: bytes, kind: str) -> str:
    """Return a file of a MIME type as an address that holds the file itself.

    >>> data_uri(b"abc", "image/jpeg")
    'data:image/jpeg;base64,YWJj'
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def thumbnail(image: Image, width: int, quality: int = 80) -> str:
    """Return an image, uint8 RGB, at most ``width`` pixels wide, as the address of a JPEG."""
    if image.shape[1] > width:
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, dtype=np.uint8)
    return data_uri(encode_jpeg(np.ascontiguousarray(image), quality), "image/jpeg")


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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rt1.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, duration=duration, percent=percent)
    return environment
