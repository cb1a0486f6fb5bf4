"""Batches: pure functions of their number, padding marked, and every bad step named."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.data.pipeline.loader import Batch, Loader
from rt1.data.pipeline.mixture import Mixture
from rt1.data.pipeline.windows import Clips, Windows
from rt1.data.sources.concat import JoinedSource
from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.errors import DataError

LENGTHS = (4, 1, 6, 3)

MakeSource = Callable[..., Any]


def _windows(source: Any, **options: Any) -> Windows:
    return Windows(**{"lengths": source.lengths, "episodes": np.arange(len(source.lengths)), "window": 2, **options})


def _loader(source: Any, *, window: int = 2, batch_size: int = 3, **options: Any) -> Loader:
    windows = options.pop("windows", None) or _windows(source, window=window)
    text = np.arange(len(source.lengths), dtype=np.float32)[:, None]
    return Loader(source, windows, text=text, batch_size=batch_size, **{"seed": 0, **options})


def _mixture_loader(make_source: MakeSource, **options: Any) -> Loader:
    sources = [make_source(*LENGTHS), make_source(5, 2), make_source(7)]
    return _loader_of(*sources, weights=(5.0, 2.0, 1.0), **options)


def _loader_of(*sources: Any, weights: tuple[float, ...] = (1.0, 1.0, 1.0), **options: Any) -> Loader:
    """A loader of the windows of several sources."""
    joined, ends = JoinedSource(sources), np.cumsum([len(source.lengths) for source in sources])
    parts = tuple(_windows(joined, episodes=episodes) for episodes in np.split(np.arange(ends[-1]), ends[:-1]))
    return _loader(joined, windows=Mixture(parts=parts, weights=weights[: len(parts)]), **options)


def _images(batch: Batch) -> NDArray[np.uint8]:
    """The images of a batch that has one size of them."""
    (group,) = batch.images
    np.testing.assert_array_equal(group.row_N, np.arange(len(batch.episodes)))
    return group.image_NTHWC


def _rows(batch: Batch) -> list[tuple[Any, ...]]:
    """Everything of each row, to compare rows of batches of different sizes."""
    columns = (_images(batch), batch.text_BE, batch.token_BTA, batch.valid_BT)
    return [(episode, *(column[row].tobytes() for column in columns)) for row, episode in enumerate(batch.episodes)]


def _assert_equal(one: Batch, other: Batch) -> None:
    np.testing.assert_array_equal(_images(one), _images(other))
    for column in fields(Batch)[1:]:
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
        np.testing.assert_array_equal(_images(batch)[row, : stop - start], images)
        tokens = source.action_spec.encode(source.moves[episode][start:stop])
        np.testing.assert_array_equal(batch.token_BTA[row, : stop - start], tokens)
    assert _images(batch).dtype == np.uint8
    assert batch.token_BTA.dtype == np.int32
    assert batch.text_BE.dtype == np.float32


def test_a_short_episode_is_padded_at_the_end_and_marked(make_source: MakeSource) -> None:
    batch = _loader(make_source(3, 2), window=5, batch_size=2).take(np.array([0, 1]))
    assert batch.valid_BT.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    assert not _images(batch)[~batch.valid_BT].any()
    assert not batch.token_BTA[~batch.valid_BT].any()
    assert _images(batch)[batch.valid_BT].reshape(5, -1).any(axis=1).all()


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
    shown = [image.tobytes() for number in range(11) for image in _images(loader.batch(number))]
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
    with pytest.raises(DataError, match=r"^memory, episode 2, step 4: .*200 bytes"):
        list(_loader(source).in_order())


def test_the_very_first_image_is_named_too(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS)
    source.images[0][0] = b"nothing"
    with pytest.raises(DataError, match=r"^memory, episode 0, step 0: .*7 bytes"):
        _loader(source)


def test_an_image_of_another_size_is_refused(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS, size=(20, 24))
    source.images[3][2] = encode_jpeg(np.zeros((20, 28, 3), np.uint8))
    with pytest.raises(DataError, match=r"^memory, episode 3, step 2: .*\(20, 28, 3\).*\(20, 24, 3\)"):
        list(_loader(source).in_order())


def test_an_action_that_is_not_a_number_is_named(make_source: MakeSource) -> None:
    source = make_source(*LENGTHS)
    source.moves[2][5, 1] = np.nan
    with pytest.raises(DataError, match=r"^memory, episode 2, steps 4\.\.5: .*NaN.*'move_1'"):
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
    with pytest.raises(ValueError, match="Both must be at least 1"):
        _loader(make_source(3), **options)


def test_a_source_of_another_action_size_is_refused_with_its_episode(make_source: MakeSource) -> None:
    source = make_source(3, 3)
    source.action_spec = dataclasses.replace(
        source.action_spec,
        parts=(dataclasses.replace(source.action_spec.parts[0], low=(-1.0,) * 4, high=(1.0,) * 4),),
    )
    with pytest.raises(DataError, match=r"memory, episode 0, steps 0\.\.1: .*dimension.*4"):
        _loader(source).take(np.array([0]))


def test_the_stream_of_one_source_never_changes(make_source: MakeSource) -> None:
    # Runs resume by this stream: another hash here breaks every run that was begun before.
    digest = hashlib.sha256()
    for batch in itertools.islice(_loader(make_source(*LENGTHS, 9), window=3).stream(2), 20):
        for array in (batch.token_BTA, batch.valid_BT, batch.text_BE):
            digest.update(array.tobytes())
        digest.update(str((batch.episodes, batch.clipped)).encode())
    assert digest.hexdigest()[:16] == "0b4b7f6fd013f903"


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_any_number_of_ranks_sees_one_stream(world: int, make_source: MakeSource) -> None:
    alone = _mixture_loader(make_source, batch_size=12)
    streams = [
        _mixture_loader(make_source, batch_size=12, threads=1 + rank % 2).stream(5, rank=rank, world=world)
        for rank in range(world)
    ]
    for number in range(5, 9):
        together = [row for stream in streams for row in _rows(next(stream))]
        assert together == _rows(alone.batch(number))
    for stream in streams:
        stream.close()


@pytest.mark.parametrize(("rank", "world"), [(0, 5), (2, 2), (-1, 2)])
def test_a_rank_that_has_no_share_is_refused(rank: int, world: int, make_source: MakeSource) -> None:
    with pytest.raises(ValueError, match=rf"rank {rank} of {world} .*batch size of 12"):
        _mixture_loader(make_source, batch_size=12).batch(0, rank=rank, world=world)


@pytest.mark.parametrize("stop", range(7))
def test_a_stream_goes_on_exactly_where_it_stopped_with_another_number_of_ranks(
    stop: int, make_source: MakeSource
) -> None:
    loader = _mixture_loader(make_source, batch_size=6)
    stream = loader.stream()
    for _ in range(stop):
        next(stream)
    stream.close()
    state = json.loads(json.dumps(loader.state_dict()))
    again = [_mixture_loader(make_source, batch_size=6) for _ in range(2)]
    rows = []
    for rank, other in enumerate(again):
        other.load_state_dict(state)
        rows += _rows(next(other.stream(rank=rank, world=2)))
        assert other.state_dict()["next_batch"] == stop + 1
    assert rows == _rows(loader.batch(stop))


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 4}, {"window": 3}])
def test_the_state_of_another_order_is_refused(change: dict[str, int], make_source: MakeSource) -> None:
    state = _loader(make_source(*LENGTHS)).state_dict()
    with pytest.raises(DataError, match=r"another order of samples: .* was .*, is "):
        _loader(make_source(*LENGTHS), **change).load_state_dict(state)


def test_something_else_than_a_state_is_refused(make_source: MakeSource) -> None:
    with pytest.raises(DataError, match=r"state of a loader.*KeyError"):
        _loader(make_source(3)).load_state_dict({"seed": 0})


def test_threads_share_a_batch_and_errors_come_in_the_order_of_rows(make_source: MakeSource) -> None:
    source = make_source(*([3] * 40))
    source.moves[20][2, 0] = source.moves[30][0, 0] = np.nan
    windows = _windows(source, window=3)
    loader = _loader(source, windows=windows, batch_size=40, threads=4)
    first = next(e for e in loader._order.samples(0, 40)[1].episodes.tolist() if e in (20, 30))
    for _ in range(3):
        with pytest.raises(DataError, match=rf"^memory, episode {first}, steps 0\.\.2: .*NaN"):
            next(loader.stream(0))


def test_an_unforeseen_error_in_a_thread_says_where_it_was(make_source: MakeSource) -> None:
    def read(*_: int) -> list[bytes]:
        raise OSError("the network is down")

    source = make_source(*LENGTHS)
    loader = _loader(source)
    source.encoded_images = read
    with pytest.raises(OSError, match="the network is down") as caught:
        next(loader.stream(0))
    assert caught.value.__notes__[0].startswith("while reading memory, episode ")


def test_sources_of_different_image_sizes_are_groups_of_a_batch(make_source: MakeSource) -> None:
    sources = [make_source(4), make_source(4, size=(32, 40)), make_source(4, size=(30, 24))]
    loader = _loader_of(*sources)
    batch = loader.take(np.array([3, 0, 4, 8, 1]))
    assert [group.row_N.tolist() for group in batch.images] == [[1, 4], [0, 2], [3]]
    assert [group.image_NTHWC.shape for group in batch.images] == [
        (2, 2, 48, 48, 3),
        (2, 2, 32, 40, 3),
        (1, 2, 30, 24, 3),
    ]
    for group in batch.images:
        for row, image_THWC in zip(*group, strict=True):
            single = loader.take(np.array([[3, 0, 4, 8, 1][row]]))
            np.testing.assert_array_equal(image_THWC, _images(single)[0])
    first, second = batch.rows(0, 2), batch.rows(2, 5)
    assert [group.row_N.tolist() for group in first.images] == [[1], [0]]
    assert [group.row_N.tolist() for group in second.images] == [[2], [0], [1]]
    np.testing.assert_array_equal(second.images[0].image_NTHWC, batch.images[0].image_NTHWC[1:])


def test_a_blue_first_source_and_one_of_decoded_images_are_mixed(make_source: MakeSource) -> None:
    plain, swapped, decoded = make_source(3), make_source(3), make_source(3)
    swapped.bgr = True
    stored = [np.asarray(cv2.cvtColor(decode_image(d), cv2.COLOR_RGB2BGR), np.uint8) for d in plain.images[0]]
    decoded.images = lambda _, start, stop: stored[start:stop]
    batch = _loader_of(plain, swapped, decoded).take(np.array([0, 2, 4]))
    np.testing.assert_array_equal(_images(batch)[1], _images(batch)[0, ..., ::-1])
    np.testing.assert_array_equal(_images(batch)[2], _images(batch)[0, ..., ::-1])


def test_errors_of_a_mixture_name_the_source_and_its_own_episode(make_source: MakeSource) -> None:
    sources = [make_source(3), make_source(3, 3)]
    sources[1].name = "other"
    sources[1].moves[1][2, 0] = np.nan
    with pytest.raises(DataError, match=r"^other, episode 1, steps 1\.\.2: .*NaN"):
        list(_loader_of(*sources).in_order())


def test_windows_cut_from_clips_are_the_windows(make_source: MakeSource) -> None:
    source = make_source(7, 1, 4)
    windows = _windows(source, window=3)
    whole = _loader(source, windows=windows).take(np.arange(len(windows)))
    clips = Clips(windows=windows, group=4)
    batch = _loader(source, windows=clips).take(np.arange(len(clips)))
    assert batch.cuts is not None
    assert _images(batch).shape[1] == clips.steps == 6
    clip_BG1 = np.arange(len(clips))[:, None, None]
    there_BG = batch.cuts.valid_BGT.any(axis=-1)
    valid = batch.cuts.valid_BGT[there_BG]
    np.testing.assert_array_equal(valid, whole.valid_BT)
    images = _images(batch)[clip_BG1, batch.cuts.index_BGT][there_BG]
    np.testing.assert_array_equal(images[valid], _images(whole)[valid])
    tokens = batch.token_BTA[clip_BG1, batch.cuts.index_BGT][there_BG]
    np.testing.assert_array_equal(tokens[valid], whole.token_BTA[valid])


def test_a_batch_that_is_kept_is_not_overwritten(make_source: MakeSource) -> None:
    loader = _loader(make_source(*LENGTHS))
    stream = loader.stream(0)
    kept = [next(stream) for _ in range(12)]
    stream.close()
    for number, batch in enumerate(kept):
        _assert_equal(batch, loader.batch(number))


def test_a_long_stream_uses_a_bounded_number_of_buffers(make_source: MakeSource) -> None:
    loader = _loader(make_source(*LENGTHS), threads=2)
    stream = loader.stream(0)
    places = {_images(batch).__array_interface__["data"][0] for batch in itertools.islice(stream, 60)}
    stream.close()
    assert len(places) <= 5
