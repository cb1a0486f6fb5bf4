"""Cards of recorded episodes: their numbers, images and attention maps."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest

from rt1.evaluate.episode_plot import AttentionView, EpisodePlot
from rt1.report.episodes import attention_cards, episode_cards, shrunk

pytest.importorskip("matplotlib")


def _episode() -> EpisodePlot:
    recorded = np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2)
    image = np.full((200, 400, 3), 90, dtype=np.uint8)
    maps = np.full((3, 2, 4), 0.125, dtype=np.float32)
    return EpisodePlot(
        title="<an episode>",
        dimension_names=["x", "<y>"],
        recorded=recorded,
        predicted=recorded + np.float32(0.25),
        steps=[0, 11],
        images=[image, image],
        attention=[AttentionView(step=11, image=image, map_KRC=maps)],
    )


def test_a_card_shows_the_errors_and_the_images_with_their_steps() -> None:
    html = episode_cards([_episode()])
    assert "&lt;an episode&gt;" in html
    assert html.count("mean error 0.25") == 2
    assert re.findall(r"<figcaption>(step \d+)", html) == ["step 0", "step 11"]
    sizes = [_decoded(data).shape for data in re.findall(r"base64,([^\"]+)", html)]
    assert sizes == [(120, 240, 3)] * 2
    assert episode_cards([]) == ""


def test_each_attention_map_is_shown_with_its_largest_weight() -> None:
    html = attention_cards([_episode()]).replace("\N{NO-BREAK SPACE}", " ")
    captions = re.findall(r"<figcaption>([^<]+)", html)
    assert captions == ["step 11", "map 1: 12 %", "map 2: 12 %", "map 3: 12 %"]


def test_images_shrink_and_never_grow() -> None:
    image = np.zeros((30, 100, 3), dtype=np.uint8)
    assert shrunk(image, 50).shape == (15, 50, 3)
    assert shrunk(image, 200) is image


def _decoded(data: str) -> cv2.typing.MatLike:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image
