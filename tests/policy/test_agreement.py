"""The comparison of two streams of logits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rt1.policy.agreement import NOTHING_COMPARED, compare_logits

REFERENCE = np.array([[[0, 1, 0], [2, 0, 1], [0, 0, 3], [0.04, 0, -1]]], np.float32)
"""Four tokens of three bins; the gap of the last one is 0.04."""


def test_a_token_without_a_clear_winner_is_counted_apart() -> None:
    assert compare_logits(REFERENCE, REFERENCE).clear_tokens == 3
    assert compare_logits(REFERENCE, REFERENCE, gap=1.5).clear_tokens == 1
    other = REFERENCE.copy()
    other[0, 3] = [0, 1, 0]
    agreement = compare_logits(REFERENCE, other)
    assert (agreement.clear_tokens_agreeing, agreement.tokens_agreeing, agreement.other_tokens) == (3, 3, 1)
    other[0, 0] = [1, 0, 0]
    agreement = compare_logits(REFERENCE, other)
    assert (agreement.clear_tokens, agreement.clear_tokens_agreeing) == (3, 2)
    assert agreement.clear_agreement == pytest.approx(2 / 3)


def test_a_token_with_a_logit_that_is_not_finite_never_agrees() -> None:
    other = REFERENCE.copy()
    other[0, 1, 2] = -np.inf
    assert compare_logits(REFERENCE, other).clear_tokens_agreeing == 2


def test_no_clear_token_counts_as_agreement() -> None:
    zeros = np.zeros((2, 3, 4), np.float32)
    agreement = compare_logits(zeros, zeros)
    assert (agreement.clear_tokens, agreement.clear_agreement) == (0, 1.0)


def test_agreements_add_up_to_that_of_all_steps() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 6, 3, 4)).astype(np.float32)
    total = NOTHING_COMPARED + compare_logits(one[:2], other[:2]) + compare_logits(one[2:], other[2:])
    assert total == compare_logits(one, other)
    assert (total.steps, total.tokens) == (6, 18)
    assert total.logit_difference == np.abs(one - other).max()
    assert total.largest_logit == np.abs(one).max()


def test_the_difference_may_be_rounding_of_the_largest_logit() -> None:
    agreement = compare_logits(REFERENCE, REFERENCE)
    assert agreement.holds
    assert dataclasses.replace(agreement, logit_difference=2.9e-4).holds
    assert not dataclasses.replace(agreement, logit_difference=3.1e-4).holds


@pytest.mark.parametrize(("first", "second"), [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.nan)])
def test_logits_that_are_not_numbers_never_agree(first: float, second: float) -> None:
    one = np.ones((1, 2, 3), np.float32)
    agreement = compare_logits(first * one, second * one) + compare_logits(one, one)
    assert np.isnan(agreement.logit_difference)
    assert not agreement.holds
