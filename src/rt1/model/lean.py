"""The two halves of an EfficientNet block in training, with the backward pass by hand: less memory and less time.

A block widens its input, convolves it depthwise, and narrows it again. torch's own backward keeps seven maps of the
wide size; these keep one, the depthwise convolution's output, and of the expansion at most its normalised output. All
else is computed again, a few images at a time, while it fits into the processor's cache. The statistics of the
expansion's output follow from the moments of its input, so that normalisation and, where nothing is kept, swish are
part of the expansion itself. The numbers are those of the plain block but for rounding.

Shape letters: X images, P positions of a map, I input channels, C wide channels, O output channels, M = n*P rows of the
n images at hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rt1.model.batch_norm import BatchNorm, Reduce

CACHE_BYTES = 4 << 20
"""Bytes of a wide map that are worked on at once."""

KEEP_FROM = 64
"""Input channels from which on the normalised expansion is kept: below, computing it again is cheaper."""

_aten = torch.ops.aten


class Statistics(NamedTuple):
    """Per channel, each (C,): of all images, on all ranks where BatchNorm uses those of all."""

    mean_C: Tensor
    variance_C: Tensor
    rows: int

    def affine(self, norm: BatchNorm) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the normalisation."""
        scale_C = norm.weight * (self.variance_C + norm.eps).rsqrt()
        return scale_C, norm.bias - self.mean_C * scale_C


class DepthwiseShape(NamedTuple):
    """A depthwise convolution: (left, right, top, bottom) padding, stride, kernel."""

    padding: tuple[int, int, int, int]
    stride: int
    kernel: int


def widen(x_XIHW: Tensor, expand: nn.Conv2d, norm: BatchNorm, depthwise: nn.Conv2d, shape: DepthwiseShape) -> Tensor:
    """Return the depthwise convolution of ``silu(norm(expand(x)))``, (X, C, H', W'), in training mode."""
    x = x_XIHW.contiguous(memory_format=torch.channels_last)
    return _Widen.apply(x, expand.weight, norm.weight, norm.bias, depthwise.weight, (norm, shape))  # type: ignore[no-untyped-call]


def narrow(d_XCHW: Tensor, norm: BatchNorm, squeeze: tuple[nn.Linear, nn.Linear], project: nn.Conv2d) -> Tensor:
    """Return the projection (X, O, H, W) of ``silu(norm(d))`` weighed by its squeeze-excite gate, in training mode."""
    d = d_XCHW.contiguous(memory_format=torch.channels_last)
    small = [parameter for layer in squeeze for parameter in (layer.weight, layer.bias)]
    return _Narrow.apply(d, norm.weight, norm.bias, project.weight, norm, *small)  # type: ignore[no-untyped-call]


class _Widen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        expand: Tensor,
        _weight: Tensor,
        _bias: Tensor,
        depthwise: Tensor,
        how: tuple[BatchNorm, DepthwiseShape],
    ) -> Tensor:
        norm, shape = how
        expand_CI = expand.flatten(1)
        inputs = _Inputs.of(x, norm.reduce)
        statistics = inputs.expanded(expand_CI)
        norm.note(*statistics)
        folded, shift_C = _folded(expand, norm, statistics)
        parts, kept = [], list[Tensor]()
        for cut in _chunks(_rows(x), len(expand_CI)):
            if expand_CI.shape[1] < KEEP_FROM:
                wide = _pointwise(x[cut], folded, shift_C, swish=True)
            else:
                kept.append(_pointwise(x[cut], folded, shift_C, swish=False))
                wide = F.silu(kept[-1])
            parts.append(_depthwise(wide, depthwise, shape))
        ctx.norm, ctx.shape, ctx.inputs, ctx.statistics = norm, shape, inputs, statistics
        ctx.save_for_backward(x, expand, depthwise, *kept)  # an attribute would outlive checkpointing
        return _joined(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dd: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, expand, depthwise, *kept = ctx.saved_tensors
        expand_CI, norm, inputs = expand.flatten(1), ctx.norm, ctx.inputs
        folded, shift_C = _folded(expand, norm, ctx.statistics)
        folded_CI, scale_C = folded.flatten(1), ctx.statistics.affine(norm)[0]
        dd = dd.contiguous(memory_format=torch.channels_last)
        x_XPI, dx = _rows(x), torch.empty_like(x)
        dx_XPI = _rows(dx)
        ddepthwise, dzx_CI = torch.zeros_like(depthwise), torch.zeros_like(expand_CI)
        dz_C = torch.zeros_like(scale_C)
        for number, cut in enumerate(_chunks(x_XPI, len(expand_CI))):
            z = kept[number] if kept else _pointwise(x[cut], folded, shift_C, swish=False)
            da = _depthwise_backward(dd[cut], F.silu(z), depthwise, ctx.shape, ddepthwise)
            dz = _rows(_aten.silu_backward.grad_input(da, z, grad_input=da)).flatten(0, 1)
            x_MI = x_XPI[cut].flatten(0, 1)
            dzx_CI.addmm_(dz.T, x_MI)
            dz_C += dz.sum(0)
            torch.mm(dz, folded_CI, out=dx_XPI[cut].view_as(x_MI))
        # The gradient of the expansion's output e = x W is scale * dz + slope * e + offset per channel: put together
        # from sums over dz and x alone, it is never written down.
        inverse_C = (ctx.statistics.variance_C + norm.eps).rsqrt()
        dnormal_C = ((dzx_CI * expand_CI).sum(1) - ctx.statistics.mean_C * dz_C) * inverse_C
        slope_C, offset_C = _through_norm(ctx.statistics, norm, dz_C, dnormal_C)
        x_MI = x_XPI.flatten(0, 1)
        centre_C = offset_C + slope_C * ctx.statistics.mean_C
        dexpand_CI = scale_C[:, None] * dzx_CI + slope_C[:, None] * (expand_CI @ inputs.product_II)
        dexpand_CI += centre_C[:, None] * inputs.sum_I
        dx_XPI.flatten(0, 1).addmm_(x_MI, expand_CI.T @ (slope_C[:, None] * expand_CI)).add_(offset_C @ expand_CI)
        return dx, dexpand_CI.view_as(expand), dnormal_C, dz_C, ddepthwise, None


class _Inputs(NamedTuple):
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
    def of(x: Tensor, reduce: Reduce | None) -> _Inputs:
        """Return the moments of a channels-last map."""
        x_MI = _rows(x).flatten(0, 1)
        sum_I = x_MI.sum(0)
        sums = torch.cat([sum_I.double(), sum_I.new_full((1,), len(x_MI), dtype=torch.float64)])
        *_, total = sums = sums if reduce is None else reduce(sums)
        mean_I = (sums[:-1] / total).float()
        product_II = torch.mm((x_MI - mean_I).T, x_MI)
        all_II = product_II if reduce is None else reduce(product_II.clone())
        return _Inputs(sum_I, product_II, mean_I, all_II / total.float(), int(total))

    def expanded(self, expand_CI: Tensor) -> Statistics:
        """Return the statistics of ``x W``: mean and quadratic form."""
        variance_C = ((expand_CI @ self.covariance_II) * expand_CI).sum(1).clamp_(min=0.0)
        return Statistics(expand_CI @ self.mean_I, variance_C, self.rows)


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        d: Tensor,
        _weight: Tensor,
        _bias: Tensor,
        project: Tensor,
        norm: BatchNorm,
        *squeeze: Tensor,
    ) -> Tensor:
        d_XPC, project_OC = _rows(d), project.flatten(1)
        moments = _Moments()
        for cut in _chunks(d_XPC, d_XPC.shape[2]):
            moments.add(d_XPC[cut])
        statistics = moments.over_all(norm.reduce)
        norm.note(*statistics)
        scale_C, shift_C = statistics.affine(norm)
        p = d.new_empty(len(d), *d.shape[2:], len(project_OC)).permute(0, 3, 1, 2)
        mean_XC = d.new_empty(d.shape[:2])
        for cut in _chunks(d_XPC, d_XPC.shape[2]):
            s = F.silu(torch.addcmul(shift_C, d_XPC[cut], scale_C), inplace=True)
            torch.mean(s, 1, out=mean_XC[cut])
            s *= _gate(mean_XC[cut], squeeze)[:, None]
            torch.mm(s.flatten(0, 1), project_OC.T, out=_rows(p)[cut].flatten(0, 1))
        ctx.norm, ctx.statistics = norm, statistics
        ctx.save_for_backward(d, mean_XC, project, *squeeze)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dp: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        d, mean_XC, project, *squeeze = ctx.saved_tensors
        norm, statistics, project_OC, d_XPC = ctx.norm, ctx.statistics, project.flatten(1), _rows(d)
        scale_C, shift_C = statistics.affine(norm)
        dp_XPO = _rows(dp.contiguous(memory_format=torch.channels_last))
        dd = torch.empty_like(d)
        dd_XPC, dproject_OC = _rows(dd), torch.zeros_like(project_OC)
        dsqueeze = [torch.zeros_like(parameter) for parameter in squeeze]
        dz_C, dnormal_C = torch.zeros_like(scale_C), torch.zeros_like(scale_C)
        for cut in _chunks(d_XPC, d_XPC.shape[2]):
            z = torch.addcmul(shift_C, d_XPC[cut], scale_C)
            s, dp_NPO = F.silu(z), dp_XPO[cut]
            du = (dp_NPO.flatten(0, 1) @ project_OC).view_as(s)
            if s.shape[1] > 2 * len(project_OC):  # large maps: the projection's gradient per image gives the gate's
                each_NOC = dp_NPO.transpose(1, 2) @ s
                gate, dmean = _gate_backward(mean_XC[cut], squeeze, (each_NOC * project_OC).sum(1), dsqueeze)
                dproject_OC += (each_NOC * gate[:, None]).sum(0)
            else:
                gate, dmean = _gate_backward(mean_XC[cut], squeeze, (du * s).sum(1), dsqueeze)
                dproject_OC.addmm_(dp_NPO.flatten(0, 1).T, s.mul_(gate[:, None]).flatten(0, 1))
            ds = torch.addcmul(dmean[:, None] / s.shape[1], du, gate[:, None], out=du)
            _aten.silu_backward.grad_input(ds, z, grad_input=dd_XPC[cut])
            normal_part_C, part_C = _sums(dd[cut], d[cut], norm, statistics)
            dnormal_C += normal_part_C
            dz_C += part_C
        slope_C, offset_C = _through_norm(statistics, norm, dz_C, dnormal_C)
        for cut in _chunks(d_XPC, d_XPC.shape[2]):
            through_statistics = torch.addcmul(offset_C, d_XPC[cut], slope_C)
            torch.addcmul(through_statistics, dd_XPC[cut], scale_C, out=dd_XPC[cut])
        return dd, dnormal_C, dz_C, dproject_OC.view_as(project), None, *dsqueeze


class _Moments:
    """Mean and variance of rows that come in chunks."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def add(self, rows_XPC: Tensor) -> None:
        """Add the rows of some images."""
        x = rows_XPC.flatten(0, 1)[:, :, None, None]
        mean_C, variance_C = torch.batch_norm_update_stats(
            x.contiguous(memory_format=torch.channels_last), None, None, 0.0
        )
        self._parts.append((len(x), mean_C, variance_C))

    def over_all(self, reduce: Reduce | None) -> Statistics:
        """Return the statistics of all chunks, and of all ranks where there is something to add them up with."""
        counts_K1 = torch.tensor([[count] for count, _, _ in self._parts], dtype=torch.float64)
        mean_KC = torch.stack([mean for _, mean, _ in self._parts]).double()
        variance_KC = torch.stack([variance for _, _, variance in self._parts]).double()
        sums = torch.cat([counts_K1.sum(0), (counts_K1 * mean_KC).sum(0)])
        total, *_ = sums = sums if reduce is None else reduce(sums)
        mean_C = sums[1:] / total
        squares_C = (counts_K1 * (variance_KC + (mean_KC - mean_C) ** 2)).sum(0)
        squares_C = squares_C if reduce is None else reduce(squares_C)
        return Statistics(mean_C.float(), (squares_C / total).float(), int(total))


def _folded(expand: Tensor, norm: BatchNorm, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the expansion and its normalisation as one 1x1 convolution."""
    scale_C, shift_C = statistics.affine(norm)
    return (expand * scale_C[:, None, None, None]).contiguous(), shift_C


def _pointwise(x: Tensor, weight: Tensor, bias_C: Tensor, *, swish: bool) -> Tensor:
    """Return the 1x1 convolution of a channels-last map, and where asked its swish, which then costs no pass."""
    if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        after = "swish" if swish else "none"
        geometry = [0, 0], [1, 1], [1, 1], 1
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias_C, *geometry, after, [], "")  # noqa: SLF001
        return y.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, weight, bias_C).contiguous(memory_format=torch.channels_last)
    return F.silu(y, inplace=True) if swish else y


def _through_norm(statistics: Statistics, norm: BatchNorm, dz_C: Tensor, dnormal_C: Tensor) -> tuple[Tensor, Tensor]:
    """Return how the gradient dz of ``scale * e + shift`` goes on to e: ``de = scale * dz + slope * e + offset``.

    ``dz_C`` and ``dnormal_C`` are the sums of dz, and of dz times the normalised e, over all rows.
    """
    own = torch.stack([dz_C, dnormal_C])
    all_C, all_normal_C = (own if norm.reduce is None else norm.reduce(own)) / statistics.rows
    inverse_C = (statistics.variance_C + norm.eps).rsqrt()
    scale_C = norm.weight * inverse_C
    slope_C = -scale_C * inverse_C * all_normal_C
    return slope_C, -scale_C * all_C - slope_C * statistics.mean_C


def _sums(dz: Tensor, d: Tensor, norm: BatchNorm, statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Return the sums of dz times the normalised d, and of dz, in one pass: what fixed statistics' gradients are."""
    moments, training, wanted = (statistics.mean_C, statistics.variance_C), False, [False, True, True]
    _, dnormal_C, dz_C = _aten.native_batch_norm_backward(
        dz, d, norm.weight, *moments, None, None, training, norm.eps, wanted
    )
    return dnormal_C, dz_C


def _depthwise(a: Tensor, weight: Tensor, shape: DepthwiseShape) -> Tensor:
    if len(set(shape.padding)) == 1:
        return F.conv2d(a, weight, stride=shape.stride, padding=shape.padding[0], groups=len(weight))
    return F.conv2d(F.pad(a, shape.padding), weight, stride=shape.stride, groups=len(weight))


def _depthwise_backward(dd: Tensor, a: Tensor, weight: Tensor, shape: DepthwiseShape, dweight: Tensor) -> Tensor:
    """Return the gradient of ``a`` and add that of the weight."""
    left, right, top, bottom = shape.padding
    alike = left if len(set(shape.padding)) == 1 else None
    padded = F.pad(a, shape.padding) if alike is None or shape.kernel > 3 else a
    if alike is None:
        da = _convolution_backward(dd, padded, weight, shape.stride, 0, wanted=0)
        da = da[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right]
    else:
        da = _convolution_backward(dd, a, weight, shape.stride, alike, wanted=0)
    if padded is a:
        dweight += _convolution_backward(dd, a, weight, shape.stride, left, wanted=1)
        return da.contiguous(memory_format=torch.channels_last)
    # oneDNN takes the weight gradient of kernels up to three columns wide seven times faster than that of wider ones.
    for first in range(0, shape.kernel, 3):
        columns = min(3, shape.kernel - first)
        part = padded[..., first : first + shape.stride * (dd.shape[3] - 1) + columns]
        dweight[..., first : first + columns] += _convolution_backward(
            dd, part, weight[..., first : first + columns], shape.stride, 0, wanted=1
        )
    return da.contiguous(memory_format=torch.channels_last)


def _convolution_backward(dd: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, *, wanted: int) -> Tensor:
    mask, transposed = [wanted == 0, wanted == 1, False], False
    return _aten.convolution_backward(
        dd, x, weight, [0], [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], len(weight), mask
    )[wanted]


def _gate(mean_NC: Tensor, squeeze: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    reduce_weight, reduce_bias, expand_weight, expand_bias = squeeze
    return torch.sigmoid(F.linear(F.silu(F.linear(mean_NC, reduce_weight, reduce_bias)), expand_weight, expand_bias))


def _gate_backward(
    mean_NC: Tensor, squeeze: list[Tensor], dgate_NC: Tensor, dsqueeze: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the gate and the gradient of the mean it is made of, and add the gradients of the small network."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (mean_NC, *squeeze)]
        gate_NC = _gate(leaves[0], leaves[1:])
    dmean_NC, *small = torch.autograd.grad(gate_NC, leaves, dgate_NC)
    for total, part in zip(dsqueeze, small, strict=True):
        total.add_(part)
    return gate_NC.detach(), dmean_NC


def _rows(x_XCHW: Tensor) -> Tensor:
    """View a channels-last map as (X, P, C)."""
    return x_XCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _chunks(rows_XPI: Tensor, channels: int) -> list[slice]:
    """Cut the images so that the wide map of a chunk fits into the cache."""
    images, positions, _ = rows_XPI.shape
    step = max(1, CACHE_BYTES // (4 * positions * channels))
    return [slice(first, min(first + step, images)) for first in range(0, images, step)]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts).contiguous(memory_format=torch.channels_last)
