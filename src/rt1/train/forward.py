"""The forward pass of training: a batch's inputs, the logits, and the targets.

Shape letters: B samples of the batch, S their steps, X images, W windows, T window, K image tokens, E width, A action
dimensions, V bins. Where samples are windows W is B and S is T.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rt1.data.pipeline.loader import Batch
from rt1.model.rt1 import RT1, SharedImages
from rt1.preprocess import resize, to_float
from rt1.train.config import Precision

Augment = Callable[[Tensor, NDArray[np.int64]], Tensor]
"""Changes float images (N, S, C, H, W) in [0, 1] of these samples, N places in the batch, before they are resized."""
_PIXELS_AT_ONCE = 1 << 24
"""Pixels that are prepared at once: as float32 at the size they are stored in, 0.2 GB and as much for the crop."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which images of a batch are encoded, and which of them each window consists of."""

    image_X: NDArray[np.int64] | None  # indices into the B*S images; None: all of them, in order
    place_WT: NDArray[np.int64] | None  # image at each window position; None: all X, in order
    row_W: NDArray[np.int64]  # sample of each window
    step_WT: NDArray[np.int64]  # indices into the B*S steps
    valid_WT: NDArray[np.bool_]  # true for real steps

    @property
    def images(self) -> int:
        """X: images to encode."""
        return self.step_WT.size if self.image_X is None else len(self.image_X)

    @property
    def windows(self) -> int:
        """W: windows."""
        return len(self.row_W)


def layout(batch: Batch) -> Layout:
    """Return the layout of a batch: its windows, or every image of its clips once and the windows cut from them."""
    rows, steps = batch.valid_BT.shape
    if batch.cuts is None:
        step_WT = np.arange(rows * steps).reshape(rows, steps)
        return Layout(image_X=None, place_WT=None, row_W=np.arange(rows), step_WT=step_WT, valid_WT=batch.valid_BT)
    real = batch.valid_BT.reshape(-1)
    exists_BG = batch.cuts.valid_BGT.any(axis=2)  # an episode's last clip may hold fewer windows
    row_W = np.nonzero(exists_BG)[0]
    step_WT = batch.cuts.index_BGT[exists_BG] + row_W[:, None] * steps
    return Layout(
        image_X=np.flatnonzero(real),
        place_WT=(np.cumsum(real) - 1)[step_WT],
        row_W=row_W,
        step_WT=step_WT,
        valid_WT=batch.cuts.valid_BGT[exists_BG],
    )


class Prediction(NamedTuple):
    """The network's logits for the windows of a batch, and what was recorded."""

    logits_WTAV: Tensor  # float32
    token_WTA: Tensor  # recorded action tokens; -1 in dimensions that a window's embodiment does not have
    mask_WT: Tensor  # true for the steps that count
    action_WTA: Tensor  # recorded actions, physical units
    embodiment_W: Tensor | None = None  # number of each window's embodiment; None where there is one

    def accuracy(self) -> float:
        """Return the share of right tokens among those that count."""
        right_WTA = self.logits_WTAV.detach().argmax(-1) == self.token_WTA
        right_WT = right_WTA.sum(-1) / (self.token_WTA >= 0).sum(-1)
        return float((right_WT * self.mask_WT).sum() / self.mask_WT.sum().clamp(min=1))


class Predictor(nn.Module):
    """The network with its text input, in one precision. Training compiles it and copies it to every rank."""

    def __init__(self, model: RT1, precision: Precision) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(
        self,
        image: Tensor,
        text_BE: Tensor,
        dropped_B: Tensor | None,
        shared: SharedImages | None,
        embodiment_W: Tensor | None,
    ) -> Tensor:
        """Return float32 logits (W, T, A, V), see :meth:`RT1.forward`. ``dropped_B`` marks samples without text."""
        bf16 = self.precision == "bf16"
        with torch.autocast(image.device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
            condition_B = self.model.text(text_BE, dropped_B)
            return self.model(image, condition_B, shared=shared, embodiment_B=embodiment_W)


def predict(
    predictor: nn.Module,
    batch: Batch,
    *,
    plan: Layout | None = None,
    image_size: tuple[int, int],
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    dropped_B: NDArray[np.bool_] | None = None,
) -> Prediction:
    """Run a :class:`Predictor` on a batch of windows or clips.

    Args:
        predictor: may be compiled or data-parallel.
        batch: windows or clips, as the loader gives them.
        plan: layout of the batch, if already known.
        image_size: height and width of the network's images.
        device: of the network.
        augment: see :data:`Augment`.
        dropped_B: True for samples without text.
    """
    plan = plan or layout(batch)
    rows, steps = batch.valid_BT.shape
    image_XCHW = prepared_images(batch, image_size=image_size, device=device, augment=augment)
    if plan.image_X is not None:
        image_XCHW = image_XCHW[_to(device, plan.image_X)]
    image_XCHW = image_XCHW.contiguous(memory_format=torch.channels_last)
    shared = None
    if plan.image_X is not None and plan.place_WT is not None:
        sample_X, image_WT, sample_W = (_to(device, a) for a in (plan.image_X // steps, plan.place_WT, plan.row_W))
        shared = SharedImages(sample_X=sample_X, image_WT=image_WT, sample_W=sample_W)
    embodiment_W = None if batch.embodiment_B is None else _to(device, batch.embodiment_B[plan.row_W])
    logits_WTAV = predictor(  # padding stands behind the real steps, which cannot see it
        image_XCHW.unflatten(0, (rows, steps)) if shared is None else image_XCHW,
        _to(device, batch.text_BE),
        None if dropped_B is None else _to(device, dropped_B),
        shared,
        embodiment_W,
    )
    return Prediction(
        logits_WTAV,
        _to(device, batch.token_BTA.reshape(rows * steps, -1)[plan.step_WT]),
        _to(device, plan.valid_WT),
        _to(device, batch.action_BTA.reshape(rows * steps, -1)[plan.step_WT]),
        embodiment_W,
    )


def prepared_images(
    batch: Batch, *, image_size: tuple[int, int], device: torch.device | str, augment: Augment | None
) -> Tensor:
    """Return a batch's images as the network sees them, float (B*S, C, *image_size) in [0, 1].

    Images are augmented at their stored size and then resized, in float, so that they do not depend on the other data
    sets of a mixture.
    """
    steps, pieces, rows = batch.valid_BT.shape[1], [], []
    for row_N, image_NTHWC in batch.images:
        _, _, height, width, _ = image_NTHWC.shape
        at_once = max(1, _PIXELS_AT_ONCE // (steps * height * width))
        for first in range(0, len(row_N), at_once):
            piece = slice(first, first + at_once)
            image_XCHW = to_float(_to(device, image_NTHWC[piece]).flatten(0, 1))
            if augment is not None:
                image_XCHW = augment(image_XCHW.unflatten(0, (-1, steps)), row_N[piece]).flatten(0, 1)
            pieces.append(resize(image_XCHW, image_size))
            rows.append(row_N[piece])
    image_XCHW = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if len(batch.images) == 1:
        return image_XCHW
    back_B = np.argsort(np.concatenate(rows))
    return image_XCHW.unflatten(0, (-1, steps))[_to(device, back_B)].flatten(0, 1)


def _to(device: torch.device | str, array: NDArray[Any]) -> Tensor:
    """Copy an array to the device, from pinned memory and asynchronously where it is an accelerator."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type not in ("cpu", "meta"):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
