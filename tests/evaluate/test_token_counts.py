"""Confusion and reliability: counted right, and in memory that does not grow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt1.actions import ActionSpec, Continuous
from rt1.evaluate.token_counts import CONFIDENCE_BINS, TokenCounts

SPEC = ActionSpec(parts=(Continuous(name="move", low=(-1.0, -1.0), high=(1.0, 1.0)),), bins=6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(1, 20), cut=st.integers(0, 20))
def test_each_prediction_is_counted_once_in_its_place(seed: int, steps: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(steps, 2, 6)).astype(np.float32)
    token = rng.integers(0, 6, (steps, 2)).astype(np.int32)
    counts = TokenCounts(SPEC)
    counts.add(logits[:cut], token[:cut])
    counts.add(logits[cut:], token[cut:])
    predicted = logits.argmax(-1)
    for dimension in range(2):
        for recorded in range(6):
            for guess in range(6):
                wanted = ((token == recorded) & (predicted == guess))[:, dimension].sum()
                assert counts.confusion_AVV[dimension, recorded, guess] == wanted
        offsets = (predicted - token)[:, dimension]
        assert counts.differences(dimension).tolist() == [int((offsets == d).sum()) for d in range(-5, 6)]
        commonest = np.bincount(token[:, dimension]).max() / steps
        assert counts.most_frequent()[dimension] == pytest.approx(commonest)


def test_reliability_groups_the_predictions_by_their_probability() -> None:
    # Probabilities of the first token: 0.75 for four predictions, of which three are right; 1.0 for two right ones.
    sure = np.log(np.array([0.75, 0.05, 0.05, 0.05, 0.05, 0.05]))
    certain = np.array([100.0, 0, 0, 0, 0, 0])
    logits = np.array([sure, sure, sure, sure, certain, certain])[:, None].repeat(2, axis=1).astype(np.float32)
    token = np.array([[0, 0], [0, 0], [0, 0], [3, 0], [0, 0], [0, 0]], np.int32)
    counts = TokenCounts(SPEC)
    counts.add(logits, token)
    first = counts.reliability(0)
    place = int(0.75 * CONFIDENCE_BINS)
    assert first.count.sum() == 6
    assert (first.count[place], first.count[-1]) == (4, 2)
    assert first.confidence[place] == pytest.approx(0.75)
    assert first.accuracy[place] == pytest.approx(0.75)
    assert np.isnan(first.accuracy[0])
    assert first.error == pytest.approx(0.0, abs=1e-6)
    assert counts.reliability(1).error == pytest.approx(4 / 6 * 0.25)
    assert counts.reliability().count.sum() == 12
    assert counts.reliability().error == pytest.approx(8 / 12 * 0.125)
