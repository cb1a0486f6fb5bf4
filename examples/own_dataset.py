"""Your own recordings: an object with these members can be checked and trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.data.sources.images import encode_jpeg
from rt1.presets import preset
from rt1.testing import check_source
from rt1.train.loop import train

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


class Lamps:
    """Eight episodes: the lamp of the colour in the instruction lights up, and the arm moves to its side."""

    name = "lamps"
    action_spec = ActionSpec(parts=(Continuous(name="arm", low=(-1.0,), high=(1.0,)),))  # m/s, to the right
    lengths = np.full(8, 6, dtype=np.int64)

    def task(self, episode: int) -> str:
        return list(COLOURS)[episode % 2]

    def instruction(self, episode: int) -> str:
        return f"touch the {self.task(episode)} lamp"

    def text_embedding(self, episode: int) -> FloatArray | None:
        """Any fixed vector per sentence; return None and give ``train`` an encoder to have it computed."""
        return np.eye(len(COLOURS), dtype=np.float32)[episode % 2]

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        return [encode_jpeg(self._image(episode, step)) for step in range(start, stop)]

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        return np.full((stop - start, 1), (-0.5, 0.5)[episode % 2], dtype=np.float32)

    def _image(self, episode: int, step: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        image = np.full((48, 48, 3), 40, dtype=np.uint8)
        image[8:24, 8:24] = COLOURS[self.task(episode)]
        image[30:40, 4 * step : 4 * step + 8] = 255
        return image


if __name__ == "__main__":
    source = Lamps()
    check_source(source)  # says what is not as it should be
    print(f"{source.name}: {len(source.lengths)} episodes, {source.lengths.sum()} steps")
    result = train(source, preset("debug"), Path("outputs/lamps"))
    print(f"trained for {result.updates} updates, held-out loss {result.best:.2f}; run again to go on: {result.run}")
