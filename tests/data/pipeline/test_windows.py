"""Windows: each lies inside one episode, every step is reached, the split is by whole episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.data.pipeline.windows import Clips, Windows, split_episodes

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def _all(windows: Windows) -> list[tuple[int, int, int]]:
    return [(e, start, stop) for e, start, stop in np.stack(windows.places(np.arange(len(windows))), axis=1).tolist()]


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


def test_no_episodes_give_no_windows() -> None:
    assert len(Windows(lengths=np.array([4]), episodes=np.array([], dtype=np.int64), window=3)) == 0


def test_settings_that_make_no_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="window is 0"):
        Windows(lengths=np.array([4]), episodes=np.array([0]), window=0)
    with pytest.raises(ValueError, match="group is 0"):
        Clips(windows=Windows(lengths=np.array([4]), episodes=np.array([0]), window=2), group=0)


@given(lengths=LENGTHS, window=st.integers(1, 5), group=st.integers(1, 6))
def test_clips_hold_every_window_once_and_cut_exactly_its_steps(lengths: list[int], window: int, group: int) -> None:
    windows = Windows(lengths=np.array(lengths), episodes=np.arange(len(lengths))[::-1], window=window)
    clips = Clips(windows=windows, group=group)
    numbers = np.arange(len(clips))
    places, cuts = clips.places(numbers), clips.cuts(numbers)
    assert (places.starts >= 0).all()
    assert (places.stops <= np.array(lengths)[places.episodes]).all()
    assert (places.stops - places.starts <= clips.steps).all()
    found = []
    for clip in numbers:
        for place_T, valid_T in zip(cuts.index_BGT[clip], cuts.valid_BGT[clip], strict=True):
            assert ((place_T >= 0) & (place_T < places.stops[clip] - places.starts[clip])).all()
            if valid_T.any():
                steps = place_T + places.starts[clip]
                found.append((int(places.episodes[clip]), steps[valid_T].tolist()))
    expected = [(e, list(range(start, stop))) for e, start, stop in _all(windows)]
    assert found == expected


def test_a_description_tells_other_windows_apart() -> None:
    def described(lengths: list[int], episodes: list[int], window: int = 2) -> dict[str, Any]:
        return Windows(lengths=np.array(lengths), episodes=np.array(episodes), window=window).describe()

    base = described([4, 5], [0, 1])
    assert base == described([4, 5], [0, 1])
    others = [described([5, 4], [0, 1]), described([4, 5], [1, 0]), described([4, 5], [0, 1], window=3)]
    assert base not in others
    assert base != Clips(windows=Windows(lengths=np.array([4, 5]), episodes=np.arange(2), window=2), group=2).describe()


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
    with pytest.raises(ValueError, match=f"held_out is {held_out} of {episodes} episodes"):
        split_episodes(episodes, held_out=held_out, seed=0)
