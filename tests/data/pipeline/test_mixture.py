"""The order of samples: a new permutation at every pass, a function of seed and number alone."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.data.pipeline.mixture import LONGEST_PERIOD, Mixture, SampleOrder, shuffled
from rt1.data.pipeline.windows import Clips, Windows

WEIGHTS = st.lists(st.integers(1, 60), min_size=1, max_size=7)


def _mixture(sizes: list[int], weights: list[float], *, group: int = 0) -> Mixture:
    """Parts of one episode each, with as many windows of one step as ``sizes`` says."""
    lengths = np.array(sizes)
    windows = [Windows(lengths=lengths, episodes=np.array([part]), window=1) for part in range(len(sizes))]
    parts = tuple(Clips(windows=part, group=group) if group else part for part in windows)
    return Mixture(parts=parts, weights=tuple(weights))


@given(size=st.integers(1, 700), pass_=st.integers(0, 10_000), seed=st.integers(0, 2**40))
def test_every_pass_is_a_permutation(size: int, pass_: int, seed: int) -> None:
    items = shuffled(np.arange(pass_ * size, (pass_ + 1) * size), size, seed=seed)
    assert items.dtype == np.int64
    assert sorted(items.tolist()) == list(range(size))


@given(size=st.integers(20, 300), pass_=st.integers(0, 10_000), seed=st.integers(0, 2**31))
def test_another_pass_and_another_seed_have_another_order(size: int, pass_: int, seed: int) -> None:
    one = shuffled(np.arange(pass_ * size, (pass_ + 1) * size), size, seed=seed)
    next_pass = shuffled(np.arange((pass_ + 1) * size, (pass_ + 2) * size), size, seed=seed)
    next_seed = shuffled(np.arange(pass_ * size, (pass_ + 1) * size), size, seed=seed + 1)
    assert not np.array_equal(one, next_pass)
    assert not np.array_equal(one, next_seed)
    assert not np.array_equal(one, np.arange(size))


@given(numbers=st.lists(st.integers(0, 10**12), min_size=1, max_size=30), size=st.integers(1, 10**9))
def test_an_item_depends_on_its_number_alone(numbers: list[int], size: int) -> None:
    together = shuffled(np.array(numbers), size, seed=5).tolist()
    assert together == [int(shuffled(np.array([number]), size, seed=5)[0]) for number in numbers]
    assert all(0 <= item < size for item in together)


def test_every_item_comes_equally_often_at_every_place() -> None:
    size, passes = 7, 7000
    orders = shuffled(np.arange(passes * size), size, seed=11).reshape(passes, size)
    counts = np.stack([np.bincount(orders[:, place], minlength=size) for place in range(size)])
    expected = passes / size
    # Chi-square over 7 x 7 cells with 36 degrees of freedom; 80 is exceeded by chance once in 30,000 orders.
    assert ((counts - expected) ** 2 / expected).sum() < 80


def test_every_order_of_three_items_occurs() -> None:
    orders = shuffled(np.arange(3 * 600), 3, seed=0).reshape(600, 3)
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == 6
    assert counts.min() > 60


def test_neighbours_in_the_set_are_not_neighbours_in_the_order() -> None:
    order = shuffled(np.arange(5000), 5000, seed=0)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.06
    assert (np.abs(np.diff(order)) == 1).mean() < 0.003


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="0 items"):
        shuffled(np.arange(3), 0, seed=0)


def test_the_order_of_one_source_never_changes() -> None:
    # Runs resume by this order: another hash here breaks every run that was begun before.
    order = shuffled(np.arange(10_000), 3_217, seed=5)
    assert order[:8].tolist() == [47, 2520, 3110, 2701, 2357, 2658, 525, 378]
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16] == "09304eb387af323a"


@given(weights=WEIGHTS, periods=st.integers(1, 3))
def test_after_any_number_of_samples_every_source_has_its_share_within_one(weights: list[int], periods: int) -> None:
    mixture = _mixture([3] * len(weights), [float(weight) for weight in weights])
    parts, numbers = mixture.schedule(np.arange(periods * sum(weights)))
    counts = np.cumsum(parts[:, None] == np.arange(len(weights)), axis=0)
    expected = np.arange(1, len(parts) + 1)[:, None] * np.array(weights) / sum(weights)
    assert (np.abs(counts - expected) < 1).all()
    for part in range(len(weights)):
        assert numbers[parts == part].tolist() == list(range(counts[-1, part]))


@given(weights=WEIGHTS, numbers=st.lists(st.integers(0, 10**12), min_size=1, max_size=30))
def test_an_item_of_a_mixture_depends_on_its_number_alone(weights: list[int], numbers: list[int]) -> None:
    mixture = _mixture(list(range(1, len(weights) + 1)), [weight / 10 for weight in weights])
    together = mixture.order(np.array(numbers), seed=3).tolist()
    assert together == [int(mixture.order(np.array([number]), seed=3)[0]) for number in numbers]


def test_each_source_goes_through_all_its_windows_before_it_repeats_one() -> None:
    sizes, weights = [7, 30, 5], [1.0, 2.5, 0.5]
    mixture = _mixture(sizes, weights)
    items = mixture.order(np.arange(2_000), seed=1)
    episodes, starts, _ = mixture.places(items)
    for part, size in enumerate(sizes):
        own = starts[episodes == part]
        assert abs(len(own) - 2_000 * weights[part] / 4) < 1
        passes = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(passes, axis=1) == np.arange(size)).all()


def test_sources_of_equal_size_are_shuffled_differently() -> None:
    mixture = _mixture([50, 50], [1.0, 1.0])
    items = mixture.order(np.arange(100), seed=1)
    parts, _ = mixture.schedule(np.arange(100))
    assert not np.array_equal(items[parts == 0], items[parts == 1] - 50)


def test_a_mixture_of_one_source_has_that_source_s_order() -> None:
    assert np.array_equal(_mixture([40], [0.3]).order(np.arange(99), seed=6), shuffled(np.arange(99), 40, seed=6))


@pytest.mark.parametrize("first", [0, 8191, 8192, 20_000, 10**9])
@pytest.mark.parametrize("count", [1, 5, 9000])
def test_the_order_in_blocks_is_the_order_sample_by_sample(first: int, count: int) -> None:
    mixture = _mixture([70, 30], [2.0, 1.0])
    items, places = SampleOrder(mixture, seed=4).samples(first, count)
    expected = mixture.order(np.arange(first, first + count), seed=4)
    assert items.tolist() == expected.tolist()
    assert np.array_equal(np.stack(places), np.stack(mixture.places(expected)))


def test_clips_of_several_sources_are_cut_like_those_of_each() -> None:
    mixture = _mixture([7, 4], [1.0, 1.0], group=3)
    numbers = np.array([3, 0, 4, 2, 1])
    cuts = mixture.cuts(numbers)
    assert cuts is not None
    for row, number in enumerate(numbers):
        part, own = (0, number) if number < len(mixture.parts[0]) else (1, number - len(mixture.parts[0]))
        clips = mixture.parts[part]
        assert isinstance(clips, Clips)
        alone = clips.cuts(np.array([own]))
        assert np.array_equal(cuts.index_BGT[row], alone.index_BGT[0])
        assert np.array_equal(cuts.valid_BGT[row], alone.valid_BGT[0])
    assert _mixture([7, 4], [1.0, 1.0]).cuts(numbers) is None


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, -2.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_a_weight_that_is_no_share_is_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"above 0.*weight"):
        _mixture([3, 3], list(weights))


def test_weights_that_repeat_too_late_are_refused_with_rounded_ones() -> None:
    with pytest.raises(ValueError, match=re.escape(f"{LONGEST_PERIOD:,}") + r".*Round.*\[760"):
        _mixture([3, 3], [3_812_345.0, 1_203_998.0])


def test_parts_without_samples_and_parts_of_other_sizes_are_refused() -> None:
    one, two = (Windows(lengths=np.array([5, 5]), episodes=np.array([0]), window=window) for window in (2, 3))
    with pytest.raises(ValueError, match="All must be of one kind and size"):
        Mixture(parts=(one, two), weights=(1.0, 1.0))
    none = Windows(lengths=np.array([5]), episodes=np.array([], dtype=np.int64), window=2)
    with pytest.raises(ValueError, match=r"parts \[1\] .*samples"):
        Mixture(parts=(one, none), weights=(1.0, 1.0))
    with pytest.raises(ValueError, match="a mixture of 1 parts has 2 weights"):
        Mixture(parts=(one,), weights=(1.0, 1.0))
