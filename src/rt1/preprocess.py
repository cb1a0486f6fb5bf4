"""Image preparation, the one path for training, evaluation and robot (docs/network.md)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_SHARE_HEIGHT = 20 / 256
"""Google pads 20 of 256 rows on each side before the training crop. Other heights in proportion."""
PAD_SHARE_WIDTH = 50 / 320
"""Google pads 50 of 320 columns on each side before the training crop."""


def to_float(image_XHWC: Tensor) -> Tensor:
    """Bring images to float (X, 3, H, W) in [0, 1], in channels-last memory.

    Args:
        image_XHWC: RGB, uint8 in [0, 255] or float in [0, 1].

    Raises:
        ValueError: another number of channels, another dtype, or a float image outside [0, 1].
    """
    if image_XHWC.ndim != 4 or image_XHWC.shape[-1] != 3:
        raise ValueError(
            f"images have shape {tuple(image_XHWC.shape)}, must be RGB (X, H, W, 3). "
            "Repeat a grey image three times, drop the fourth channel of an RGBA image"
        )
    if image_XHWC.dtype == torch.uint8:
        # Multiplied, not divided: convert_image_dtype of TensorFlow does, and it differs in the last bit.
        image_XHWC = image_XHWC.float() * (1.0 / 255.0)
    elif not image_XHWC.is_floating_point():
        raise ValueError(f"images have dtype {image_XHWC.dtype}, must be uint8 in [0, 255] or float in [0, 1]")
    elif not (image_XHWC.amin() >= 0.0 and image_XHWC.amax() <= 1.0):
        raise ValueError(
            f"float images span [{image_XHWC.amin():.3g}, {image_XHWC.amax():.3g}], must lie in [0, 1]. "
            "Divide by 255, or hand over uint8"
        )
    return image_XHWC.permute(0, 3, 1, 2)


def resize(image_XCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch to ``size`` (H, W): bilinear, half-pixel centres, no antialias, aspect ratio not kept, as Google does."""
    if tuple(image_XCHW.shape[-2:]) == size:
        return image_XCHW
    return F.interpolate(image_XCHW, size=size, mode="bilinear", align_corners=False, antialias=False)


def crop_margins(height: int, width: int, share: float = 1.0) -> tuple[int, int]:
    """Return the zero rows and columns added on each side before the training crop (20 and 50 for 256x320).

    Args:
        height: image height, pixels.
        width: image width, pixels.
        share: fraction of Google's margin.
    """
    return round(PAD_SHARE_HEIGHT * height * share), round(PAD_SHARE_WIDTH * width * share)


def shifted(image_XCHW: Tensor, margins: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Pad by ``margins`` with black and crop back to the image's size at ``offset`` (y, x), as training does.

    Google draws one offset for a whole batch and all its steps. Whoever draws it decides what shares it.
    """
    (rows, columns), (y, x) = margins, offset
    if not (0 <= y <= 2 * rows and 0 <= x <= 2 * columns):
        raise ValueError(f"crop offset {offset} must lie within (0, 0)..({2 * rows}, {2 * columns})")
    height, width = image_XCHW.shape[-2:]
    # Negative padding crops: pad and crop in one call.
    return F.pad(image_XCHW, (columns - x, x - columns, rows - y, y - rows))[..., :height, :width]
