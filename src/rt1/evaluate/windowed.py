"""The windows of an episode as training and validation see them, through the loader, and the network's logits on them.

Shape letters: S steps of a clip, G windows cut from it, T steps of a window, K tokens per image, E token or text width,
A action dimensions, V bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.actions import FloatArray
from rt1.data.pipeline.loader import Loader
from rt1.data.pipeline.windows import Clips, Windows
from rt1.data.sources.base import EpisodeSource
from rt1.model.rt1 import RT1
from rt1.policy.stepper import guided

GROUP = 16
"""Windows cut from a clip: the images they share are encoded once."""
_IMAGES = 8  # encoded at once, which bounds the memory whatever their size


@dataclass(frozen=True, kw_only=True)
class WindowBlock:
    """Some neighbouring windows of an episode."""

    start: int
    """First step of the first window."""
    stop: int
    """One past the last step of the last window."""
    step_GT: NDArray[np.int64]
    """Step of the episode at each place; where padded, a step that may be read."""
    valid_GT: NDArray[np.bool_]
    """False where padded: behind the last step of an episode shorter than a window."""
    token_GTA: Tensor
    """Recorded action tokens."""
    logits_GTAV: Tensor
    """float32."""

    def last_steps(self) -> NDArray[np.bool_]:
        """Return bool (G, T), True at the last step of each window, the one that a policy acts on."""
        followed = np.zeros_like(self.valid_GT)
        followed[:, :-1] = self.valid_GT[:, 1:]
        return self.valid_GT & ~followed

    def as_streamed(self) -> NDArray[np.bool_]:
        """Return bool (G, T), True where the network sees exactly what a policy has in its memory at that step.

        That is every step of the window that begins the episode, and the last step of every other: before the window
        is full, a policy's memory holds the episode's first images at the first places, as the first window does.
        """
        full = np.zeros_like(self.valid_GT)
        full[:, -1] = True
        return self.valid_GT & (full | (self.step_GT[:, :1] == 0))


def window_blocks(
    model: RT1, source: EpisodeSource, episode: int, text_E: FloatArray, *, cond_scale: float = 1.0
) -> Iterator[WindowBlock]:
    """Yield all windows of an episode without padding in front, as validation during training has them.

    Args:
        model: the network, in evaluation mode, on the CPU.
        source: recorded episodes.
        episode: the number of one.
        text_E: its text embedding, float32 (E,).
        cond_scale: guidance, see :class:`rt1.policy.stepper.Stepper`.
    """
    windows = Windows(lengths=source.lengths, episodes=np.array([episode]), window=model.config.window)
    clips = Clips(windows=windows, group=GROUP)
    text = np.broadcast_to(text_E, (len(source.lengths), len(text_E)))
    loader = Loader(source, clips, text=text, batch_size=1, seed=0)
    condition_1, null_1 = _conditions(model, torch.from_numpy(text_E)[None], guided=cond_scale != 1.0)
    for number, batch in enumerate(loader.in_order()):
        assert batch.cuts is not None
        present = batch.cuts.valid_BGT[0].any(axis=1)
        place_GT, valid_GT = batch.cuts.place_BGT[0][present], batch.cuts.valid_BGT[0][present]
        start = int(clips.places(np.array([number])).starts[0])
        image_SHWC = torch.from_numpy(batch.images[0].image_NTHWC[0][batch.valid_BT[0]])
        logits_GTAV = _logits(model, image_SHWC, place_GT, condition_1)
        if null_1 is not None:
            logits_GTAV = guided(logits_GTAV, _logits(model, image_SHWC, place_GT, null_1), cond_scale)
        yield WindowBlock(
            start=start,
            stop=start + len(image_SHWC),
            step_GT=start + place_GT,
            valid_GT=valid_GT,
            token_GTA=torch.from_numpy(batch.token_BTA)[0][place_GT],
            logits_GTAV=logits_GTAV,
        )


@torch.inference_mode()
def _conditions(model: RT1, text_1E: Tensor, *, guided: bool) -> tuple[Tensor, Tensor | None]:
    """Return what the network makes of the text; with guidance also what it makes of no text."""
    return model.text(text_1E), model.text(text_1E, torch.ones(1, dtype=torch.bool)) if guided else None


@torch.inference_mode()
def _logits(model: RT1, image_SHWC: Tensor, place_GT: NDArray[np.int64], condition_1: Tensor) -> Tensor:
    """Return logits (G, T, A, V) of windows cut from consecutive images.

    Padding stands behind the real steps, which cannot see it.
    """
    pieces = [
        model.encode(model.prepare(piece), condition_1.expand(len(piece), *condition_1.shape[1:]))
        for piece in image_SHWC.split(_IMAGES)
    ]
    windows = len(place_GT)
    return model.decode(torch.cat(pieces)[place_GT], condition_1.expand(windows, *condition_1.shape[1:]))
