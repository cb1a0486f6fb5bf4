"""The draw of a sentence for each sample."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.data.pipeline.sentences import Sentences

# Three episodes: rows 2; 0, 1, 3; 1, 0.
SENTENCES = Sentences(
    vector_RE=np.arange(4, dtype=np.float32)[:, None] * np.ones(2, np.float32),
    rows=np.array([2, 0, 1, 3, 1, 0]),
    counts=np.array([1, 3, 2]),
)


def _drawn(episode: int, samples: range, seed: int = 0) -> list[int]:
    numbers = np.array(samples)
    return SENTENCES.drawn(np.full_like(numbers, episode), numbers, seed=seed)[:, 0].astype(int).tolist()


def test_the_instruction_is_the_first_sentence() -> None:
    assert SENTENCES.instructions(np.array([2, 0, 1]))[:, 0].tolist() == [1.0, 2.0, 0.0]


def test_every_sentence_of_an_episode_is_as_likely_and_no_other_is_drawn() -> None:
    for episode, rows in ((0, {2}), (1, {0, 1, 3}), (2, {0, 1})):
        found = _drawn(episode, range(3000))
        assert set(found) == rows
        assert all(found.count(row) == pytest.approx(3000 / len(rows), rel=0.1) for row in rows)


def test_a_draw_depends_on_seed_and_sample_alone() -> None:
    assert _drawn(1, range(5, 9)) == _drawn(1, range(20))[5:9]
    assert _drawn(1, range(50)) != _drawn(1, range(50), seed=1)


def test_one_sentence_each_is_always_that_one() -> None:
    text = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    sentences, episodes = Sentences.one_each(text), np.array([2, 0, 2, 1])
    np.testing.assert_array_equal(sentences.drawn(episodes, np.arange(4), seed=0), text[episodes])
    np.testing.assert_array_equal(sentences.instructions(episodes), text[episodes])


def test_an_episode_without_a_sentence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fewest 0.*sentence"):
        Sentences(vector_RE=np.zeros((1, 2), np.float32), rows=np.array([0]), counts=np.array([1, 0]))
    with pytest.raises(ValueError, match="2 rows for episodes of 1 sentences"):
        Sentences(vector_RE=np.zeros((1, 2), np.float32), rows=np.array([0, 0]), counts=np.array([1]))


def test_in_turn_every_item_meets_each_sentence_once_in_as_many_passes() -> None:
    items = np.repeat(np.arange(50), 3)
    passes = np.tile(np.arange(7, 10), 50)
    rows = SENTENCES.taken(np.ones_like(items), items, passes)[:, 0].astype(int).reshape(50, 3)
    assert [set(row) for row in rows.tolist()] == [{0, 1, 3}] * 50
    assert len(set(rows[:, 0].tolist())) == 3
