"""What all policies have in common: from logits to actions, and which embeddings they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, Discrete, FloatArray
from rt1.errors import PolicyError
from rt1.policy.base import BasePolicy, Instruction, check_embedding

SPEC = ActionSpec(
    parts=(Continuous(name="move", low=(-1.0, 0.0), high=(1.0, 5.0)), Discrete(name="end", choices=2)), bins=11
)


class Fixed(BasePolicy):
    """Finds the same tokens in every image."""

    action_spec = SPEC

    def __init__(self, *tokens: int) -> None:
        self.scores: FloatArray = np.eye(SPEC.bins, dtype=np.float32)[list(tokens)]

    def reset(self, instruction: Instruction) -> None: ...

    def logits(self, image: NDArray[Any]) -> FloatArray:
        assert image.ndim == 3
        return self.scores


IMAGE = np.zeros((4, 4, 3), dtype=np.uint8)


def test_the_largest_logit_of_each_dimension_is_the_action() -> None:
    action = Fixed(10, 5, 1).act(IMAGE)
    np.testing.assert_array_equal(action["move"], np.array([1.0, 2.5], dtype=np.float32))
    np.testing.assert_array_equal(action["end"], [0, 1])
    np.testing.assert_array_equal(Fixed(0, 10, 0).act_vector(IMAGE), [-1.0, 5.0, 0.0])


def test_those_who_compare_get_the_logits_too() -> None:
    policy = Fixed(3, 4, 0)
    action, logits = policy.act_with_logits(IMAGE)
    assert sorted(action) == ["end", "move"]
    np.testing.assert_array_equal(logits, policy.scores)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (np.zeros(7, dtype=np.float32), r"shape \(7,\). This network takes \(8,\)"),
        (np.zeros((1, 8), dtype=np.float32), r"shape \(1, 8\)"),
        (np.full(8, np.inf, dtype=np.float32), "not finite"),
        (np.full(8, 1e20, dtype=np.float32), r"size 1e\+20. At most 10000"),
        (np.full(8, -1e300), r"size 1e\+300"),
        (np.zeros(8, dtype=np.complex64), "complex64, must be real"),
        (np.zeros(8, dtype=np.bool_), "bool, must be real"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused(embedding: FloatArray, message: str) -> None:
    check_embedding(np.zeros(8, dtype=np.float32), 8)
    with pytest.raises(ValueError, match=message):
        check_embedding(embedding, 8)


@pytest.mark.parametrize("ids", [[0, 5], [-1, 0], [0.5, 0]])
def test_ids_that_are_no_word_pieces_of_the_network_are_refused(ids: list[float]) -> None:
    check_embedding(np.array([4, 0], dtype=np.float32), 2, vocabulary=5)
    with pytest.raises(ValueError, match="no id of 5 word pieces"):
        check_embedding(np.array(ids, dtype=np.float32), 2, vocabulary=5)


def test_logits_that_are_not_finite_are_an_error_and_no_action() -> None:
    policy = Fixed(3, 4, 0)
    policy.scores[1, 7] = np.nan
    for act in (policy.act, policy.act_vector, policy.act_with_logits):
        with pytest.raises(PolicyError, match="1 of 33 logits are not finite"):
            act(IMAGE)
