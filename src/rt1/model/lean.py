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

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rt1.model.batch_norm import BatchNorm, Reduce
from rt1.model.depthwise import add_weight_gradient, depthwise, input_gradient
from rt1.model.pieces import DepthwiseShape, Piece, images, pieces, share_out

KEEP_FROM = 64
"""Input channels from which on the normalised expansion is kept: below, computing it again is cheaper."""

_ONE = torch.ones(())


class Statistics(NamedTuple):
    """Per channel, each (C,): of all images, on all ranks where BatchNorm uses those of all."""

    mean_C: Tensor
    variance_C: Tensor
    rows: int

    def affine(self, norm: BatchNorm) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the normalisation."""
        scale_C = norm.weight * (self.variance_C + norm.eps).rsqrt()
        return scale_C, norm.bias - self.mean_C * scale_C


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
        weight: Tensor,
        how: tuple[BatchNorm, DepthwiseShape],
    ) -> Tensor:
        norm, shape = how
        inputs = _Inputs.of(x, norm.reduce)
        statistics = inputs.expanded(expand.flatten(1))
        norm.note(*statistics)
        folded, shift_C = _folded(expand, norm, statistics)
        cut = pieces(x, len(expand), shape)
        keeps = expand.shape[1] >= KEEP_FROM
        kept = [x] * len(cut)
        d = _empty(len(x), len(expand), *shape.size(*x.shape[2:]))

        def work(piece: Piece) -> None:
            z = _pointwise(piece.input(x), folded, shift_C)
            if keeps:
                kept[piece.number] = z
            a = F.silu(z, inplace=not keeps)
            piece.output(d).copy_(depthwise(a, weight, piece.padding, shape.stride))

        share_out(cut, work)
        ctx.how, ctx.inputs, ctx.statistics, ctx.cut = how, inputs, statistics, cut
        ctx.save_for_backward(x, expand, weight, *(kept if keeps else ()))  # an attribute would outlive checkpointing
        return d

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dd: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, expand, weight, *kept = ctx.saved_tensors
        expand_CI, (norm, shape), inputs, statistics = expand.flatten(1), ctx.how, ctx.inputs, ctx.statistics
        folded, shift_C = _folded(expand, norm, statistics)
        folded_CI, scale_C = folded.flatten(1), statistics.affine(norm)[0]
        dd = dd.contiguous(memory_format=torch.channels_last)
        dx = torch.zeros_like(x)

        def work(piece: Piece, dweight: Tensor, dzx_CI: Tensor, dz_C: Tensor) -> None:
            x_piece, dd_piece = piece.input(x), piece.output(dd)
            z = kept[piece.number] if kept else _pointwise(x_piece, folded, shift_C)
            a, slope = _swish(z, None if kept else z)
            add_weight_gradient(dweight, dd_piece, a, piece.padding, shape.stride)
            da = input_gradient(dd_piece, (z.shape[2], z.shape[3]), weight, piece.padding, shape.stride)
            dz_MC = _rows(torch.mul(da, slope, out=slope)).flatten(0, 1)
            dzx_CI.addmm_(dz_MC.T, _rows(x_piece).flatten(0, 1))
            dz_C += dz_MC.sum(0)
            _rows(piece.input(dx)).flatten(0, 1).addmm_(dz_MC, folded_CI)

        dweight, dzx_CI, dz_C = torch.zeros_like(weight), torch.zeros_like(expand_CI), torch.zeros_like(scale_C)
        share_out(ctx.cut, work, (dweight, dzx_CI, dz_C))
        # The gradient of the expansion's output e = x W is scale * dz + slope * e + offset per channel: put together
        # from sums over dz and x alone, it is never written down.
        inverse_C = (statistics.variance_C + norm.eps).rsqrt()
        dnormal_C = ((dzx_CI * expand_CI).sum(1) - statistics.mean_C * dz_C) * inverse_C
        slope_C, offset_C = _through_norm(statistics, norm, dz_C, dnormal_C)
        centre_C = offset_C + slope_C * statistics.mean_C
        dexpand_CI = scale_C[:, None] * dzx_CI + slope_C[:, None] * (expand_CI @ inputs.product_II)
        dexpand_CI += centre_C[:, None] * inputs.sum_I
        through_II = expand_CI.T @ (slope_C[:, None] * expand_CI)
        _rows(dx).flatten(0, 1).addmm_(_rows(x).flatten(0, 1), through_II).add_(offset_C @ expand_CI)
        return dx, dexpand_CI.view_as(expand), dnormal_C, dz_C, dweight, None


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
        cut = images(d)
        statistics = _moments(d, cut, norm.reduce)
        norm.note(*statistics)
        scale_C, shift_C = statistics.affine(norm)
        p = _empty(len(d), len(project), *d.shape[2:])
        mean_XC = d.new_empty(d.shape[:2])

        def work(some: slice) -> None:
            s_NPC = F.silu(torch.addcmul(shift_C, d_XPC[some], scale_C), inplace=True)
            torch.mean(s_NPC, 1, out=mean_XC[some])
            gate_NC = _gate(mean_XC[some], squeeze)
            if _gates_weights(d_XPC, project_OC):
                for p_PO, s_PC, gate_C in zip(_rows(p)[some], s_NPC, gate_NC, strict=True):
                    p_PO.copy_(_linear(s_PC, project_OC * gate_C))
            else:
                torch.mm(s_NPC.mul_(gate_NC[:, None]).flatten(0, 1), project_OC.T, out=_rows(p)[some].flatten(0, 1))

        share_out(cut, work)
        ctx.norm, ctx.statistics, ctx.cut = norm, statistics, cut
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
        dd_XPC = _rows(dd)

        def to_normal(some: slice, dproject_OC: Tensor, dz_C: Tensor, dnormal_C: Tensor, *dsqueeze: Tensor) -> None:
            z = torch.addcmul(shift_C, d_XPC[some], scale_C)
            s, slope = _swish(z, z)
            dp_NPO = dp_XPO[some]
            if _gates_weights(d_XPC, project_OC):  # the projection's gradient per image gives the gate's
                each_NOC = dp_NPO.transpose(1, 2) @ s
                gate_NC, dmean_NC = _gate_backward(mean_XC[some], squeeze, (each_NOC * project_OC).sum(1), dsqueeze)
                dproject_OC += (each_NOC * gate_NC[:, None]).sum(0)
                shared_NC = dmean_NC / s.shape[1]
                for dp_PO, gate_C, shared_C, slope_PC, dz_PC in zip(
                    dp_NPO, gate_NC, shared_NC, slope, dd_XPC[some], strict=True
                ):
                    torch.mul(_linear(dp_PO, (project_OC * gate_C).T.contiguous(), shared_C), slope_PC, out=dz_PC)
            else:
                du = (dp_NPO.flatten(0, 1) @ project_OC).view_as(s)
                gate_NC, dmean_NC = _gate_backward(mean_XC[some], squeeze, (du * s).sum(1), dsqueeze)
                dproject_OC.addmm_(dp_NPO.flatten(0, 1).T, s.mul_(gate_NC[:, None]).flatten(0, 1))
                ds = torch.addcmul(dmean_NC[:, None] / s.shape[1], du, gate_NC[:, None], out=du)
                torch.mul(ds, slope, out=dd_XPC[some])
            normal_part_C, part_C = _sums(dd[some], d[some], norm, statistics)
            dnormal_C += normal_part_C
            dz_C += part_C

        totals = [torch.zeros_like(each) for each in (project_OC, scale_C, scale_C, *squeeze)]
        share_out(ctx.cut, to_normal, totals)
        dproject_OC, dz_C, dnormal_C, *dsqueeze = totals
        slope_C, offset_C = _through_norm(statistics, norm, dz_C, dnormal_C)

        def to_depthwise(some: slice) -> None:
            through_statistics = torch.addcmul(offset_C, d_XPC[some], slope_C)
            torch.addcmul(through_statistics, dd_XPC[some], scale_C, out=dd_XPC[some])

        share_out(ctx.cut, to_depthwise)
        return dd, dnormal_C, dz_C, dproject_OC.view_as(project), None, *dsqueeze


def _gates_weights(rows_XPC: Tensor, project_OC: Tensor) -> bool:
    """Whether the gate is cheaper to apply to each image's copy of the projection's weights than to its map."""
    return rows_XPC.shape[1] > 2 * len(project_OC)


def _moments(d: Tensor, cut: list[slice], reduce: Reduce | None) -> Statistics:
    """Return mean and variance of a channels-last map, over all ranks where there is something to add them up with."""
    parts: dict[int, tuple[int, Tensor, Tensor]] = {}

    def work(some: slice) -> None:
        count = d[some].numel() // d.shape[1]
        parts[some.start] = (count, *torch.batch_norm_update_stats(d[some], None, None, 0.0))

    share_out(cut, work)
    ordered = [parts[some.start] for some in cut]
    counts_K1 = torch.tensor([[count] for count, _, _ in ordered], dtype=torch.float64)
    mean_KC = torch.stack([mean for _, mean, _ in ordered]).double()
    variance_KC = torch.stack([variance for _, _, variance in ordered]).double()
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


def _pointwise(x: Tensor, weight: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """Return the 1x1 convolution of a channels-last map; oneDNN's own call does without torch's bookkeeping."""
    if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        geometry = [0, 0], [1, 1], [1, 1], 1
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias_C, *geometry, "none", [], "")  # noqa: SLF001
    else:
        y = F.conv2d(x, weight, bias_C)
    return y.contiguous(memory_format=torch.channels_last)


def _linear(x_PI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return (P, O): for few channels oneDNN's product is faster than torch's own."""
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.ops.mkldnn._linear_pointwise(x_PI, weight_OI, bias_O, "none", [], "")  # noqa: SLF001
    return F.linear(x_PI, weight_OI, bias_O)


def _swish(z: Tensor, into: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return swish, where asked in another's place, and its slope, by one exponential for both."""
    gate = torch.sigmoid(z)
    a = torch.mul(z, gate, out=into)
    return a, torch.lerp(a, _ONE, gate, out=gate)  # gate + a (1 - gate)


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
    _, dnormal_C, dz_C = torch.ops.aten.native_batch_norm_backward(
        dz, d, norm.weight, *moments, None, None, training, norm.eps, wanted
    )
    return dnormal_C, dz_C


def _gate(mean_NC: Tensor, squeeze: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    reduce_weight, reduce_bias, expand_weight, expand_bias = squeeze
    return torch.sigmoid(F.linear(F.silu(F.linear(mean_NC, reduce_weight, reduce_bias)), expand_weight, expand_bias))


def _gate_backward(
    mean_NC: Tensor, squeeze: list[Tensor], dgate_NC: Tensor, dsqueeze: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the gate and the gradient of the mean it is made of, and add the gradients of the small network."""
    reduce_weight, reduce_bias, expand_weight, expand_bias = squeeze
    inner_NR = F.linear(mean_NC, reduce_weight, reduce_bias)
    a_NR, slope_NR = _swish(inner_NR)
    gate_NC = torch.sigmoid(F.linear(a_NR, expand_weight, expand_bias))
    douter_NC = dgate_NC * gate_NC * (1.0 - gate_NC)
    dinner_NR = (douter_NC @ expand_weight) * slope_NR
    parts = dinner_NR.T @ mean_NC, dinner_NR.sum(0), douter_NC.T @ a_NR, douter_NC.sum(0)
    for total, part in zip(dsqueeze, parts, strict=True):
        total.add_(part)
    return gate_NC, dinner_NR @ reduce_weight


def _rows(x_XCHW: Tensor) -> Tensor:
    """View a channels-last map as (X, P, C)."""
    return x_XCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, memory_format=torch.channels_last)
