"""Batch normalisation: TensorFlow's or flax' moving variance, and statistics over several processes.

Shape letters: X images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes and returns the sum."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of (X, C, H, W)."""

    reduce: Reduce | None = None
    """Adds statistics up over the processes of a run; None: a process normalises by its own images."""

    def __init__(self, channels: int, *, eps: float, momentum: float, unbiased: bool = True) -> None:
        """Make the layer.

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
        if self.reduce is not None:
            y_XCHW, mean_C, variance_C, count = _Normalise.apply(  # type: ignore[no-untyped-call]
                x_XCHW, self.weight, self.bias, self.eps, self.reduce
            )
            self.note(mean_C, variance_C, count)
            return y_XCHW
        before = None if self.unbiased or self.running_var is None else self.running_var.clone()
        y_XCHW = super().forward(x_XCHW)
        if before is not None:
            self._take_bias_out(before, x_XCHW.numel() // x_XCHW.shape[1])
        return y_XCHW

    @torch.no_grad()
    def _take_bias_out(self, before_C: Tensor, count: int) -> None:
        """Turn the library's step of the moving variance, by the unbiased one, into one by that of the batch itself."""
        assert self.running_var is not None
        assert self.momentum is not None
        kept_C = before_C * (1 - self.momentum)
        self.running_var.copy_(kept_C + (self.running_var - kept_C) * (count - 1) / count)

    @torch.no_grad()
    def note(self, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
        """Let the moving statistics follow those of a batch: its mean, its biased variance, its values per channel."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        factor = count / (count - 1) if self.unbiased and count > 1 else 1.0
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C * factor, self.momentum)


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics of all processes; keeps its input and nothing else of that size."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x_XCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        eps: float,
        reduce: Reduce | None,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        x = x_XCHW.float()
        count = x.numel() // x.shape[1]
        sums = torch.cat([x.sum((0, 2, 3), dtype=torch.float64), x.new_full((1,), count, dtype=torch.float64)])
        sums = sums if reduce is None else reduce(sums)
        total = int(sums[-1])
        mean_C = (sums[:-1] / total).float()
        squares_C = (x - _wide(mean_C)).square_().sum((0, 2, 3), dtype=torch.float64)
        variance_C = ((squares_C if reduce is None else reduce(squares_C)) / total).float()
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
        own = torch.stack([dy.sum((0, 2, 3)), (dy * normal).sum((0, 2, 3))])
        both = (own if ctx.reduce is None else ctx.reduce(own.clone())) / ctx.total
        dx = torch.addcmul(dy - _wide(both[0]), normal, _wide(both[1]), value=-1.0).mul_(_wide(inverse_C * weight_C))
        return dx.to(x_XCHW.dtype), own[1], own[0], None, None


def _wide(value_C: Tensor) -> Tensor:
    return value_C[:, None, None]
