"""Cards of recorded episodes: their numbers, images and attention maps."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.evaluate.episode_trace import AttentionView, EpisodePlot
from rt1.report.episodes import attention_card, episode_card

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


def test_a_card_has_the_errors_and_the_images_with_their_steps() -> None:
    card = episode_card(_episode())
    assert card["title"] == "<an episode>"
    assert list(card["figures"]) == ["x", "<y>"]
    assert card["notes"] == ["mean error 0.25"] * 2
    assert [caption for _, caption in card["images"]] == ["step 0", "step 11"]


def test_each_attention_map_has_its_largest_weight_as_caption() -> None:
    (row,) = attention_card(_episode())["rows"]
    captions = [caption.replace("\N{NO-BREAK SPACE}", " ") for _, caption in row]
    assert captions == ["step 11", "map 1: 12 %", "map 2: 12 %", "map 3: 12 %"]
