"""Layers of both convolutional backbones: batch normalisation, squeeze-excite, Keras' initial weights.

Shape letters: X images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes and returns the sum."""


def keras_normal_(weight: Tensor, variance: float) -> None:
    """Draw a weight from Keras' truncated normal distribution of this variance, in place."""
    deviation = math.sqrt(variance) / 0.8796  # of the distribution before it is cut off at two deviations
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


class SqueezeExcite(nn.Module):
    """Weigh channels by a small network over their means."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, reduced)
        self.expand = nn.Linear(reduced, channels)

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """Scale (X, C, H, W) per channel by a value in (0, 1)."""
        gate_XC = torch.sigmoid(self.expand(F.silu(self.reduce(x_XCHW.mean((2, 3))))))
        return x_XCHW * gate_XC[:, :, None, None]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (X, C, H, W): TensorFlow's or flax' moving variance, one or several processes."""

    reduce: Reduce | None = None
    """Adds statistics up over the processes of a run. None: each process normalises by its own images."""

    def __init__(self, channels: int, *, eps: float = 1e-3, momentum: float = 0.01, unbiased: bool = True) -> None:
        """Make the layer. The defaults are those of Keras' EfficientNet and MaxViT.

        Args:
            channels: C.
            eps: added to the variance.
            momentum: share of the batch's statistics in the moving ones.
            unbiased: whether the moving variance is the unbiased one, as TensorFlow's and torch's, or that of the
                batch itself, as flax'.
        """
        super().__init__(channels, eps=eps, momentum=momentum)
        self.unbiased = unbiased

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """Normalise per channel."""
        if not self.training:
            return super().forward(x_XCHW)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.reduce is None:
            previous_C = None if self.unbiased else self.running_var * (1 - self.momentum)
            y_XCHW = super().forward(x_XCHW)
            if previous_C is not None:  # the library moved it by the unbiased variance
                count = x_XCHW.numel() // x_XCHW.shape[1]
                with torch.no_grad():
                    self.running_var.copy_(previous_C + (self.running_var - previous_C) * (count - 1) / count)
            return y_XCHW
        y_XCHW, mean_C, variance_C, count = _Normalise.apply(  # type: ignore[no-untyped-call]
            x_XCHW, self.weight, self.bias, self.eps, self.reduce
        )
        with torch.no_grad():
            factor = count / (count - 1) if self.unbiased and count > 1 else 1.0
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * factor, self.momentum)
        return y_XCHW


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics of all processes. It saves its input and nothing else of that size."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x_XCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        eps: float,
        reduce: Reduce,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        x = x_XCHW.float()
        count = x.numel() // x.shape[1]
        sums = reduce(torch.cat([x.sum((0, 2, 3), dtype=torch.float64), x.new_full((1,), count, dtype=torch.float64)]))
        total = int(sums[-1])
        mean_C = (sums[:-1] / total).float()
        squares_C = (x - _wide(mean_C)).square_().sum((0, 2, 3), dtype=torch.float64)
        variance_C = (reduce(squares_C) / total).float()
        inverse_C = (variance_C + eps).rsqrt()
        y = torch.addcmul(_wide(bias_C - mean_C * inverse_C * weight_C), x, _wide(inverse_C * weight_C))
        ctx.save_for_backward(x_XCHW, weight_C, mean_C, inverse_C)
        ctx.reduce, ctx.total = reduce, total
        ctx.mark_non_differentiable(mean_C, variance_C)
        return y.to(x_XCHW.dtype), mean_C, variance_C, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        dy_XCHW: Tensor,
        *_: object,
    ) -> tuple[Tensor | None, ...]:
        x_XCHW, weight_C, mean_C, inverse_C = ctx.saved_tensors
        dy = dy_XCHW.float()
        normal = (x_XCHW.float() - _wide(mean_C)).mul_(_wide(inverse_C))
        dbias_C, dweight_C = local = torch.stack([dy.sum((0, 2, 3)), (dy * normal).sum((0, 2, 3))])
        dy_C, dnormal_C = ctx.reduce(local.clone()) / ctx.total
        dx = torch.addcmul(dy - _wide(dy_C), normal, _wide(dnormal_C), value=-1.0).mul_(_wide(inverse_C * weight_C))
        return dx.to(x_XCHW.dtype), dweight_C, dbias_C, None, None


def _wide(value_C: Tensor) -> Tensor:
    return value_C[:, None, None]
