"""Templates: what is filled in is escaped, and images are small."""

from __future__ import annotations

import base64

import cv2
import jinja2
import numpy as np
import pytest

from rt1.report.html import render, thumbnail


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
