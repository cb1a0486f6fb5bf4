"""Samples to batches: images decoded by threads into arrays, ahead of the training loop, in an order that resumes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray, TokenArray
from rt1.data.pipeline.buffers import ImageBuffers, ImageGroup
from rt1.data.pipeline.mixture import Mixture, SampleOrder, image_sizes
from rt1.data.pipeline.sentences import Sentences
from rt1.data.pipeline.windows import Clips, ClipWindows, WindowBounds, Windows
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import Embodiments, embodiments_of, origin
from rt1.data.sources.decoding import each_image
from rt1.errors import DataError

BATCHES_AHEAD = 2
"""Batches that are decoded while the training loop works on one."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B windows of T steps, or, with ``cuts``, B clips of T steps from which windows are cut."""

    images: tuple[ImageGroup, ...]
    """The images as stored, one group per size. Each sample is in one group."""
    text_BE: FloatArray
    """float32 text embeddings."""
    token_BTA: TokenArray
    """int32 action tokens. 0 where padded, -1 in dimensions that the sample's embodiment does not have."""
    action_BTA: FloatArray
    """float32 actions as recorded, physical units. 0 where padded and where there is no such dimension."""
    valid_BT: NDArray[np.bool_]
    """True for real steps, False for padding."""
    episodes: tuple[int, ...]
    """The B episodes, for messages."""
    clipped: int = 0
    """Number of action values outside the bounds, which encoding clips."""
    cuts: ClipWindows | None = None
    """The windows of each clip. None where the samples are windows."""
    embodiment_B: NDArray[np.int64] | None = None
    """Number of each sample's embodiment. None where there is one."""

    def rows(self, first: int, last: int) -> Batch:
        """Return samples ``first..last-1`` as a batch that shares memory. The first rows keep the count ``clipped``."""
        cut = slice(first, last)
        groups = [(group, slice(*np.searchsorted(group.row_N, (first, last)))) for group in self.images]
        return Batch(
            images=tuple(
                ImageGroup(group.row_N[rows] - first, group.image_NTHWC[rows])
                for group, rows in groups
                if rows.start < rows.stop
            ),
            text_BE=self.text_BE[cut],
            token_BTA=self.token_BTA[cut],
            action_BTA=self.action_BTA[cut],
            valid_BT=self.valid_BT[cut],
            episodes=self.episodes[cut],
            clipped=self.clipped if first == 0 else 0,
            cuts=None if self.cuts is None else ClipWindows(self.cuts.index_BGT[cut], self.cuts.valid_BGT[cut]),
            embodiment_B=None if self.embodiment_B is None else self.embodiment_B[cut],
        )


class Loader:
    """Batches by update number: ``batch(n)`` is a pure function of the seed and ``n``.

    The images of a batch may be kept. Their memory is used again when nothing refers to them.
    """

    def __init__(
        self,
        source: EpisodeSource,
        windows: Windows | Clips | Mixture,
        *,
        text: NDArray[np.float32] | Sentences,
        batch_size: int,
        seed: int,
        threads: int = 2,
    ) -> None:
        """Prepare a loader. :func:`~rt1.data.open_mixture.split_sources` joins several sources and mixes their windows.

        Args:
            source: the episodes.
            windows: the windows or clips to read.
            text: float32 (episodes, E) text embedding of each episode, or several per episode. With several, the seed
                and the sample number decide which one a sample gets.
            batch_size: B, over all ranks.
            seed: seed of the order.
            threads: number of threads that read and decode.

        Raises:
            DataError: the first image of a source does not decode.
        """
        if batch_size < 1 or threads < 1:
            raise ValueError(f"batch_size is {batch_size}, threads {threads}. Both must be at least 1")
        self._source, self._windows = source, windows
        self.embodiments: Embodiments = embodiments_of(source)
        """What the action tokens mean."""
        self._text = text if isinstance(text, Sentences) else Sentences.one_each(text)
        self._batch_size, self._seed, self._threads = batch_size, seed, threads
        self._sizes, self._size_E = image_sizes(source, windows)
        self._order = SampleOrder(windows, seed=seed)
        self._buffers = ImageBuffers()
        self._next = 0

    @property
    def samples(self) -> int:
        """Number of samples of one pass over the data."""
        return len(self._windows)

    def batch(self, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch ``number``, counted from 0, of the shuffled endless stream.

        With ``world`` processes, ``rank`` gets its rows of the batch. The rows of all ranks in order are the batch of
        one process. The batch size must be a multiple of ``world``.
        """
        return self._take(self._samples(number, rank, world))

    def stream(self, first: int | None = None, *, rank: int = 0, world: int = 1) -> Generator[Batch, None, None]:
        """Yield batches from number ``first`` on, without end, decoded ahead by the threads.

        None for ``first`` continues after the last batch yielded, see :meth:`state_dict`. For ``rank`` and ``world``
        see :meth:`batch`.
        """
        number = self._next if first is None else first
        samples = (self._samples(following, rank, world) for following in itertools.count(number))
        with closing(self._ahead(samples, threads="rt1-loader")) as batches:
            for batch in batches:
                number += 1
                self._next = number
                yield batch
                del batch  # the consumer decides when its memory is free

    def in_order(self, *, rank: int = 0, world: int = 1) -> Generator[Batch, None, None]:
        """Yield every sample once, in order, decoded ahead by the threads. The last batch may be smaller.

        With ``world`` processes, ``rank`` gets every ``world``-th batch, starting at batch ``rank``.
        """
        starts = range(rank * self._batch_size, len(self._windows), world * self._batch_size)
        numbers = (np.arange(start, min(start + self._batch_size, len(self._windows))) for start in starts)
        yield from self._ahead(map(self._items, numbers), threads="rt1-in-order")

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """Return the batch of these samples.

        Raises:
            DataError: an image that does not decode or has another size than the first of its source, or an action
                that cannot be encoded, such as NaN. The error names source, episode and step.
        """
        return self._take(self._items(numbers))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next batch and what decides the order, as plain data for any number of ranks."""
        return {"next_batch": self._next, "order": self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the next ``stream()`` at a state. One of another order raises ``DataError`` with the differences."""
        try:
            following, order = int(state["next_batch"]), dict(state["order"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is not the state of a loader: {error!r}. Give what state_dict() returned") from error
        settings = self._settings().items()
        if different := [f"{key} was {order.get(key)!r}, is {now!r}" for key, now in settings if order.get(key) != now]:
            raise DataError(f"the state is of another order of samples: {', '.join(different)}. Use the same settings")
        self._next = following

    def _settings(self) -> dict[str, Any]:
        return {"batch_size": self._batch_size, "seed": self._seed, "samples": self._windows.describe()}

    def _items(self, numbers: NDArray[np.int64]) -> _Samples:
        places = self._windows.places(numbers)
        return _Samples(numbers, places, self._text.instructions(places.episodes))

    def _samples(self, number: int, rank: int, world: int) -> _Samples:
        if not 0 <= rank < world or self._batch_size % world:
            raise ValueError(
                f"rank {rank} of {world} with a batch size of {self._batch_size}. The rank must be 0..{world - 1}, and "
                "the batch size, which is that of all ranks together, a multiple of their number"
            )
        share = self._batch_size // world
        first = number * self._batch_size + rank * share
        numbers, places = self._order.samples(first, share)
        return _Samples(numbers, places, self._drawn_text(np.arange(first, first + share), numbers, places))

    def _drawn_text(self, samples: NDArray[np.int64], items: NDArray[np.int64], places: WindowBounds) -> FloatArray:
        """Return a text embedding (B, E) for each global sample number, as a function of the seed."""
        if not self._text.in_turn:
            return self._text.drawn(places.episodes, samples, seed=self._seed)
        mixture = self._windows
        passes = mixture.passes(samples) if isinstance(mixture, Mixture) else samples // len(mixture)
        return self._text.taken(places.episodes, items, passes)

    def _take(self, samples: _Samples) -> Batch:
        batch = self._prepare(samples)
        self._fill_images(batch, samples.places, 0, len(samples.numbers))
        return replace(batch, clipped=self._fill_tokens(batch, samples.places))

    def _submit(self, pool: ThreadPoolExecutor, samples: _Samples) -> Callable[[], Batch]:
        """Let the threads fill a batch, and return the function that waits for it."""
        batch, places, rows = self._prepare(samples), samples.places, len(samples.numbers)
        # Several pieces per thread, so that all threads work until the end of a batch.
        pieces = np.linspace(0, rows, min(rows, 4 * self._threads) + 1).astype(int).tolist()
        tokens = pool.submit(self._fill_tokens, batch, places)
        images = [pool.submit(self._fill_images, batch, places, start, stop) for start, stop in pairwise(pieces)]

        def result() -> Batch:
            clipped = tokens.result()
            for piece in images:
                piece.result()
            return replace(batch, clipped=clipped)

        return result

    def _ahead(self, samples: Iterator[_Samples], *, threads: str) -> Generator[Batch, None, None]:
        """Yield the batches of these samples while threads of this name decode the next ones."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix=threads) as pool:
            waiting: deque[Callable[[], Batch]] = deque()
            try:
                while True:
                    for following in itertools.islice(samples, BATCHES_AHEAD + 1 - len(waiting)):
                        waiting.append(self._submit(pool, following))
                    if not waiting:
                        return
                    yield waiting.popleft()()
            finally:
                pool.shutdown(cancel_futures=True)

    def _prepare(self, samples: _Samples) -> Batch:
        """Return a batch whose images and actions are not filled in."""
        numbers, places, text_BE = samples
        rows, steps, dimensions = len(numbers), self._windows.steps, self.embodiments.size
        step_BT = places.starts[:, None] + np.arange(steps)
        return Batch(
            images=self._buffers.take(self._size_E[places.episodes], self._sizes, steps),
            text_BE=text_BE,
            token_BTA=np.zeros((rows, steps, dimensions), dtype=np.int32),
            action_BTA=np.zeros((rows, steps, dimensions), dtype=np.float32),
            valid_BT=step_BT < places.stops[:, None],
            episodes=tuple(places.episodes.tolist()),
            cuts=self._windows.cuts(numbers),
            embodiment_B=self.embodiments.heads[places.episodes] if self.embodiments.several else None,
        )

    def _fill_images(self, batch: Batch, places: WindowBounds, first: int, last: int) -> None:
        image_of_row = {row: image for group in batch.images for row, image in zip(*group, strict=True)}
        for row in range(first, last):
            episode, start, stop = (int(column[row]) for column in places)
            source, number = origin(self._source, episode)
            image_THWC = image_of_row[row]
            try:
                _read_images(source, number, start, stop, image_THWC[: stop - start])
            except Exception as error:
                error.add_note(f"while reading {source.name}, episode {number}, steps {start}..{stop - 1}")
                raise
            image_THWC[stop - start :] = 0

    def _fill_tokens(self, batch: Batch, places: WindowBounds) -> int:
        """Encode the actions of all rows, each by its embodiment, and return how many values were clipped."""
        embodiment_B = self.embodiments.heads[places.episodes]
        masks = [(embodiment_B == head, spec) for head, spec in enumerate(self.embodiments.specs.values())]
        return sum(self._fill_tokens_of(batch, places, mask_B, spec) for mask_B, spec in masks if mask_B.any())

    def _fill_tokens_of(self, batch: Batch, places: WindowBounds, mask_B: NDArray[np.bool_], spec: ActionSpec) -> int:
        """Encode the actions of some rows at once. On an error encode them one by one, to name the row."""
        samples = np.stack(places, axis=1)[mask_B].tolist()
        try:
            actions = np.concatenate([self._source.actions(*sample) for sample in samples])
            mask_BT = batch.valid_BT & mask_B[:, None]
            batch.token_BTA[mask_BT, : spec.size] = spec.encode(actions)
            batch.token_BTA[mask_B, :, spec.size :] = -1
            batch.action_BTA[mask_BT, : spec.size] = actions
            return int(spec.out_of_bounds(actions).sum())
        except ValueError:
            for episode, start, stop in samples:
                try:
                    spec.encode(self._source.actions(episode, start, stop))
                except ValueError as error:
                    source, number = origin(self._source, episode)
                    raise DataError(f"{source.name}, episode {number}, steps {start}..{stop - 1}: {error}") from error
            raise


def _read_images(source: EpisodeSource, episode: int, start: int, stop: int, out_THWC: NDArray[np.uint8]) -> None:
    # One by one: an image is still in the processor's cache when it is copied.
    for place, image in enumerate(each_image(source, episode, start, stop)):
        if image.shape != out_THWC.shape[1:]:
            raise DataError(
                f"{source.name}, episode {episode}, step {start + place}: the image has shape {image.shape}, the "
                f"source's first one {out_THWC.shape[1:]}. All images of a source must have one size. Convert the set"
            )
        out_THWC[place] = image


class _Samples(NamedTuple):
    """The samples of a batch before they are read."""

    numbers: NDArray[np.int64]
    places: WindowBounds
    text_BE: FloatArray
