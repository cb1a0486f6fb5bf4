"""Random crops and colors for training: pure functions of (seed, update, row), the same for any number of ranks.

Shape letters: B samples, T steps, C channels, H height, W width, N pixels of a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.common.json_config import check_between
from rt1.preprocess import crop_margins, shifted

# Rec. 601: red, green and blue to luma and the two axes of color, I and Q.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_CROPS, _COLOURS = 3, 4  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Augmentation of training images. Evaluation and robot use none."""

    crop_share: float = 1.0
    """Random crop as a fraction of Google's margins (20 of 256 rows, 50 of 320 columns). 0 switches it off."""
    crop_per: Literal["batch", "sample"] = "batch"
    """Which images share one offset: the whole batch, as in Google's code, or each window (or clip)."""
    brightness: float = 0.0
    """Colors are multiplied by a factor within 1 - this .. 1 + this, one for all steps of a window (or clip)."""
    contrast: float = 0.0
    """The distance from mid-gray is multiplied by a factor drawn in the same way."""
    saturation: float = 0.0
    """The distance from the gray of the same brightness is multiplied by a factor drawn in the same way."""
    hue: float = 0.0
    """Hues are turned by up to this share of the color circle, either way."""

    def __post_init__(self) -> None:
        check_between(self, 0, 2, "crop_share")
        check_between(self, 0, 1, "brightness", "contrast", "saturation")
        check_between(self, 0, 0.5, "hue")

    @property
    def changes_colours(self) -> bool:
        """Whether any of the color settings is on."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0.0


def augment(
    image_BTCHW: Tensor, row_B: NDArray[np.int64], settings: AugmentSettings, *, seed: int, update: int
) -> Tensor:
    """Return images for training: other colors, then a random crop, whose margins are black.

    Args:
        image_BTCHW: float RGB in [0, 1], any size.
        row_B: rows of the samples in the batch of all ranks, so that the number of ranks changes nothing.
        settings: ranges of the changes.
        seed: seed of the run.
        update: number of the update.

    Returns:
        float (B, T, C, H, W) in [0, 1]. The same tensor where no setting is on.
    """
    rows = row_B.tolist()
    if settings.changes_colours:
        image_BTCHW = _recoloured(image_BTCHW, [_colours(settings, seed, update, row) for row in rows])
    if settings.crop_share == 0.0:
        return image_BTCHW
    height, width = image_BTCHW.shape[-2:]
    margins = crop_margins(height, width, settings.crop_share)
    if settings.crop_per == "batch":
        offset = _offset(margins, (seed, _CROPS, update))
        return shifted(image_BTCHW.flatten(0, 1), margins, offset).unflatten(0, image_BTCHW.shape[:2])
    offsets = [_offset(margins, (seed, _CROPS, update, row)) for row in rows]
    return torch.stack([shifted(images, margins, offset) for images, offset in zip(image_BTCHW, offsets, strict=True)])


def colour_map(*, brightness: float, contrast: float, saturation: float, hue: float) -> NDArray[np.float64]:
    """Return the matrix (3, 4) from red, green, blue and 1 to the new red, green and blue.

    Brightness, contrast and saturation are factors, hue is a turn in shares of the circle. They are applied in this
    order. All are linear, so that they cost one pass over the image. Hue turns the color axes I and Q, which keeps the
    luma. It does not use HSV.
    """
    angle = 2 * math.pi * hue
    turn = np.eye(3)
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    colours = np.diag([1.0, saturation, saturation])
    linear = np.linalg.inv(_YIQ) @ turn @ colours @ _YIQ
    constant = linear @ np.full(3, 0.5 * (1.0 - contrast))
    return np.column_stack([contrast * brightness * linear, constant])


def _colours(settings: AugmentSettings, seed: int, update: int, row: int) -> NDArray[np.float64]:
    # Always four numbers: switching one setting on or off leaves the others' draws as they are.
    one, two, three, four = np.random.default_rng((seed, _COLOURS, update, row)).uniform(-1.0, 1.0, 4)
    return colour_map(
        brightness=1.0 + settings.brightness * one,
        contrast=1.0 + settings.contrast * two,
        saturation=1.0 + settings.saturation * three,
        hue=settings.hue * four,
    )


def _recoloured(image_BTCHW: Tensor, maps: list[NDArray[np.float64]]) -> Tensor:
    map_B34 = torch.from_numpy(np.stack(maps)).to(image_BTCHW)
    image_BTHWC = image_BTCHW.permute(0, 1, 3, 4, 2)
    pixel_BN3 = image_BTHWC.flatten(1, 3)
    new_BN3 = torch.baddbmm(map_B34[:, None, :, 3], pixel_BN3, map_B34[:, :, :3].transpose(1, 2)).clamp_(0.0, 1.0)
    return new_BN3.view(image_BTHWC.shape).permute(0, 1, 4, 2, 3)


def _offset(margins: tuple[int, int], key: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = margins
    random = np.random.default_rng(key)
    return int(random.integers(2 * rows + 1)), int(random.integers(2 * columns + 1))
