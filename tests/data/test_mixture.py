"""The order of samples: a new permutation at every pass, a function of seed and number alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt1.data.mixture import shuffled


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
    with pytest.raises(ValueError, match="the set has 0 items; it must have at least one; check the data"):
        shuffled(np.arange(3), 0, seed=0)
