"""Windows: each lies inside one episode, every step is reached, the split is by whole episodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.data.pipeline.windows import Clips, Padding, Windows, split_episodes

PADDINGS: tuple[Padding, ...] = ("none", "repeat_first")
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


@given(lengths=LENGTHS, window=st.integers(1, 8))
def test_with_start_padding_every_step_is_the_last_of_exactly_one_window(lengths: list[int], window: int) -> None:
    windows = Windows(
        lengths=np.array(lengths), episodes=np.arange(len(lengths)), window=window, padding="repeat_first"
    )
    found = _all(windows)
    ends = [(episode, stop - 1) for episode, _, stop in found]
    assert ends == [(episode, step) for episode in range(len(lengths)) for step in range(lengths[episode])]
    assert all(stop - start == window for _, start, stop in found)


@given(lengths=LENGTHS, window=st.integers(1, 8), stride=st.integers(1, 5), padding=st.sampled_from(PADDINGS))
def test_a_stride_keeps_every_nth_window_counted_from_the_end(
    lengths: list[int], window: int, stride: int, padding: Padding
) -> None:
    options: dict[str, Any] = {
        "lengths": np.array(lengths),
        "episodes": np.arange(len(lengths)),
        "window": window,
        "padding": padding,
    }
    dense = _all(Windows(**options))
    expected = []
    for episode in range(len(lengths)):
        own = [place for place in dense if place[0] == episode]
        expected += own[::-1][::stride][::-1]
    assert _all(Windows(**options, stride=stride)) == expected


@given(
    lengths=LENGTHS,
    window=st.integers(1, 5),
    stride=st.integers(1, 3),
    goal=st.integers(0, 4),
    factor=st.integers(1, 4),
)
def test_windows_that_end_in_the_goal_come_factor_times_and_all_others_once(
    lengths: list[int], window: int, stride: int, goal: int, factor: int
) -> None:
    options: dict[str, Any] = {
        "lengths": np.array(lengths),
        "episodes": np.arange(len(lengths)),
        "window": window,
        "stride": stride,
    }
    counted = Counter(_all(Windows(**options, goal_steps=goal, goal_factor=factor)))
    once = _all(Windows(**options))
    assert set(counted) == set(once)
    for (episode, start, stop), count in counted.items():
        in_goal = max(stop, start + window) > max(lengths[episode], window) - goal
        assert count == (factor if in_goal else 1)


def test_places_of_many_windows_are_those_of_each() -> None:
    windows = Windows(
        lengths=np.array([4, 9, 2]), episodes=np.array([2, 0, 1]), window=3, padding="repeat_first", goal_steps=2,
        goal_factor=3,
    )  # fmt: skip
    numbers = np.random.default_rng(0).permutation(len(windows))
    together = np.stack(windows.places(numbers), axis=1).tolist()
    assert together == [list(windows.locate(number)) for number in numbers]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"goal_factor": 0}, "goal_factor is 0"),
        ({"goal_steps": -1}, "goal_steps is -1"),
        ({"padding": "zeros"}, "padding is 'zeros'; it must be 'none' or 'repeat_first'"),
    ],
)
def test_settings_that_make_no_windows_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windows(lengths=np.array([4]), episodes=np.array([0]), **{"window": 2, **options})


@given(
    lengths=LENGTHS,
    window=st.integers(1, 5),
    group=st.integers(1, 6),
    stride=st.integers(1, 3),
    padding=st.sampled_from(PADDINGS),
)
def test_clips_hold_every_window_once_and_cut_exactly_its_steps(
    lengths: list[int], window: int, group: int, stride: int, padding: Padding
) -> None:
    windows = Windows(
        lengths=np.array(lengths),
        episodes=np.arange(len(lengths))[::-1],
        window=window,
        padding=padding,
        stride=stride,
    )
    clips = Clips(windows=windows, group=group)
    numbers = np.arange(len(clips))
    places, cuts = clips.places(numbers), clips.cuts(numbers)
    assert (places.starts >= 0).all()
    assert (places.stops <= np.array(lengths)[places.episodes]).all()
    assert (places.stops - places.starts <= clips.steps).all()
    found = []
    for clip in numbers:
        for place_T, valid_T in zip(cuts.place_BGT[clip], cuts.valid_BGT[clip], strict=True):
            assert ((place_T >= 0) & (place_T < places.stops[clip] - places.starts[clip])).all()
            if valid_T.any():
                steps = place_T + places.starts[clip]
                found.append((int(places.episodes[clip]), steps[valid_T].tolist()))
                assert (steps[: int(valid_T.argmax())] == 0).all()  # what is missing is the first step again
    expected = [(e, list(range(max(0, start), stop))) for e, start, stop in _all(windows)]
    assert found == expected


def test_clips_of_repeated_windows_are_refused() -> None:
    windows = Windows(lengths=np.array([4]), episodes=np.array([0]), window=2, goal_steps=1, goal_factor=2)
    with pytest.raises(ValueError, match="goal_factor 2; clips need a group of at least 1 and a goal_factor of 1"):
        Clips(windows=windows, group=2)


def test_a_description_tells_other_windows_apart() -> None:
    def described(lengths: list[int], episodes: list[int], **options: Any) -> dict[str, Any]:
        return Windows(lengths=np.array(lengths), episodes=np.array(episodes), window=2, **options).describe()

    base = described([4, 5], [0, 1])
    assert base == described([4, 5], [0, 1])
    others = [described([5, 4], [0, 1]), described([4, 5], [1, 0]), described([4, 5], [0, 1], stride=2)]
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
