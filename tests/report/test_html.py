"""Templates: what is filled in is escaped, and images are small."""

from __future__ import annotations

import base64

import cv2
import jinja2
import numpy as np
import pytest

from rt1.evaluate.episode_trace import AttentionView, EpisodePlot
from rt1.report.html import attention_card, episode_card, render, thumbnail


def _decoded(address: str) -> cv2.typing.MatLike:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_a_title_is_shown_as_it_is(hostile: str) -> None:
    page = render("play.html", title=hostile)
    assert "<h1>&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; &#39;quote&#39; {{ title }}</h1>" in page


def test_a_value_that_is_missing_is_our_mistake_and_raises() -> None:
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("play.html")


def test_images_shrink_and_never_grow() -> None:
    image = np.zeros((30, 100, 3), dtype=np.uint8)
    assert _decoded(thumbnail(image, 50)).shape == (15, 50, 3)
    assert _decoded(thumbnail(image, 200)).shape == (30, 100, 3)


def _episode() -> EpisodePlot:
    pytest.importorskip("matplotlib")
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
