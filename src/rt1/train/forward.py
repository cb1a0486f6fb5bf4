"""A batch through the network: image preparation, precision, and what its logits are held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rt1.data.loader import Batch
from rt1.model.rt1 import RT1
from rt1.preprocess import resize, to_float
from rt1.train.config import Precision


class Prediction(NamedTuple):
    """What the network says of a batch's windows, and what was recorded."""

    logits_BTAV: Tensor
    """float32."""
    token_BTA: Tensor
    """Recorded action tokens."""
    mask_BT: Tensor
    """True for the steps that count."""

    def accuracy(self) -> float:
        """Return the share of right tokens among those that count."""
        right_BT = (self.logits_BTAV.detach().argmax(-1) == self.token_BTA).float().mean(-1)
        return float((right_BT * self.mask_BT).sum() / self.mask_BT.sum().clamp(min=1))


def predict(
    model: RT1, batch: Batch, *, precision: Precision, augment: Callable[[Tensor], Tensor] | None = None
) -> Prediction:
    """Run the network on a batch.

    Args:
        model: the network.
        batch: windows as the loader gives them.
        precision: ``bf16`` computes in bfloat16 what torch's autocast does; logits are float32.
        augment: changes float images (B, T, C, H, W) in [0, 1] before they are resized; None leaves them as they are.
    """
    image_XCHW = to_float(torch.from_numpy(batch.image_BTHWC).flatten(0, 1))
    if augment is not None:
        image_XCHW = augment(image_XCHW.unflatten(0, batch.image_BTHWC.shape[:2])).flatten(0, 1)
    image_XCHW = resize(image_XCHW, model.config.image_size).contiguous(memory_format=torch.channels_last)
    text_BE = torch.from_numpy(batch.text_BE)
    batch_size, steps = batch.valid_BT.shape
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        text_XE = text_BE[:, None].expand(-1, steps, -1).flatten(0, 1)
        token_XKE = model.encode_images(image_XCHW, text_XE)
        # Padding behind the real steps is causally invisible; only padding in front of them needs the mask.
        in_front = not batch.valid_BT[:, 0].all()
        valid_BT = torch.from_numpy(batch.valid_BT) if in_front else None
        logits_BTAV = model.decode(token_XKE.unflatten(0, (batch_size, steps)), valid_BT=valid_BT)
    return Prediction(logits_BTAV, torch.from_numpy(batch.token_BTA), torch.from_numpy(batch.valid_BT))
