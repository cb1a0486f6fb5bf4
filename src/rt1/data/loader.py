"""Samples to batches: images decoded by threads into arrays, ahead of the training loop, in an order that resumes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray, TokenArray
from rt1.data.episode import DataError, EpisodeSource
from rt1.data.images import decode_image
from rt1.data.mixture import shuffled
from rt1.data.windows import Windows


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B windows of T steps."""

    image_BTHWC: NDArray[np.uint8]
    """uint8 RGB; black where padded."""
    text_BE: FloatArray
    """float32 text embeddings."""
    token_BTA: TokenArray
    """int32 action tokens; 0 where padded."""
    valid_BT: NDArray[np.bool_]
    """True for real steps, False for padding."""
    episodes: tuple[int, ...]
    """The B episodes, for messages."""
    clipped: int
    """Action values outside the bounds, clipped by encoding."""


class Loader:
    """Batches of one source by update number: ``batch(n)`` is a pure function of the seed and ``n``."""

    def __init__(
        self,
        source: EpisodeSource,
        windows: Windows,
        *,
        text: NDArray[np.float32],
        batch_size: int,
        seed: int,
        threads: int = 2,
    ) -> None:
        """Prepare a loader.

        Args:
            source: where the episodes are.
            windows: which windows of it.
            text: float32 (number of episodes, E), the text embedding of each episode of the source.
            batch_size: B.
            seed: seed of the order.
            threads: threads that read and decode.
        """
        if batch_size < 1 or threads < 1:
            raise ValueError(f"batch_size is {batch_size}, threads {threads}; both must be at least 1")
        self._source, self._windows, self._text = source, windows, text
        self._batch_size, self._seed, self._threads = batch_size, seed, threads
        self._height, self._width = _image_shape(source, int(windows.episodes[0]))

    def batch(self, number: int) -> Batch:
        """Return batch ``number``, counted from 0, of the shuffled endless stream."""
        first = number * self._batch_size
        samples = np.arange(first, first + self._batch_size)
        return self.take(shuffled(samples, len(self._windows), seed=self._seed))

    def stream(self, first: int) -> Generator[Batch, None, None]:
        """Yield batches from number ``first`` on, without end, decoded ahead by the threads."""
        ahead = self._threads + 1
        with ThreadPoolExecutor(self._threads, thread_name_prefix="rt1-loader") as pool:
            waiting: list[Future[Batch]] = [pool.submit(self.batch, first + k) for k in range(ahead)]
            try:
                while True:
                    ready = waiting.pop(0)
                    waiting.append(pool.submit(self.batch, first + ahead))
                    first += 1
                    yield ready.result()
            finally:
                for future in waiting:
                    future.cancel()

    def in_order(self) -> Iterator[Batch]:
        """Yield every window once, in order; the last batch may be smaller."""
        for start in range(0, len(self._windows), self._batch_size):
            yield self.take(np.arange(start, min(start + self._batch_size, len(self._windows))))

    def take(self, numbers: NDArray[np.int64]) -> Batch:
        """Return the batch of these windows.

        Raises:
            DataError: an image does not decode or has another size than the first of the source; an action that
                cannot be encoded, a NaN for one.
        """
        spec, steps = self._source.action_spec, self._windows.window
        image_BTHWC = np.zeros((len(numbers), steps, self._height, self._width, 3), dtype=np.uint8)
        token_BTA = np.zeros((len(numbers), steps, spec.size), dtype=np.int32)
        valid_BT = np.zeros((len(numbers), steps), dtype=np.bool_)
        episodes, clipped = [], 0
        for row, number in enumerate(numbers):
            episode, start, stop = self._windows.locate(int(number))
            try:
                actions = self._source.actions(episode, start, stop)
                clipped += int(spec.out_of_bounds(actions).sum())
                token_BTA[row, : stop - start] = spec.encode(actions)
            except ValueError as error:
                where = f"{self._source.name}, episode {episode}, steps {start}..{stop - 1}"
                raise DataError(f"{where}: {error}") from error
            valid_BT[row, : stop - start] = True
            self._decode(episode, start, stop, image_BTHWC[row])
            episodes.append(episode)
        return Batch(
            image_BTHWC=image_BTHWC,
            text_BE=self._text[episodes],
            token_BTA=token_BTA,
            valid_BT=valid_BT,
            episodes=tuple(episodes),
            clipped=clipped,
        )

    def _decode(self, episode: int, start: int, stop: int, out_THWC: NDArray[np.uint8]) -> None:
        for place, data in enumerate(self._source.encoded_images(episode, start, stop)):
            where = f"{self._source.name}, episode {episode}, step {start + place}"
            image = _decode_at(where, data)
            if image.shape != out_THWC.shape[1:]:
                raise DataError(
                    f"{where}: the image has shape {image.shape}, the source's first one {out_THWC.shape[1:]}; "
                    "all images of a source must have one size; convert the set"
                )
            out_THWC[place] = image


def _image_shape(source: EpisodeSource, episode: int) -> tuple[int, int]:
    data = source.encoded_images(episode, 0, 1)[0]
    height, width, _ = _decode_at(f"{source.name}, episode {episode}, step 0", data).shape
    return height, width


def _decode_at(where: str, data: bytes) -> NDArray[np.uint8]:
    try:
        return decode_image(data)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
