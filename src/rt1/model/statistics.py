"""Batch normalisation in parts: a map's statistics from its pieces or its input, and the gradients from sums alone.

Shape letters: X images, P positions of a map, I input channels, C channels, M rows: all positions of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rt1.model.layers import BatchNorm, Reduce
from rt1.model.pieces import rows


class Statistics(NamedTuple):
    """Per channel, each (C,): of all images, on all ranks where BatchNorm uses those of all."""

    mean_C: Tensor
    variance_C: Tensor
    rows: int

    def affine(self, norm: BatchNorm) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the normalisation."""
        scale_C = norm.weight * (self.variance_C + norm.eps).rsqrt()
        return scale_C, norm.bias - self.mean_C * scale_C


def over_all(moments: Sequence[tuple[int, Tensor, Tensor]], reduce: Reduce | None) -> Statistics:
    """Return mean and variance of all pieces, each with its count, and of all ranks where they are added up."""
    counts_K1 = torch.tensor([[count] for count, _, _ in moments], dtype=torch.float64)
    mean_KC = torch.stack([mean for _, mean, _ in moments]).double()
    variance_KC = torch.stack([variance for _, _, variance in moments]).double()
    sums = torch.cat([counts_K1.sum(0), (counts_K1 * mean_KC).sum(0)])
    total, *_ = sums = sums if reduce is None else reduce(sums)
    mean_C = sums[1:] / total
    squares_C = (counts_K1 * (variance_KC + (mean_KC - mean_C) ** 2)).sum(0)
    squares_C = squares_C if reduce is None else reduce(squares_C)
    return Statistics(mean_C.float(), (squares_C / total).float(), int(total))


class Expansion(NamedTuple):
    """An expansion and its normalisation as one 1x1 convolution."""

    inputs: Inputs
    statistics: Statistics
    folded: Tensor
    """(C, I, 1, 1)."""
    shift_C: Tensor

    @staticmethod
    def of(x: Tensor, expand: tuple[nn.Conv2d, BatchNorm]) -> Expansion:
        """Let the normalisation see a batch."""
        conv, norm = expand
        inputs = Inputs.of(x, norm.reduce)
        statistics = inputs.expanded(conv.weight.flatten(1))
        norm.note(*statistics)
        scale_C, shift_C = statistics.affine(norm)
        return Expansion(inputs, statistics, (conv.weight * scale_C[:, None, None, None]).contiguous(), shift_C)

    def gradients(
        self, norm: BatchNorm, expand_CI: Tensor, dzx_CI: Tensor, dz_C: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of the expansion's and the normalisation's weight, and how the statistics reach x.

        The latter: what x is to be multiplied by (I, I), and what is to be added then (I,). The gradient of the
        expansion's output e = x W is scale * dz + slope * e + offset per channel: put together from sums over dz and
        x alone, it is never written down.
        """
        statistics = self.statistics
        scale_C, _ = statistics.affine(norm)
        inverse_C = (statistics.variance_C + norm.eps).rsqrt()
        dnormal_C = ((dzx_CI * expand_CI).sum(1) - statistics.mean_C * dz_C) * inverse_C
        slope_C, offset_C = through_norm(statistics, norm, dz_C, dnormal_C)
        centre_C = offset_C + slope_C * statistics.mean_C
        dexpand_CI = scale_C[:, None] * dzx_CI + slope_C[:, None] * (expand_CI @ self.inputs.product_II)
        dexpand_CI += centre_C[:, None] * self.inputs.sum_I
        return dexpand_CI, dnormal_C, expand_CI.T @ (slope_C[:, None] * expand_CI), offset_C @ expand_CI


class Inputs(NamedTuple):
    """Moments of an expansion's input, from which those of its output follow without the output."""

    sum_I: Tensor
    """Of this rank's rows."""
    product_II: Tensor
    """Of this rank's rows: the sum of ``(x - mean)^T x``, where the mean is that of all ranks."""
    mean_I: Tensor
    """Of all ranks' rows."""
    covariance_II: Tensor
    """Of all ranks' rows."""
    rows: int
    """Of all ranks."""

    @staticmethod
    def of(x: Tensor, reduce: Reduce | None) -> Inputs:
        """Return the moments of a channels-last map."""
        x_MI = rows(x).flatten(0, 1)
        sum_I = x_MI.sum(0)
        sums = torch.cat([sum_I.double(), sum_I.new_full((1,), len(x_MI), dtype=torch.float64)])
        *_, total = sums = sums if reduce is None else reduce(sums)
        mean_I = (sums[:-1] / total).float()
        product_II = torch.mm((x_MI - mean_I).T, x_MI)
        all_II = product_II if reduce is None else reduce(product_II.clone())
        return Inputs(sum_I, product_II, mean_I, all_II / total.float(), int(total))

    def expanded(self, expand_CI: Tensor) -> Statistics:
        """Return the statistics of ``x W``: mean and quadratic form."""
        variance_C = ((expand_CI @ self.covariance_II) * expand_CI).sum(1).clamp_(min=0.0)
        return Statistics(expand_CI @ self.mean_I, variance_C, self.rows)


def through_norm(statistics: Statistics, norm: BatchNorm, dz_C: Tensor, dnormal_C: Tensor) -> tuple[Tensor, Tensor]:
    """Return how the gradient dz of ``scale * e + shift`` goes on to e: ``de = scale * dz + slope * e + offset``.

    ``dz_C`` and ``dnormal_C`` are the sums of dz, and of dz times the normalised e, over all rows.
    """
    own = torch.stack([dz_C, dnormal_C])
    all_C, all_normal_C = (own if norm.reduce is None else norm.reduce(own)) / statistics.rows
    inverse_C = (statistics.variance_C + norm.eps).rsqrt()
    scale_C = norm.weight * inverse_C
    slope_C = -scale_C * inverse_C * all_normal_C
    return slope_C, -scale_C * all_C - slope_C * statistics.mean_C


def sums(dz_NPC: Tensor, d_NPC: Tensor, norm: BatchNorm, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return the sums of dz times the normalised d, and of dz, in one pass: what fixed statistics' gradients are."""
    moments, training, wanted = (statistics.mean_C, statistics.variance_C), False, [False, True, True]
    dz, d = (each.transpose(1, 2)[..., None] for each in (dz_NPC, d_NPC))  # channels-last maps again
    _, dnormal_C, dz_C = torch.ops.aten.native_batch_norm_backward(
        dz, d, norm.weight, *moments, None, None, training, norm.eps, wanted
    )
    return dnormal_C, dz_C
