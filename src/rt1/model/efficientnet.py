"""FiLM-conditioned EfficientNet: an image and a text embedding to a grid of positions (docs/network.md).

Shape letters: X images, C channels, H height, W width, E text, P positions, D width of a position.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rt1.common.json_config import WIDEST, check_above, check_between, check_fraction, check_total
from rt1.model.conditioning import Conditioning, conditioner
from rt1.model.layers import BatchNorm, SqueezeExcite, keras_normal_
from rt1.model.rows import ResidualBlock

Padding = Literal["rt1", "same"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of MBConv blocks. The first one strides and changes the width."""

    kernel: int
    """Depthwise kernel size, pixels."""
    stride: int
    """Stride of the first block."""
    expand: int
    """Channels inside a block as a multiple of its input channels."""
    channels: int
    """Output channels before width scaling."""
    blocks: int
    """Blocks before depth scaling."""

    def __post_init__(self) -> None:
        check_between(self, 1, 31, "kernel", "expand")
        check_between(self, 1, 2, "stride")
        check_between(self, 1, 4096, "channels")
        check_between(self, 1, 100, "blocks")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}, must be odd. Use {self.kernel + 1}")


B0_STAGES = (
    Stage(kernel=3, stride=1, expand=1, channels=16, blocks=1),
    Stage(kernel=3, stride=2, expand=6, channels=24, blocks=2),
    Stage(kernel=5, stride=2, expand=6, channels=40, blocks=2),
    Stage(kernel=3, stride=2, expand=6, channels=80, blocks=3),
    Stage(kernel=5, stride=1, expand=6, channels=112, blocks=3),
    Stage(kernel=5, stride=2, expand=6, channels=192, blocks=4),
    Stage(kernel=3, stride=1, expand=6, channels=320, blocks=1),
)

SCALING = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
"""Width and depth multipliers of the published EfficientNets."""


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Sizes and quirks of the backbone. The defaults are RT-1's EfficientNet-B3."""

    width: float = SCALING["b3"][0]
    """Channel multiplier."""
    depth: float = SCALING["b3"][1]
    """Block multiplier."""
    stages: tuple[Stage, ...] = B0_STAGES
    """Stages before scaling. A shorter table gives a smaller network with a finer grid."""
    stem_channels: int = 32
    """Stem channels before scaling."""
    top_channels: int | None = 1280
    """Channels of the 1x1 convolution after the last block before scaling. None leaves it out."""
    pool: tuple[int, int] | None = None
    """Height and width that the feature map is averaged to before the projection. None leaves it as it is."""
    output_condition: bool = True
    """Condition the positions on the text once more after the projection."""
    padding: Padding = "rt1"
    """Stride-2 padding: ``rt1`` pads (k//2 - 1, k//2) whatever the size, which gives 9x9 from 300x300.
    ``same`` is TensorFlow's SAME, which gives 10x10 (RT-1-X, timm, Keras at a fixed size)."""
    drop_connect: float = 0.2
    """Largest probability of dropping a block's residual branch in training. It grows linearly with the block."""
    batch_norm_eps: float = 1e-3
    """Added to the variance. 1e-5, the torch default, changes the numbers visibly."""
    batch_norm_momentum: float = 0.01
    """Share of the batch's statistics in the moving ones (1 - Keras' momentum)."""
    unbiased_moving_variance: bool = True
    """TensorFlow and torch update the moving variance with the unbiased one, flax with the biased one."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages is empty. Give at least one")
        check_above(self, 0, "width", "depth")
        check_between(self, 0, 8, "width", "depth")  # EfficientNet-B7 has 2.0 and 3.1
        check_between(self, 1, WIDEST, "stem_channels", "top_channels", "pool")
        check_total(self, sum(self.blocks(stage.blocks) for stage in self.stages), 500, "blocks", "depth", "stages")
        check_fraction(self, "drop_connect")
        check_above(self, 0, "batch_norm_eps")
        check_between(self, 0, 1, "batch_norm_eps", "batch_norm_momentum")

    def channels(self, base: int) -> int:
        """Scale a channel count by the width, to a multiple of 8, never losing more than 10 %."""
        scaled = base * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    def blocks(self, base: int) -> int:
        """Scale a block count by the depth, rounding up."""
        return math.ceil(base * self.depth)

    @property
    def output_channels(self) -> int:
        """Channels of the feature map."""
        return self.channels(self.stages[-1].channels if self.top_channels is None else self.top_channels)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of the grid of positions for an image of this height and width."""
        if self.pool is not None:
            return self.pool
        height, width = size
        for kernel in (3, *(stage.kernel for stage in self.stages if stage.stride == 2)):  # 3: the stem
            height, width = (
                (n + sum(stride_padding(n, kernel, self.padding)) - kernel) // 2 + 1 for n in (height, width)
            )
        return height, width


def stride_padding(size: int, kernel: int, padding: Padding) -> tuple[int, int]:
    """Return the zeros put before and after ``size`` pixels where a kernel strides by 2."""
    if padding == "rt1":
        # Keras' correct_pad sees an unknown size when RT-1 builds the network and takes this branch for every size.
        return kernel // 2 - 1, kernel // 2
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    return total // 2, total - total // 2


class Conv(nn.Conv2d):
    """A convolution without bias whose stride-2 padding is RT-1's or TensorFlow's SAME."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "rt1",
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=stride, padding=kernel // 2 if stride == 1 else 0, groups=groups, bias=False
        )
        self.stride_padding = padding
        # Keras' VarianceScaling(2, fan_out), the depthwise fan-out being that of one channel.
        keras_normal_(self.weight, 2.0 / (kernel * kernel * (1 if groups > 1 else outputs)))

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """Convolve (X, C, H, W)."""
        if self.stride[0] == 2:
            top, bottom = stride_padding(x_XCHW.shape[2], self.kernel_size[0], self.stride_padding)
            left, right = stride_padding(x_XCHW.shape[3], self.kernel_size[1], self.stride_padding)
            x_XCHW = F.pad(x_XCHW, (left, right, top, bottom))
        return super().forward(x_XCHW)


def _batch_norm(channels: int, config: EfficientNetConfig) -> BatchNorm:
    return BatchNorm(
        channels,
        eps=config.batch_norm_eps,
        momentum=config.batch_norm_momentum,
        unbiased=config.unbiased_moving_variance,
    )


class MBConv(ResidualBlock):
    """Expand, depthwise convolution, squeeze-excite, project, add the residual where shapes allow, then FiLM."""

    def __init__(
        self,
        inputs: int,
        stage: Stage,
        config: EfficientNetConfig,
        *,
        stride: int,
        drop: float,
        condition: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        inner, outputs = inputs * stage.expand, config.channels(stage.channels)
        self.expand = Conv(inputs, inner) if stage.expand != 1 else None
        self.expand_norm = _batch_norm(inner, config) if stage.expand != 1 else None
        self.depthwise = Conv(inner, inner, stage.kernel, stride=stride, groups=inner, padding=config.padding)
        self.depthwise_norm = _batch_norm(inner, config)
        # The reduction counts the block's input channels, not the expanded ones.
        self.squeeze = SqueezeExcite(inner, max(1, int(inputs * 0.25)))
        for layer in (self.squeeze.reduce, self.squeeze.expand):
            keras_normal_(layer.weight, 2.0 / layer.out_features)
            nn.init.zeros_(layer.bias)
        self.project = Conv(inner, outputs)
        self.project_norm = _batch_norm(outputs, config)
        self.film = condition(outputs)
        self.residual = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, x_XCHW: Tensor, text_XE: Tensor) -> Tensor:
        """Map (X, C, H, W) to (X, C', H', W')."""
        y_XCHW = x_XCHW
        if self.expand is not None and self.expand_norm is not None:
            y_XCHW = F.silu(self.expand_norm(self.expand(y_XCHW)))
        y_XCHW = F.silu(self.depthwise_norm(self.depthwise(y_XCHW)))
        y_XCHW = self.project_norm(self.project(self.squeeze(y_XCHW)))
        if self.residual:
            y_XCHW = x_XCHW + self.drop_branch(y_XCHW)
        return self.film(y_XCHW, text_XE)


class FiLMEfficientNet(nn.Module):
    """The image tokenizer's backbone: normalised image and text to (X, P, D)."""

    def __init__(
        self, config: EfficientNetConfig, *, text_width: int, output_width: int, conditioning: Conditioning = "film"
    ) -> None:
        super().__init__()
        self.config = config
        condition = partial(conditioner, conditioning, text_width)
        stem = config.channels(config.stem_channels)
        self.stem = Conv(3, stem, 3, stride=2, padding=config.padding)
        self.stem_norm = _batch_norm(stem, config)
        self.blocks = nn.ModuleList(_blocks(config, stem, condition))
        last, outputs = config.channels(config.stages[-1].channels), config.output_channels
        self.top = None if config.top_channels is None else Conv(last, outputs)
        self.top_norm = None if config.top_channels is None else _batch_norm(outputs, config)
        self.output = nn.Conv2d(outputs, output_width, 1, bias=False)
        keras_normal_(self.output.weight, 1.0 / outputs)
        self.output_film = condition(output_width) if config.output_condition else None

    def features(self, x_XCHW: Tensor, text_XE: Tensor) -> Tensor:
        """Return the feature map (X, C, H', W') before the projection to the token width."""
        x_XCHW = F.silu(self.stem_norm(self.stem(x_XCHW)))
        for block in self.blocks:
            x_XCHW = block(x_XCHW, text_XE)
        if self.top is not None and self.top_norm is not None:
            x_XCHW = F.silu(self.top_norm(self.top(x_XCHW)))
        return x_XCHW

    def forward(self, x_XCHW: Tensor, text_XE: Tensor) -> Tensor:
        """Map normalised images (X, 3, H, W) and text (X, E) to positions (X, P, D), row by row."""
        x_XCHW = self.features(x_XCHW, text_XE)
        if self.config.pool is not None:
            x_XCHW = F.adaptive_avg_pool2d(x_XCHW, self.config.pool)
        y_XDHW = self.output(x_XCHW)
        if self.output_film is not None:
            y_XDHW = self.output_film(y_XDHW, text_XE)
        return y_XDHW.flatten(2).transpose(1, 2)


def _blocks(config: EfficientNetConfig, inputs: int, condition: Callable[[int], nn.Module]) -> list[MBConv]:
    total = sum(config.blocks(stage.blocks) for stage in config.stages)
    blocks: list[MBConv] = []
    for stage in config.stages:
        for index in range(config.blocks(stage.blocks)):
            stride, drop = stage.stride if index == 0 else 1, config.drop_connect * len(blocks) / total
            blocks.append(MBConv(inputs, stage, config, stride=stride, drop=drop, condition=condition))
            inputs = config.channels(stage.channels)
    return blocks
