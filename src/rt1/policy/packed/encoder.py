"""The image encoder for acting: :meth:`RT1.encode` with weights folded and packed for one device.

FiLM scales and shifts are computed once per episode, from its instruction.

Shape letters: S robots, F scales and shifts of all FiLM layers, C channels, H height, W width, P positions, K tokens,
E token width.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.model.conditioning import FiLM
from rt1.model.efficientnet import FiLMEfficientNet, MBConv
from rt1.model.rt1 import RT1
from rt1.policy.packed.layers import DTYPES, Convolution, Projection, Target, sparing_threads


class PlainEncoder:
    """The network's own image encoder: for backbones that :class:`FoldedEncoder` does not know."""

    def __init__(self, model: RT1) -> None:
        self._model = model

    def prepare(self, condition_S: Tensor) -> Tensor:
        """Return the condition, which :meth:`__call__` takes as it is."""
        return condition_S

    def __call__(self, image_SCHW: Tensor, condition_S: Tensor) -> tuple[Tensor, Tensor]:
        """Turn prepared images (S, 3, H, W) in [0, 1] into image tokens (S, K, E) and TokenLearner's maps (S, K, P)."""
        return self._model.token_learner.pool(self._model.positions(image_SCHW, condition_S))


class FoldedEncoder:
    """FiLM-EfficientNet and TokenLearner with the normalizations folded into the convolutions."""

    @staticmethod
    def fits(model: RT1) -> bool:
        """Say whether it knows this network's backbone."""
        return isinstance(model.backbone, FiLMEfficientNet) and model.config.conditioning == "film"

    def __init__(self, model: RT1, target: Target) -> None:
        """Fold and pack; the network may change afterwards."""
        backbone: FiLMEfficientNet = model.backbone
        self._token_learner = copy.deepcopy(model.token_learner).to(target.device)
        self._mean_C11 = model.pixel_mean.detach().to(target.device, copy=True)[:, None, None]
        scale_C = 1.0 / model.pixel_std.detach()
        # Always float32 until the map shrinks again: rounding errors there grow with every later layer.
        first = replace(target, numbers="fp32")
        image_size = model.config.image_size
        self._stem = Convolution(
            backbone.stem, backbone.stem_norm, first, size=image_size, swish=True, input_scale_I=scale_C
        )
        self._blocks: list[_Block] = []
        size = self._stem.size
        for block in backbone.blocks:
            assert isinstance(block, MBConv)
            first = first if block.depthwise.stride[0] == 1 else target
            self._blocks.append(_Block(block, first, size))
            size = self._blocks[-1].size
        self._top = None
        if backbone.top is not None:
            self._top = Convolution(backbone.top, backbone.top_norm, target, size=size, swish=True)
        self._pool = backbone.config.pool
        self._output = Convolution(backbone.output, None, target, size=self._pool or size)
        layers = [*(block.film for block in backbone.blocks), backbone.output_film]
        self._films = _Films([layer for layer in layers if isinstance(layer, FiLM)], target.device)

    def prepare(self, condition_SW: Tensor) -> Tensor:
        """Return all FiLM scales and shifts (S, F) for conditions (S, W)."""
        return self._films(condition_SW)

    def __call__(self, image_SCHW: Tensor, film_SF: Tensor) -> tuple[Tensor, Tensor]:
        """Turn prepared images (S, 3, H, W) in [0, 1] into image tokens (S, K, E) and TokenLearner's maps (S, K, P)."""
        with sparing_threads(len(image_SCHW)):
            return self._encode(image_SCHW, film_SF)

    def _encode(self, image_SCHW: Tensor, film_SF: Tensor) -> tuple[Tensor, Tensor]:
        films = iter(film_SF.split(self._films.sizes, dim=1))
        x_SCHW = self._stem((image_SCHW - self._mean_C11).contiguous(memory_format=torch.channels_last))
        for block in self._blocks:
            x_SCHW = film(block(x_SCHW), next(films))
        x_SCHW = x_SCHW if self._top is None else self._top(x_SCHW)
        x_SCHW = x_SCHW if self._pool is None else F.adaptive_avg_pool2d(x_SCHW, self._pool)
        x_SCHW = self._output(x_SCHW)
        last = next(films, None)
        x_SCHW = x_SCHW if last is None else film(x_SCHW, last)
        return self._token_learner.pool(x_SCHW.flatten(2).transpose(1, 2).float())


class _Films:
    """Every FiLM layer's scale and shift as one linear map of the text."""

    def __init__(self, layers: list[FiLM], device: torch.device) -> None:
        parts = [part for layer in layers for part in (layer.multiply, layer.add)]
        self.sizes = [2 * layer.add.out_features for layer in layers]
        self._weight = torch.cat([part.weight.detach() for part in parts]).to(device)
        # 1 is added to the scales here: FiLM multiplies by 1 + scale.
        ones = [float(part is layer.multiply) for layer in layers for part in (layer.multiply, layer.add)]
        self._bias = torch.cat([part.bias.detach() + one for part, one in zip(parts, ones, strict=True)]).to(device)

    def __call__(self, text_SW: Tensor) -> Tensor:
        return F.linear(text_SW, self._weight, self._bias)


class _Block:
    """An MBConv block without the FiLM after it."""

    def __init__(self, block: MBConv, target: Target, size: tuple[int, ...]) -> None:
        height, width = size
        self._dtype = DTYPES[target.numbers]
        self._expand = None
        if block.expand is not None:
            self._expand = Convolution(block.expand, block.expand_norm, target, size=(height, width), swish=True)
        self._depthwise = Convolution(block.depthwise, block.depthwise_norm, target, size=(height, width), swish=True)
        height, width = self.size = self._depthwise.size
        self._project = Projection(block.project, block.project_norm, target, size=(height, width))
        self._residual = block.residual
        # Always float32: a few thousand products, and every position depends on them.
        self._reduce = _parameters(block.squeeze.reduce, target.device)
        self._expand_gate = _parameters(block.squeeze.expand, target.device)

    def __call__(self, x_SCHW: Tensor) -> Tensor:
        x_SCHW = x_SCHW.to(self._dtype)
        y_SCHW = x_SCHW if self._expand is None else self._expand(x_SCHW)
        y_SCHW = self._depthwise(y_SCHW)
        mean_SC = F.avg_pool2d(y_SCHW, self.size).flatten(1).float()  # adds up in float32; faster than a mean
        gate_SC = F.linear(F.silu(F.linear(mean_SC, *self._reduce)), *self._expand_gate).sigmoid_()
        return self._project(y_SCHW, gate_SC, x_SCHW if self._residual else None)


def _parameters(layer: nn.Linear, device: torch.device) -> tuple[Tensor, Tensor]:
    return layer.weight.detach().to(device, copy=True), layer.bias.detach().to(device, copy=True)


def film(x_SCHW: Tensor, film_SF: Tensor) -> Tensor:
    """Scale and shift every channel; ``film_SF``, float32, holds the scales, then the shifts."""
    if x_SCHW.dtype == torch.bfloat16 and x_SCHW.device.type == "cpu":
        # On the CPU torch's bfloat16 addcmul is an order slower than its normalization by given means and variances.
        if len(x_SCHW) == 1:
            return _film_by_norm(x_SCHW, film_SF[0])
        return torch.cat([_film_by_norm(x_CHW[None], film_F) for x_CHW, film_F in zip(x_SCHW, film_SF, strict=True)])
    scale_SC, shift_SC = film_SF.to(x_SCHW.dtype).chunk(2, dim=1)
    return torch.addcmul(shift_SC[:, :, None, None], scale_SC[:, :, None, None], x_SCHW)


def _film_by_norm(x_1CHW: Tensor, film_F: Tensor) -> Tensor:
    scale_C, shift_C = film_F.chunk(2)
    zeros_C, ones_C = _constants(len(scale_C))
    return torch.batch_norm(x_1CHW, scale_C, shift_C, zeros_C, ones_C, False, 0.0, 0.0, False)  # noqa: FBT003


@cache
def _constants(channels: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(channels), torch.ones(channels)
