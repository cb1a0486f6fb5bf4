"""Batches: pure functions of their number, padding marked, and every bad step named."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from rt1.data.episode import DataError
from rt1.data.images import decode_image, encode_jpeg
from rt1.data.loader import Batch, Loader
from rt1.data.windows import Windows

LENGTHS = (4, 1, 6, 3)

MakeSource = Callable[..., Any]


def _loader(source: Any, *, window: int = 2, batch_size: int = 3, **options: Any) -> Loader:
    windows = Windows(lengths=source.lengths, episodes=np.arange(len(source.lengths)), window=window)
    text = np.arange(len(source.lengths), dtype=np.float32)[:, None]
    return Loader(source, windows, text=text, batch_size=batch_size, **{"seed": 0, **options})


def _assert_equal(one: Batch, other: Batch) -> None:
    for column in fields(Batch):
        np.testing.assert_array_equal(getattr(one, column.name), getattr(other, column.name), err_msg=column.name)


def test_a_batch_holds_its_windows_exactly(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS)
    loader = _loader(source)
    numbers = np.array([6, 0, 3])
    batch = loader.take(numbers)
    assert batch.episodes == (2, 0, 1)
    assert batch.text_BE.tolist() == [[2.0], [0.0], [1.0]]
    for row, (episode, start, stop) in enumerate([(2, 2, 4), (0, 0, 2), (1, 0, 1)]):
        images = [decode_image(data) for data in source.images[episode][start:stop]]
        np.testing.assert_array_equal(batch.image_BTHWC[row, : stop - start], images)
        tokens = source.action_spec.encode(source.moves[episode][start:stop])
        np.testing.assert_array_equal(batch.token_BTA[row, : stop - start], tokens)
    assert batch.image_BTHWC.dtype == np.uint8
    assert batch.token_BTA.dtype == np.int32
    assert batch.text_BE.dtype == np.float32


def test_a_short_episode_is_padded_at_the_end_and_marked(make_source: MakeSource) -> None:
    batch = _loader(make_source(3, 2), window=5, batch_size=2).take(np.array([0, 1]))
    assert batch.valid_BT.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    assert not batch.image_BTHWC[~batch.valid_BT].any()
    assert not batch.token_BTA[~batch.valid_BT].any()
    assert batch.image_BTHWC[batch.valid_BT].reshape(5, -1).any(axis=1).all()


def test_a_batch_is_a_function_of_seed_and_number(make_source: MakeSource) -> None:
    loader, again = _loader(make_source(*LENGTHS)), _loader(make_source(*LENGTHS), threads=3)
    for number in (7, 0, 3, 7):
        _assert_equal(loader.batch(number), again.batch(number))
    other = _loader(make_source(*LENGTHS), seed=1)
    assert any(other.batch(k).episodes != loader.batch(k).episodes for k in range(5))


@pytest.mark.parametrize("first", [0, 1, 5, 1000])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_stream_is_the_batches_in_order_from_any_start(first: int, threads: int, make_source: MakeSource) -> None:
    loader = _loader(make_source(*LENGTHS), threads=threads)
    stream = loader.stream(first)
    for number, batch in enumerate(itertools.islice(stream, 6), start=first):
        _assert_equal(batch, loader.batch(number))
    stream.close()


def test_a_pass_shows_every_window_once(make_source: MakeSource) -> None:
    loader = _loader(make_source(*LENGTHS))  # 3 + 1 + 5 + 2 windows
    shown = [image.tobytes() for number in range(11) for image in loader.batch(number).image_BTHWC]
    first, second, third = shown[:11], shown[11:22], shown[22:]
    assert len(set(first)) == 11
    assert Counter(first) == Counter(second) == Counter(third)
    assert first != second != third


def test_windows_in_order_come_once_and_the_last_batch_may_be_smaller(make_source: MakeSource) -> None:
    batches = list(_loader(make_source(*LENGTHS), batch_size=4).in_order())
    assert [len(batch.episodes) for batch in batches] == [4, 4, 3]
    assert sum((batch.episodes for batch in batches), ()) == (0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3)


def test_values_outside_the_bounds_are_clipped_and_counted(make_source: MakeSource) -> None:
    source = make_source(3)
    source.moves[0][:] = [[0, 0, 0], [2, 0, -np.inf], [0, 0, 1]]
    batch = _loader(source, window=3, batch_size=1).take(np.array([0]))
    assert batch.clipped == 2
    assert batch.token_BTA[0, 1].tolist() == [15, 7, 0]


def test_an_image_that_does_not_decode_is_named(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS)
    source.images[2][4] = source.images[2][4][:200]
    with pytest.raises(DataError, match=r"^memory, episode 2, step 4: a JPEG of 200 bytes "):
        list(_loader(source).in_order())


def test_the_very_first_image_is_named_too(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS)
    source.images[0][0] = b"nothing"
    with pytest.raises(DataError, match=r"^memory, episode 0, step 0: an image of 7 bytes"):
        _loader(source)


def test_an_image_of_another_size_is_refused(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS, size=(20, 24))
    source.images[3][2] = encode_jpeg(np.zeros((20, 28, 3), np.uint8))
    with pytest.raises(DataError, match=r"^memory, episode 3, step 2: .* \(20, 28, 3\), .* \(20, 24, 3\); all images"):
        list(_loader(source).in_order())


def test_an_action_that_is_not_a_number_is_named(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS)
    source.moves[2][5, 1] = np.nan
    with pytest.raises(DataError, match=r"^memory, episode 2, steps 4\.\.5: the action is NaN in \['move_1'\]"):
        list(_loader(source).in_order())


def test_an_error_in_a_thread_comes_out_at_its_batch(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS)
    good, bad = _loader(make_source(*LENGTHS), threads=2), _loader(source, threads=2)
    first = next(number for number in range(20) if 1 in good.batch(number).episodes)
    assert first > 0
    source.images[1][0] = b"nothing"
    stream = bad.stream(0)
    for number in range(first):
        _assert_equal(next(stream), good.batch(number))
    with pytest.raises(DataError, match="memory, episode 1, step 0"):
        next(stream)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"threads": 0}])
def test_sizes_below_one_are_refused(options: dict[str, int], make_source: MakeSource) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        _loader(make_source(3), **options)


def test_a_source_of_another_action_size_is_refused_with_its_episode(make_source: MakeSource) -> None:
    source = make_source(3, 3)
    source.action_spec = dataclasses.replace(
        source.action_spec,
        parts=(dataclasses.replace(source.action_spec.parts[0], low=(-1.0,) * 4, high=(1.0,) * 4),),
    )
    with pytest.raises(DataError, match=r"memory, episode 0, steps 0\.\.1: the last dimension .* must be 4"):
        _loader(source).take(np.array([0]))
