"""The comparison of a network and its export: what it counts, and which images it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.data.sources.images import decode_image
from rt1.errors import DataError, PolicyError
from rt1.policy.agreement import Agreement
from rt1.policy.engines.base import Engine
from rt1.policy.export.compare import Trial, TrialSize, compare, generated_trials, recorded_trials
from rt1.policy.exported_manifest import Sizes
from rt1.policy.stepper import Stepper

SIZE = TrialSize(episodes=2, steps=5, text_width=8)


SPEC = ActionSpec(parts=(Continuous(name="move", low=(0.0,), high=(1.0,)),), bins=3)


class Scripted(Engine):
    """Gives its rows of logits one after the other and starts again at each episode."""

    name, precision = "scripted", "fp32"
    sizes = Sizes(
        window=1,
        image_size=(4, 4),
        grid=(1, 1),
        text_width=8,
        guidance=False,
        image_tokens=1,
        token_width=1,
        parameters=1,
    )

    def __init__(self, *rows: tuple[float, float, float]) -> None:
        self.rows = [np.array([[row]], dtype=np.float32) for row in rows]
        self.step = 0

    def condition(self, text_SE: FloatArray, *, dropped: bool) -> FloatArray:
        assert not dropped
        self.step = 0
        return text_SE

    def encode(self, image_SHWC: FloatArray, condition: FloatArray) -> tuple[FloatArray, FloatArray]:
        assert len(image_SHWC) == len(condition)
        return np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)

    def decode(self, token_STKE: FloatArray, step_S: NDArray[np.int64], condition: FloatArray) -> FloatArray:
        assert len(token_STKE) == len(step_S) == len(condition)
        self.step += 1
        return self.rows[self.step - 1]


def _compared(one: Scripted, other: Scripted, steps: int) -> Agreement:
    trial = Trial(embedding=np.zeros(8, dtype=np.float32), images=[np.zeros((4, 4, 3), dtype=np.uint8)] * steps)
    return compare(Stepper(one), Stepper(other), [trial, trial], SPEC)


def test_it_counts_steps_tokens_and_the_largest_difference_over_all_episodes() -> None:
    found = _compared(Scripted((0, 1, 5), (3, 1, -9)), Scripted((0, 1.5, 5), (3, 1, -9.25)), 2)
    assert (found.steps, found.tokens, found.tokens_agreeing) == (4, 4, 4)
    assert (found.logit_difference, found.largest_logit) == (0.5, 9.0)


def test_a_token_without_a_clear_winner_may_differ() -> None:
    found = _compared(Scripted((1, 1.04, 0), (2, 0, 0)), Scripted((1.04, 1, 0), (2, 0, 0)), 2)
    assert (found.tokens, found.tokens_agreeing) == (4, 2)
    assert (found.clear_tokens, found.clear_tokens_agreeing) == (2, 2)


def test_a_clear_token_that_differs_is_counted() -> None:
    found = _compared(Scripted((1, 2, 0)), Scripted((2, 1, 0)), 1)
    assert (found.clear_tokens, found.clear_tokens_agreeing) == (2, 0)


def test_a_nan_is_the_largest_difference_of_all() -> None:
    found = _compared(Scripted((1, 2, 0), (1, 2, 0)), Scripted((1, float("nan"), 0), (1, 2, 0)), 2)
    assert np.isnan(found.logit_difference)


def test_a_network_whose_logits_are_not_finite_is_not_compared() -> None:
    with pytest.raises(PolicyError, match="not finite"):
        _compared(Scripted((1, float("nan"), 0)), Scripted((1, 2, 0)), 1)


def test_generated_episodes_follow_from_the_seed() -> None:
    trials, again, other = generated_trials(SIZE, 1), generated_trials(SIZE, 1), generated_trials(SIZE, 2)
    assert [len(trial.images) for trial in trials] == [5, 5]
    np.testing.assert_array_equal(trials[1].images[4], again[1].images[4])
    np.testing.assert_array_equal(trials[1].embedding, again[1].embedding)
    assert not np.array_equal(trials[0].images[0], other[0].images[0])
    assert not np.array_equal(trials[0].images[0], trials[1].images[0])
    assert not np.array_equal(trials[0].embedding, trials[1].embedding)


def test_recorded_images_come_in_order_over_the_episodes_and_start_again_after_the_last(
    make_source: Callable[..., Any],
) -> None:
    source = make_source(3, 4)
    wanted = [decode_image(source.images[episode][step]) for episode in (0, 1) for step in range((3, 4)[episode])]
    trials = recorded_trials(source, SIZE, 0)
    shown = [image for trial in trials for image in trial.images]
    assert len(shown) == 10
    for index, image in enumerate(shown):
        np.testing.assert_array_equal(image, wanted[index % 7])


def test_embeddings_are_the_recorded_ones_where_they_fit_the_network(make_source: Callable[..., Any]) -> None:
    source = make_source(3, 4)
    fitting = recorded_trials(source, SIZE, 0)
    np.testing.assert_array_equal([trial.embedding for trial in fitting], source.embeddings)
    (other, _) = recorded_trials(source, TrialSize(episodes=2, steps=5, text_width=6), 0)
    assert other.embedding.shape == (6,)


def test_a_data_set_without_episodes_is_refused(make_source: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="memory has no episode to compare on"):
        recorded_trials(make_source(), SIZE, 0)
