"""Image preparation without torch: the numbers of :mod:`rt1.preprocess` from numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.policy.base import check_image


def prepare_image(image: NDArray[Any], size: tuple[int, int]) -> FloatArray:
    """Bring an image to float and stretch it, as :func:`rt1.preprocess.to_float` and ``resize`` do.

    Args:
        image: RGB (H, W, 3), uint8 in [0, 255] or float in [0, 1], any size.
        size: height and width to stretch to, pixels.

    Returns:
        float32 (*size, 3) in [0, 1].

    Raises:
        ValueError: another shape or dtype, or a float image outside [0, 1].
    """
    check_image(image)
    if image.dtype == np.uint8:
        unit_HWC = image.astype(np.float32) * np.float32(1.0 / 255.0)
    elif image.dtype.kind != "f":
        raise ValueError(f"the image has dtype {image.dtype}, must be uint8 in [0, 255] or float in [0, 1]")
    elif not (image.min() >= 0.0 and image.max() <= 1.0):
        raise ValueError(
            f"the float image spans [{image.min():.3g}, {image.max():.3g}], must lie in [0, 1]. Divide by 255, or "
            "hand over uint8"
        )
    else:
        unit_HWC = image.astype(np.float32)
    return _stretch(_stretch(unit_HWC, size[1], axis=1), size[0], axis=0)


def _stretch(image: FloatArray, size: int, axis: int) -> FloatArray:
    """Interpolate linearly along an axis: half-pixel centers, edges repeated, no antialias."""
    length = image.shape[axis]
    if length == size:
        return image
    # float32 throughout, in torch's order of operations, so that no pixel falls on another side of an edge.
    scale = np.float32(length) / np.float32(size)
    pixels = np.arange(size, dtype=np.float32)
    source = np.maximum(scale * (pixels + np.float32(0.5)) - np.float32(0.5), np.float32(0.0))
    first = np.minimum(source.astype(np.intp), length - 1)
    second = np.minimum(first + 1, length - 1)
    share = (source - first.astype(np.float32)).reshape([-1 if i == axis else 1 for i in range(3)])
    near, far = image.take(first, axis=axis), image.take(second, axis=axis)
    return near * (np.float32(1.0) - share) + far * share
