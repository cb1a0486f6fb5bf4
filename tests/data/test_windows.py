"""Windows: each lies inside one episode, every step is reached, the split is by whole episodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.data.windows import Windows, split_episodes

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def _all(windows: Windows) -> list[tuple[int, int, int]]:
    return [windows.locate(number) for number in range(len(windows))]


@given(lengths=LENGTHS, window=st.integers(1, 8), data=st.data())
def test_every_window_lies_inside_one_of_the_chosen_episodes(
    lengths: list[int], window: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    found = _all(Windows(lengths=np.array(lengths), episodes=np.array(chosen), window=window))
    assert len(found) == len(set(found)) == sum(max(1, lengths[episode] - window + 1) for episode in chosen)
    for episode, start, stop in found:
        assert episode in chosen
        assert 0 <= start < stop <= lengths[episode]
        assert stop - start == min(window, lengths[episode])
    reached = {(episode, step) for episode, start, stop in found for step in range(start, stop)}
    assert reached == {(episode, step) for episode in chosen for step in range(lengths[episode])}


def test_windows_are_counted_episode_by_episode() -> None:
    windows = Windows(lengths=np.array([4, 9, 2]), episodes=np.array([2, 0]), window=3)
    assert _all(windows) == [(2, 0, 2), (0, 0, 3), (0, 1, 4)]


@pytest.mark.parametrize("number", [-1, 3])
def test_a_window_that_does_not_exist_is_refused(number: int) -> None:
    windows = Windows(lengths=np.array([4, 9, 2]), episodes=np.array([2, 0]), window=3)
    with pytest.raises(IndexError, match=f"window {number} of 3"):
        windows.locate(number)


def test_no_episodes_give_no_windows() -> None:
    assert len(Windows(lengths=np.array([4]), episodes=np.array([], dtype=np.int64), window=3)) == 0


@given(episodes=st.integers(2, 200), held_out=st.floats(0.0, 0.49), seed=st.integers(0, 2**32))
def test_the_split_leaves_no_episode_out_and_takes_none_twice(episodes: int, held_out: float, seed: int) -> None:
    train, kept = split_episodes(episodes, held_out=held_out, seed=seed)
    assert sorted([*train.tolist(), *kept.tolist()]) == list(range(episodes))
    assert len(kept) == (0 if held_out == 0 else max(1, round(held_out * episodes)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(kept) > 0).all()


def test_the_split_is_a_function_of_the_seed() -> None:
    splits = [split_episodes(50, held_out=0.2, seed=seed)[1].tolist() for seed in (3, 3, 4)]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize(("episodes", "held_out"), [(1, 0.1), (10, 0.99), (10, 1.0), (10, -0.1), (10, 1.5)])
def test_a_split_without_training_episodes_is_refused(episodes: int, held_out: float) -> None:
    with pytest.raises(ValueError, match=f"held_out is {held_out} of {episodes} episodes; .* lower held_out"):
        split_episodes(episodes, held_out=held_out, seed=0)
