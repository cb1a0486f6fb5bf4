"""A depthwise convolution and its two gradients on a piece of a channels-last map, by the fastest of torch's kernels.

Shape letters: X images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rt1.model.pieces import Padding

_FAST_COLUMNS = 3
"""oneDNN takes the weight gradient of kernels up to three columns wide ten times faster than that of wider ones."""


def depthwise(a_XCHW: Tensor, weight_C1KK: Tensor, padding: Padding, stride: int) -> Tensor:
    """Convolve."""
    a, both = _padded(a_XCHW, padding)
    return F.conv2d(a, weight_C1KK, stride=stride, padding=both, groups=len(weight_C1KK))


def input_gradient(dd: Tensor, size: tuple[int, int], weight_C1KK: Tensor, padding: Padding, stride: int) -> Tensor:
    """Return the gradient of an input of height and width ``size``, not always contiguous."""
    kernel = weight_C1KK.shape[-1]
    if stride == 1:  # the forward convolution is the faster kernel
        left, right, top, bottom = padding
        around = (kernel - 1 - left, kernel - 1 - right, kernel - 1 - top, kernel - 1 - bottom)
        return depthwise(dd, weight_C1KK.flip(2, 3), around, 1)
    left, right, top, bottom = padding
    height, width = size
    shape = (*dd.shape[:2], height + top + bottom, width + left + right)
    like = torch.empty(shape, dtype=dd.dtype, memory_format=torch.channels_last)  # its values do not matter
    da = _backward(dd, like, weight_C1KK, stride, (0, 0), wanted=0)
    return da[:, :, top : top + height, left : left + width]


def add_weight_gradient(dweight_C1KK: Tensor, dd: Tensor, a_XCHW: Tensor, padding: Padding, stride: int) -> None:
    """Add the gradient of the weight."""
    kernel, (left, _, top, bottom) = dweight_C1KK.shape[-1], padding
    if kernel <= _FAST_COLUMNS:
        a, both = _padded(a_XCHW, padding)
        dweight_C1KK += _backward(dd, a, dweight_C1KK, stride, both, wanted=1)
        return
    width = a_XCHW.shape[3]
    for first in range(0, kernel, _FAST_COLUMNS):
        some = dweight_C1KK[..., first : first + _FAST_COLUMNS]
        begin = first - left
        end = begin + stride * (dd.shape[3] - 1) + some.shape[3]
        part = a_XCHW[..., max(0, begin) : min(end, width)]
        part, both = _padded(part, (max(0, -begin), max(0, end - width), top, bottom))
        some += _backward(dd, part, some, stride, both, wanted=1)


def _padded(a_XCHW: Tensor, padding: Padding) -> tuple[Tensor, tuple[int, int]]:
    """Pad where the sides differ, and leave the rest to the convolution: rows and columns on either side."""
    left, right, top, bottom = padding
    rows, columns = (top if top == bottom else 0), (left if left == right else 0)
    rest = (left - columns, right - columns, top - rows, bottom - rows)
    return _with_zeros(a_XCHW, rest) if any(rest) else a_XCHW, (rows, columns)


def _with_zeros(a_XCHW: Tensor, padding: Padding) -> Tensor:
    """Return ``F.pad(a, padding)``; torch fills the whole with zeros before it copies."""
    left, right, top, bottom = padding
    *shape, height, width = a_XCHW.shape
    size = (*shape, height + top + bottom, width + left + right)
    y = torch.empty(size, dtype=a_XCHW.dtype, memory_format=torch.channels_last)
    y[:, :, top : top + height, left : left + width] = a_XCHW
    for strip in (y[:, :, :top], y[:, :, top + height :], y[..., :left], y[..., left + width :]):
        strip.zero_()
    return y


def _backward(dd: Tensor, a: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], *, wanted: int) -> Tensor:
    mask, transposed = [wanted == 0, wanted == 1, False], False
    return torch.ops.aten.convolution_backward(
        dd, a, weight, [0], [stride] * 2, padding, [1, 1], transposed, [0, 0], len(weight), mask
    )[wanted]
