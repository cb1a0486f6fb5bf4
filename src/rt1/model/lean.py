"""An EfficientNet block's convolutions in training, with the backward pass by hand: less memory and less time.

A block widens its input, convolves it depthwise, and narrows it again. torch's own backward keeps seven maps of the
wide size; this keeps one, the depthwise convolution's output, and of the expansion at most its normalised output. All
else is computed again, piece by piece, while it fits into the processor's cache. The statistics of the expansion's
output follow from the moments of its input, so that normalisation is part of the expansion itself. The numbers are
those of the plain block but for rounding.

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

from rt1.model.depthwise import add_weight_gradient, depthwise, input_gradient
from rt1.model.layers import BatchNorm
from rt1.model.pieces import DepthwiseShape, Piece, images, pieces, rows, share_out
from rt1.model.statistics import Expansion, Statistics, over_all, sums, through_norm

KEEP_FROM = 64
"""Input channels from which on the normalised expansion is kept: below, computing it again is cheaper."""

_ONE = torch.ones(())


class Block(NamedTuple):
    """The block's layers, and what it keeps."""

    expand: tuple[nn.Conv2d, BatchNorm] | None
    depthwise: nn.Conv2d
    shape: DepthwiseShape
    norm: BatchNorm
    squeeze: tuple[nn.Linear, nn.Linear]
    project: nn.Conv2d
    spare: bool
    """Whether the backward pass holds one wide map less, and computes more."""

    def __call__(self, x_XIHW: Tensor) -> Tensor:
        """Return ``project(squeeze(silu(norm(depthwise(silu(expand(x)))))))``, (X, O, H, W), in training mode."""
        x = x_XIHW.contiguous(memory_format=torch.channels_last)
        weights = [self.depthwise.weight, self.norm.weight, self.norm.bias, self.project.weight, *self.small()]
        if self.expand is not None:
            conv, norm = self.expand
            weights += [conv.weight, norm.weight, norm.bias]
        return _Lean.apply(self, x, *weights)  # type: ignore[no-untyped-call]

    def small(self) -> list[Tensor]:
        """Return the weights of the gate's small network."""
        return [parameter for layer in self.squeeze for parameter in (layer.weight, layer.bias)]


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, x: Tensor, *_: Tensor) -> Tensor:  # noqa: ANN401
        expansion = Expansion.of(x, block.expand) if block.expand is not None else None
        cut = pieces(x, len(block.depthwise.weight), block.shape)
        d, statistics, kept = _widen(x, cut, block, expansion)
        p, mean_XC = _narrow(d, statistics.affine(block.norm), block)
        ctx.block, ctx.cut, ctx.expansion, ctx.statistics = block, cut, expansion, statistics
        ctx.save_for_backward(x, d, mean_XC, *kept)  # as attributes they would outlive checkpointing
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dp: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, d, mean_XC, *kept = ctx.saved_tensors
        block = ctx.block
        normal = _Normal(block, ctx.statistics, d, dp.contiguous(memory_format=torch.channels_last), mean_XC)
        if ctx.expansion is None:
            dx, dweight = _through_depthwise(x, ctx.cut, block, normal)
            return None, dx, dweight, *normal.gradients(block.project)
        dx, dweight, *others = _through_expansion(ctx, x, kept, normal)
        return None, dx, dweight, *normal.gradients(block.project), *others


def _widen(
    x: Tensor, cut: list[Piece], block: Block, expansion: Expansion | None
) -> tuple[Tensor, Statistics, list[Tensor]]:
    """Return the depthwise convolution's output, its statistics, and the normalised expansion where it is kept."""
    weight, shape = block.depthwise.weight, block.shape
    keeps = expansion is not None and x.shape[1] >= KEEP_FROM
    kept = [x] * len(cut) if keeps else []
    moments = [(0, x, x)] * len(cut)
    d = _empty(len(x), len(weight), *shape.size(*x.shape[2:]))

    def work(piece: Piece) -> None:
        a = piece.input(x)
        if expansion is not None:
            z = _pointwise(a, expansion.folded, expansion.shift_C)
            if keeps:
                kept[piece.number] = z
            a = F.silu(z, inplace=not keeps)
        made = depthwise(a, weight, piece.padding, shape.stride)
        moments[piece.number] = made.numel() // made.shape[1], *torch.batch_norm_update_stats(made, None, None, 0.0)
        piece.output(d).copy_(made)

    share_out(cut, work)
    statistics = over_all(moments, block.norm.reduce)
    block.norm.note(*statistics)
    return d, statistics, kept


def _narrow(d: Tensor, affine: tuple[Tensor, Tensor], block: Block) -> tuple[Tensor, Tensor]:
    """Return the projection of ``silu(norm(d))`` weighed by its gate, and the means that the gate is made of."""
    d_XPC, project_OC, (scale_C, shift_C) = rows(d), block.project.weight.flatten(1), affine
    p, squeeze = _empty(len(d), len(project_OC), *d.shape[2:]), block.small()
    mean_XC = d.new_empty(d.shape[:2])

    def work(some: slice) -> None:
        s_NPC = F.silu(torch.addcmul(shift_C, d_XPC[some], scale_C), inplace=True)
        torch.mean(s_NPC, 1, out=mean_XC[some])
        gate_NC = _gate(mean_XC[some], squeeze)
        if _gates_weights(d_XPC, project_OC):
            for p_PO, s_PC, gate_C in zip(rows(p)[some], s_NPC, gate_NC, strict=True):
                p_PO.copy_(_linear(s_PC, project_OC * gate_C))
        else:
            torch.mm(s_NPC.mul_(gate_NC[:, None]).flatten(0, 1), project_OC.T, out=rows(p)[some].flatten(0, 1))

    share_out(images(d), work)
    return p, mean_XC


class _Sums(NamedTuple):
    """What goes back through the projection and the normalisation once all images were seen."""

    dproject_OC: Tensor
    dz_C: Tensor
    dnormal_C: Tensor
    reduce_weight: Tensor
    reduce_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor


class _Normal:
    """The gradient of what the depthwise convolution gives: put together piece by piece, and never written down."""

    def __init__(self, block: Block, statistics: Statistics, d: Tensor, dp: Tensor, mean_XC: Tensor) -> None:
        """Go back from the projection to the normalisation, whose sums need all images."""
        self._d, self._dp, self._project_OC = d, dp, block.project.weight.detach().flatten(1)
        self._scale_C, self._shift_C = statistics.affine(block.norm)
        self._gate_XC, self._shared_XC = torch.empty_like(mean_XC), torch.empty_like(mean_XC)
        self._by_image = _gates_weights(rows(d), self._project_OC)
        # The gradient of the normalised d; None: computed again for each piece.
        self._dz = None if block.spare and self._by_image else torch.empty_like(d)
        squeeze = block.small()

        def work(some: slice, *totals: Tensor) -> None:
            s, slope = self._swish(rows(d[some]))
            own = _Sums(*totals)
            dz = self._back(some, s, slope, (mean_XC[some], squeeze), own)
            normal_part_C, part_C = sums(dz, rows(d[some]), block.norm, statistics)
            own.dnormal_C.add_(normal_part_C)
            own.dz_C.add_(part_C)

        self.sums = _Sums(*(torch.zeros_like(t) for t in (self._project_OC, self._scale_C, self._scale_C, *squeeze)))
        share_out(images(d), work, self.sums)
        self._slope_C, self._offset_C = through_norm(statistics, block.norm, self.sums.dz_C, self.sums.dnormal_C)

    def gradients(self, project: nn.Conv2d) -> list[Tensor]:
        """Return those of the normalisation's weight and bias, the projection, and the gate's small network."""
        dproject_OC, dz_C, dnormal_C, *dsqueeze = self.sums
        return [dnormal_C, dz_C, dproject_OC.view_as(project.weight), *dsqueeze]

    def dd(self, piece: Piece) -> Tensor:
        """Return a piece of the gradient of d."""
        d = piece.output(self._d)
        if self._dz is not None:
            dz = rows(piece.output(self._dz))
        else:
            dp = rows(piece.output(self._dp))
            dz = self._by_images(piece.images, dp, self._swish(rows(d))[1])
        dd = torch.empty_like(d)
        through_statistics = torch.addcmul(self._offset_C, rows(d), self._slope_C, out=rows(dd))
        torch.addcmul(through_statistics, dz, self._scale_C, out=rows(dd))
        return dd

    def _swish(self, d_NPC: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.addcmul(self._shift_C, d_NPC, self._scale_C)
        return _swish(z, z)

    def _back(
        self,
        some: slice,
        s: Tensor,
        slope: Tensor,
        gate: tuple[Tensor, Sequence[Tensor]],
        totals: _Sums,
    ) -> Tensor:
        """Return dz of some images, and add the gradients of projection and gate, given what the gate is made of."""
        dproject_OC, _, _, *dsqueeze = totals
        mean_NC, squeeze = gate
        dp_NPO, project_OC, dz = rows(self._dp[some]), self._project_OC, None
        if self._dz is not None:
            dz = rows(self._dz[some])
        if self._by_image:  # the projection's gradient per image gives the gate's
            each_NOC = dp_NPO.transpose(1, 2) @ s
            gate_NC, dmean_NC = _gate_backward(mean_NC, squeeze, (each_NOC * project_OC).sum(1), dsqueeze)
            dproject_OC += (each_NOC * gate_NC[:, None]).sum(0)
            self._gate_XC[some], self._shared_XC[some] = gate_NC, dmean_NC / s.shape[1]
            return self._by_images(some, dp_NPO, slope, dz)
        du = (dp_NPO.flatten(0, 1) @ project_OC).view_as(s)
        gate_NC, dmean_NC = _gate_backward(mean_NC, squeeze, (du * s).sum(1), dsqueeze)
        dproject_OC.addmm_(dp_NPO.flatten(0, 1).T, s.mul_(gate_NC[:, None]).flatten(0, 1))
        ds = torch.addcmul(dmean_NC[:, None] / s.shape[1], du, gate_NC[:, None], out=du)
        return torch.mul(ds, slope, out=dz)

    def _by_images(self, some: slice, dp_NPO: Tensor, slope: Tensor, into: Tensor | None = None) -> Tensor:
        dz = torch.empty_like(slope) if into is None else into
        each = zip(dp_NPO, self._gate_XC[some], self._shared_XC[some], slope, dz, strict=True)
        for dp_PO, gate_C, shared_C, slope_PC, dz_PC in each:
            weight_CO = (self._project_OC * gate_C).T.contiguous()
            torch.mul(_linear(dp_PO, weight_CO, shared_C), slope_PC, out=dz_PC)
        return dz


def _gates_weights(rows_XPC: Tensor, project_OC: Tensor) -> bool:
    """Whether the gate is cheaper to apply to each image's copy of the projection's weights than to its map."""
    return rows_XPC.shape[1] > 2 * len(project_OC)


def _through_depthwise(x: Tensor, cut: list[Piece], block: Block, normal: _Normal) -> tuple[Tensor, Tensor]:
    """Return the gradients of the depthwise convolution's input and weight."""
    weight, shape = block.depthwise.weight, block.shape
    dx, dweight = torch.zeros_like(x), torch.zeros_like(weight)

    def work(piece: Piece, dweight: Tensor) -> None:
        x_piece, dd = piece.input(x), normal.dd(piece)
        add_weight_gradient(dweight, dd, x_piece, piece.padding, shape.stride)
        size = x_piece.shape[2], x_piece.shape[3]
        piece.input(dx).add_(input_gradient(dd, size, weight, piece.padding, shape.stride))

    share_out(cut, work, (dweight,))
    return dx, dweight


def _through_expansion(
    ctx: Any,  # noqa: ANN401
    x: Tensor,
    kept: Sequence[Tensor],
    normal: _Normal,
) -> tuple[Tensor, ...]:
    """Return the gradients of input, depthwise weight, expansion, and its normalisation's weight and bias."""
    weight, shape, expansion = ctx.block.depthwise.weight, ctx.block.shape, ctx.expansion
    conv, norm = ctx.block.expand
    expand_CI = conv.weight.flatten(1)
    folded_CI = expansion.folded.flatten(1)
    dx = torch.zeros_like(x)

    def work(piece: Piece, dweight: Tensor, xdz_IC: Tensor, dz_C: Tensor) -> None:
        x_piece, dd = piece.input(x), normal.dd(piece)
        z = kept[piece.number] if kept else _pointwise(x_piece, expansion.folded, expansion.shift_C)
        a, slope = _swish(z, None if kept else z)
        add_weight_gradient(dweight, dd, a, piece.padding, shape.stride)
        da = input_gradient(dd, (z.shape[2], z.shape[3]), weight, piece.padding, shape.stride)
        dz_MC = rows(torch.mul(da, slope, out=slope)).flatten(0, 1)
        xdz_IC.addmm_(rows(x_piece).flatten(0, 1).T, dz_MC)  # for few inputs faster than the other way round
        dz_C += dz_MC.sum(0)
        rows(piece.input(dx)).flatten(0, 1).addmm_(dz_MC, folded_CI)

    dweight, xdz_IC = torch.zeros_like(weight), expand_CI.new_zeros(expand_CI.T.shape)
    dz_C = torch.zeros_like(expansion.shift_C)
    share_out(ctx.cut, work, (dweight, xdz_IC, dz_C))
    dexpand_CI, dnormal_C, through_II, offset_I = expansion.gradients(norm, expand_CI, xdz_IC.T, dz_C)
    rows(dx).flatten(0, 1).addmm_(rows(x).flatten(0, 1), through_II).add_(offset_I)
    return dx, dweight, dexpand_CI.view_as(conv.weight), dnormal_C, dz_C


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


def _gate(mean_NC: Tensor, squeeze: Sequence[Tensor]) -> Tensor:
    reduce_weight, reduce_bias, expand_weight, expand_bias = squeeze
    return torch.sigmoid(F.linear(F.silu(F.linear(mean_NC, reduce_weight, reduce_bias)), expand_weight, expand_bias))


def _gate_backward(
    mean_NC: Tensor, squeeze: Sequence[Tensor], dgate_NC: Tensor, dsqueeze: Sequence[Tensor]
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


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, memory_format=torch.channels_last)
