"""Convolutions and linear layers for inference: weights folded and packed once, for one device and one precision.

On the CPU they call oneDNN's kernels with activation and residual fused, as torch's compiler does. torch's public calls
pack the weights at every step and apply the activation in a second pass. They are used on other devices, and where
oneDNN's kernels fail. One trial tells whether a machine can compute in a precision.

Shape letters: X images, C channels, H height, W width, I inputs, O outputs.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.errors import first_line
from rt1.model.efficientnet import stride_padding

_LOG = logging.getLogger(__name__)
Numbers = Literal["fp32", "bf16", "int8"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LinearMap = Callable[[Tensor], Tensor]
_MAX_ERROR = 0.05
"""Largest relative error of a trial's products: bf16 and int8 err by less than a hundredth."""
_FEW_OUTPUTS = 4
"""A map with at least so many positions for each output is large: its weight is cheap to change at every step."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device and the precision of a part of the network."""

    device: torch.device
    numbers: Numbers
    """``int8`` is for linear layers on the CPU only."""

    @property
    def packs(self) -> bool:
        """Whether oneDNN's kernels are used."""
        return self.device.type == "cpu" and _packing_runs()


@cache
def obstacle(target: Target) -> str | None:
    """Return in one line why this machine cannot compute for a target, None if it can."""
    try:
        off = _trial_error(target)
    except (RuntimeError, AttributeError, AssertionError) as error:  # a call that torch lacks, or one that it refuses
        return first_line(error)
    if off <= _MAX_ERROR:
        return None
    return f"{target.numbers} products are off by {off:.0%}, at most {_MAX_ERROR:.0%} is right; int8 needs VNNI or AMX"


@torch.inference_mode()
def _trial_error(target: Target) -> float:
    """Return the largest relative error of a linear layer and, but for int8, of a convolution and a projection.

    The int8 values are the largest that there are: without VNNI two products are added in 16 bits, which saturate.
    """
    ones = torch.ones(32, 64, device=target.device)
    results = [linear(ones.new_full((64, 64), sign / 64), None, target)(ones) * sign for sign in (1.0, -1.0)]
    if target.numbers != "int8":
        conv = nn.utils.skip_init(nn.Conv2d, 64, 64, 1, bias=False)  # draws no random numbers
        nn.init.constant_(conv.weight, 1 / 64)
        image = ones.new_ones(1, 64, 4, 8, dtype=DTYPES[target.numbers]).to(memory_format=torch.channels_last)
        results.append(Convolution(conv, None, target, size=(4, 8))(image))
        projection = Projection(conv, nn.BatchNorm2d(64, eps=0.0).eval(), target, size=(4, 8))
        results.append(projection(image, ones[:1], image) / 2)
    errors = torch.stack([(result.float() - 1).abs().max() for result in results])
    return float(errors.nan_to_num(nan=math.inf).max())


@cache
def _packing_runs() -> bool:
    """Return whether oneDNN's packed kernels run. torch's public calls, the fallback, are slower."""
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(8, 8))  # noqa: SLF001
        torch.ops.mkldnn._linear_pointwise(torch.ones(1, 8), weight, torch.ones(8), "none", [], "")  # noqa: SLF001
    except (RuntimeError, AttributeError) as error:
        _LOG.warning("oneDNN's packed kernels do not run here, slower ones are used: %s", first_line(error))
        return False
    return True


@contextmanager
def threads_at_most(most: int | None) -> Iterator[None]:
    """Limit the threads of torch's operations in this thread, None for no limit.

    Other threads keep their number, except one that calls torch for the first time meanwhile.
    """
    before = torch.get_num_threads()
    if most is None or most >= before:
        yield
        return
    torch.set_num_threads(most)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Sharing(threading.local):
    threads: int | None = None


_sharing = _Sharing()


@contextmanager
def sparing_threads(most: int) -> Iterator[None]:
    """Run the packed products with all of torch's threads and other operations with ``most`` threads.

    Small sums and normalizations do not benefit from more threads.
    """
    before = torch.get_num_threads()
    if most >= before or _sharing.threads is not None:
        yield
        return
    _sharing.threads = before
    try:
        with threads_at_most(most):
            yield
    finally:
        _sharing.threads = None


def _shared_out(product: Callable[..., Tensor], *arguments: Any) -> Tensor:  # noqa: ANN401
    """Run a product with all threads. Setting their number takes less than a microsecond."""
    if _sharing.threads is None:
        return product(*arguments)
    fewer = torch.get_num_threads()
    torch.set_num_threads(_sharing.threads)
    try:
        return product(*arguments)
    finally:
        torch.set_num_threads(fewer)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution without bias and the normalization after it, as one convolution."""
    weight = conv.weight.detach().double()
    if norm is None:
        return weight, weight.new_zeros(len(weight))
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale_O = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return weight * scale_O[:, None, None, None], norm.bias.detach().double() - norm.running_mean.double() * scale_O


class Convolution:
    """A convolution with the normalization after it and, where asked, the swish after that."""

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        target: Target,
        *,
        size: tuple[int, int],
        swish: bool = False,
        input_scale_I: Tensor | None = None,
    ) -> None:
        """Fold and pack a convolution without bias, with a square kernel and stride 1 or 2, for fp32 or bf16.

        ``size`` is height and width of the input, ``input_scale_I`` a factor of each input channel, float (I,).
        """
        weight, bias = folded(conv, norm)
        if input_scale_I is not None:
            weight = weight * input_scale_I.double()[None, :, None, None]
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        before, after = zip(*(_padding(conv, n) for n in size), strict=True)
        self._packs, self._swish, self._stride, self._groups = target.packs, swish, stride, conv.groups
        self._pad = () if before == after else (before[1], after[1], before[0], after[0])
        self._padding = list(after) if before == after else [0, 0]
        if self._packs and before != after:
            # oneDNN pads both sides equally. A larger kernel with leading zeros has the same effect without a copy.
            weight = F.pad(weight, (after[1] - before[1], 0, after[0] - before[0], 0))
            self._pad, self._padding = (), list(after)
        dtype = DTYPES[target.numbers]
        self.size = tuple((n + b + a - kernel) // stride + 1 for n, b, a in zip(size, before, after, strict=True))
        self._bias = bias.to(target.device, dtype)
        self._weight = weight.to(target.device, dtype).contiguous(memory_format=torch.channels_last)
        if self._packs:
            shape = [1, conv.in_channels, *size]
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(  # noqa: SLF001
                weight.to(dtype), self._padding, [stride] * 2, [1, 1], self._groups, shape
            )

    def __call__(self, x_XCHW: Tensor) -> Tensor:
        if self._packs:
            after = "swish" if self._swish else "none"
            convolve = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
            return _shared_out(convolve, x_XCHW, self._weight, self._bias, *self._geometry(), after, [], "")
        x_XCHW = F.pad(x_XCHW, self._pad) if self._pad else x_XCHW
        padding, stride, dilation, groups = self._geometry()
        y_XCHW = F.conv2d(x_XCHW, self._weight, self._bias, stride, padding, dilation, groups)
        return F.silu(y_XCHW, inplace=True) if self._swish else y_XCHW

    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        return (self._padding, [self._stride] * 2, [1, 1], self._groups)


class Projection:
    """The 1x1 convolution that ends a block, with the gate on its inputs, its normalization and its residual.

    On large maps the gate goes into the weight, which is smaller: I * O products instead of I * H * W.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, target: Target, *, size: tuple[int, int]) -> None:
        """Fold and pack a 1x1 convolution without bias for fp32 or bf16; ``size`` is the input's height and width."""
        weight, bias = folded(conv, norm)
        dtype = DTYPES[target.numbers]
        self._packs = target.packs
        self._gates_weight = self._packs and size[0] * size[1] >= _FEW_OUTPUTS * len(weight)
        self._bias = bias.to(target.device, dtype)
        self._weight_OI = weight.flatten(1).to(target.device, torch.float32 if self._gates_weight else dtype)
        if self._packs and not self._gates_weight:
            self._weight_OI = torch.ops.mkldnn._reorder_linear_weight(self._weight_OI)  # noqa: SLF001

    def __call__(self, x_XCHW: Tensor, gate_XC: Tensor, residual_XOHW: Tensor | None) -> Tensor:
        """Gate (X, C, H, W), channels last, by float32 (X, C), project, and add the residual."""
        x_XHWC = x_XCHW.permute(0, 2, 3, 1)
        residual_XHWO = None if residual_XOHW is None else residual_XOHW.permute(0, 2, 3, 1)
        if not self._gates_weight:
            gated_XHWC = x_XHWC.mul_(gate_XC.to(x_XHWC.dtype)[:, None, None])
            return self._map(gated_XHWC, self._weight_OI, residual_XHWO).permute(0, 3, 1, 2)
        maps = []
        for number, gate_C in enumerate(gate_XC):
            weight_OI = (self._weight_OI * gate_C).to(x_XHWC.dtype)
            one = slice(number, number + 1)
            maps.append(self._map(x_XHWC[one], weight_OI, None if residual_XHWO is None else residual_XHWO[one]))
        return (maps[0] if len(maps) == 1 else torch.cat(maps)).permute(0, 3, 1, 2)

    def _map(self, x: Tensor, weight_OI: Tensor, residual: Tensor | None) -> Tensor:
        if not self._packs:
            y = F.linear(x, weight_OI, self._bias)
            return y if residual is None else y.add_(residual)
        pointwise = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
        if residual is None:
            return _shared_out(pointwise, x, weight_OI, self._bias, "none", [], "")
        return _shared_out(pointwise.binary, x, residual, weight_OI, self._bias, "add")


def _padding(conv: nn.Conv2d, size: int) -> tuple[int, int]:
    kernel = conv.kernel_size[0]
    if conv.stride[0] == 1:
        return kernel // 2, kernel // 2
    return stride_padding(size, kernel, conv.stride_padding)  # type: ignore[arg-type]


def linear(weight_OI: Tensor, bias_O: Tensor | None, target: Target) -> LinearMap:
    """Return a linear layer for a target; it takes and gives (..., I) and (..., O), floating point of any kind."""
    weight_OI = weight_OI.detach().to(target.device, torch.float32, copy=True)
    zeros_O = weight_OI.new_zeros(len(weight_OI))
    bias_O = zeros_O if bias_O is None else bias_O.detach().to(target.device, torch.float32, copy=True)
    if target.numbers == "int8":
        return Int8Linear(weight_OI, bias_O)
    return Linear(weight_OI, bias_O, target)


class Linear:
    """A linear layer in fp32 or bf16."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor, target: Target) -> None:
        self._dtype, self._packs = DTYPES[target.numbers], target.packs
        self._weight, self._bias = weight_OI.to(self._dtype), bias_O.to(self._dtype)
        if self._packs:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight)  # noqa: SLF001

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype)
        if self._packs:
            pointwise = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
            return _shared_out(pointwise, x, self._weight, self._bias, "none", [], "")
        return F.linear(x, self._weight, self._bias)


class Int8Linear:
    """A linear layer in int8: its weight has a scale per output, its input is given one per row."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor) -> None:
        self._scale_O = weight_OI.abs().amax(1).clamp(min=1e-30) / 127
        self._weight_IO = torch.round(weight_OI / self._scale_O[:, None]).to(torch.int8).t()
        self._bias_O = bias_O

    def __call__(self, x: Tensor) -> Tensor:
        row_RI = x.float().flatten(0, -2)
        scale_R1 = row_RI.abs().amax(1, keepdim=True).clamp_(min=1e-30).div_(127)
        row_RI = (row_RI / scale_R1).round_().to(torch.int8)
        y_RO = _shared_out(torch._int_mm, row_RI, self._weight_IO).float()  # noqa: SLF001
        return y_RO.mul_(scale_R1).mul_(self._scale_O).add_(self._bias_O).unflatten(0, x.shape[:-1])
