"""Figures of an offline evaluation: drawn from what was counted, whatever it is."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt1.evaluate.scores import Reliability
from rt1.report.offline_figures import (
    NEAR,
    attention_overlay,
    confidence_histogram,
    confusion,
    error_histogram,
    near_diagonal,
    reliability_curve,
)

pytest.importorskip("matplotlib")


def _texts(svg: str) -> list[str]:
    assert "http" not in svg
    root = ET.fromstring(str(svg).replace("<svg ", '<svg xmlns:xlink="x" ', 1))
    return [(element.text or "").replace("\N{NO-BREAK SPACE}", " ") for element in root.iter("text")]


def test_the_bars_beyond_the_near_ones_are_marked_as_such() -> None:
    counts = np.zeros(511, dtype=np.int64)
    counts[[0, 255, 256, 510]] = 10, 60, 20, 10
    texts = _texts(near_diagonal(counts))
    assert {f"\N{LESS-THAN OR EQUAL TO}-{NEAR + 1}", "0", f"\N{GREATER-THAN OR EQUAL TO}{NEAR + 1}"} <= set(texts)
    assert "60 %" in texts


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), bins=st.sampled_from([2, 3, 16, 256, 512]), filled=st.integers(1, 40))
def test_any_counts_can_be_drawn(seed: int, bins: int, filled: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.zeros((bins, bins), dtype=np.int64)
    np.add.at(matrix, (rng.integers(0, bins, filled), rng.integers(0, bins, filled)), 1)
    counts = np.array([np.trace(matrix, offset) for offset in range(1 - bins, bins)])
    assert "predicted token" in _texts(confusion("x", matrix))
    assert "predicted less recorded" in _texts(error_histogram("<x>", counts, bin_width=0.1))
    assert _texts(near_diagonal(counts))


def test_predicted_tokens_that_are_no_choice_have_a_column_of_their_own() -> None:
    matrix = np.zeros((256, 256), dtype=np.int64)
    matrix[1, 1], matrix[2, 200] = 5, 5
    assert {"0", "1", "2", "3"} <= set(_texts(confusion("stop", matrix, choices=3)))


def test_a_lone_token_does_not_fill_the_figure() -> None:
    matrix = np.zeros((256, 256), dtype=np.int64)
    matrix[255, 255] = 7
    assert {"251", "255"} <= set(_texts(confusion("x", matrix)))


def test_reliability_is_drawn_where_there_are_predictions() -> None:
    nan = np.nan
    found = Reliability(
        count=np.array([4.0, 0, 6]), confidence=np.array([0.2, nan, 0.9]), accuracy=np.array([0.1, nan, 1.0])
    )
    assert "confidence" in _texts(reliability_curve(found))
    assert "60 %" in _texts(confidence_histogram(found))


def test_an_overlay_is_bright_where_the_map_looks_and_dark_elsewhere() -> None:
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    weights = np.zeros((4, 6), dtype=np.float32)
    weights[0, 5] = 0.3
    shown = attention_overlay(image, weights, width=30)
    assert shown.shape == (20, 30, 3)
    assert shown.dtype == np.uint8
    assert shown[0, -1].mean() > 100 > shown[-1, 0].mean()
