"""MaxViT conditioned on the text: convolution, attention in blocks, attention over a grid (Tu et al. 2022, section 3).

Shape letters: X images, C channels, H height, W width, G groups of an image, P positions of a group, N heads, D width
of a position, E text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.common.json_config import MOST_WEIGHTS, WIDEST, check_between, check_fraction, check_total
from rt1.model.conditioning import Conditioning, conditioner
from rt1.model.layers import BatchNorm, SqueezeExcite
from rt1.model.rows import ResidualBlock

Grouping = Literal["block", "grid"]


@dataclass(frozen=True, kw_only=True)
class MaxViTConfig:
    """Sizes of the backbone. The defaults are MaxViT-T's."""

    stem_channels: int = 64
    """Channels of the stem, which halves the image."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of each stage. Each stage halves the map."""
    depths: tuple[int, ...] = (2, 2, 5, 2)
    """Blocks of each stage."""
    partition: int = 7
    """Height and width of a group of positions that attend to each other."""
    head_width: int = 32
    """Width of one attention head."""
    expand: int = 4
    """Channels inside a convolution block, and hidden width of a feed-forward, as a multiple of the output channels."""
    drop_connect: float = 0.2
    """Largest probability of dropping a block's residual branches in training. It grows linearly with the block."""

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.depths) or not self.channels or min(self.depths) < 1:
            raise ValueError(
                f"channels is {self.channels}, depths {self.depths}. Each stage must have an entry in both"
            )
        check_between(self, 1, 64, "partition")
        check_between(self, 1, WIDEST, "head_width", "expand", "stem_channels", "channels", "depths")
        weights = sum(d * c * c for d, c in zip(self.depths, self.channels, strict=True)) * 2 * (self.expand + 4)
        check_total(self, weights, MOST_WEIGHTS, "weights", "channels", "depths", "expand")
        if any(width % self.head_width for width in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of head_width {self.head_width}")
        check_fraction(self, "drop_connect")

    @property
    def divisor(self) -> int:
        """What height and width of an image must be multiples of, pixels."""
        return self.partition * 2 ** (1 + len(self.channels))

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the feature map's height and width for an image of this height and width.

        Raises:
            ValueError: the size is not a multiple of :attr:`divisor`.
        """
        if any(n < 1 or n % self.divisor for n in size):
            best = tuple(max(1, round(n / self.divisor)) * self.divisor for n in size)
            raise ValueError(
                f"image_size is {size}. This MaxViT takes multiples of {self.divisor} (its partition {self.partition}, "
                f"doubled for the stem and each of {len(self.channels)} stages). Use {best}, or another partition"
            )
        return (size[0] // self.divisor * self.partition, size[1] // self.divisor * self.partition)


class MBConv(ResidualBlock):
    """Norm, expand, depthwise convolution, squeeze-excite, project. The residual is pooled where the map shrinks."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expand: int, drop: float) -> None:
        super().__init__()
        inner = outputs * expand
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.stride = stride
        self.pre_norm = BatchNorm(inputs)
        self.expand = nn.Conv2d(inputs, inner, 1, bias=False)
        self.expand_norm = BatchNorm(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride=stride, padding=2 - stride, groups=inner, bias=False)
        self.depthwise_norm = BatchNorm(inner)
        self.squeeze = SqueezeExcite(inner, outputs // 4)
        self.project = nn.Conv2d(inner, outputs, 1)
        self.drop = drop

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """Map (X, C, H, W) to (X, C', H / stride, W / stride)."""
        y_XCHW = gelu(self.expand_norm(self.expand(self.pre_norm(x_XCHW))))
        if self.stride == 2:  # SAME padding of TensorFlow: one more row and column at the end of an even map
            y_XCHW = F.pad(y_XCHW, (0, 1, 0, 1))
        y_XCHW = self.depthwise(y_XCHW)
        y_XCHW = self.project(self.squeeze(gelu(self.depthwise_norm(y_XCHW))))
        if self.stride == 2:
            x_XCHW = F.avg_pool2d(x_XCHW, 2)
        if self.shortcut is not None:
            x_XCHW = self.shortcut(x_XCHW)
        return x_XCHW + self.drop_branch(y_XCHW)


class GroupAttention(ResidualBlock):
    """Attention and feed-forward among the positions of a group, with a learned bias per relative position."""

    relative_PP: Tensor

    def __init__(self, channels: int, config: MaxViTConfig, grouping: Grouping, *, drop: float) -> None:
        super().__init__()
        self.heads, self.partition = channels // config.head_width, config.partition
        self.grouping, self.drop = grouping, drop
        self.norm = nn.LayerNorm(channels, eps=1e-5)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        side = 2 * config.partition - 1
        self.bias_NRR = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, side, side), std=0.02))
        self.register_buffer("relative_PP", _relative_positions(config.partition), persistent=False)
        self.feed_forward_norm = nn.LayerNorm(channels, eps=1e-5)
        self.feed_forward_in = nn.Linear(channels, config.expand * channels)
        self.feed_forward_out = nn.Linear(config.expand * channels, channels)

    def forward(self, x_XHWC: Tensor) -> Tensor:
        """Map (X, H, W, C) to (X, H, W, C)."""
        x_XGPC = grouped(x_XHWC, self.partition, self.grouping)
        x_XGPC = x_XGPC + self.drop_branch(self._attend(self.norm(x_XGPC)))
        y_XGPC = self.feed_forward_out(gelu(self.feed_forward_in(self.feed_forward_norm(x_XGPC))))
        x_XGPC = x_XGPC + self.drop_branch(y_XGPC)
        return ungrouped(x_XGPC, self.partition, self.grouping, (x_XHWC.shape[1], x_XHWC.shape[2]))

    def _attend(self, x_XGPC: Tensor) -> Tensor:
        # Images and groups in one dimension: exporters know attention with four dimensions only.
        qkv = self.query_key_value(x_XGPC.flatten(0, 1)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (X*G, N, P, H)
        bias_NPP = self.bias_NRR.flatten(1)[:, self.relative_PP]
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_NPP.to(query.dtype))
        return self.output(y.transpose(1, 2).flatten(2)).unflatten(0, x_XGPC.shape[:2])


class Block(nn.Module):
    """Condition on the text, then convolution, attention in blocks, attention over the grid."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: MaxViTConfig,
        *,
        stride: int,
        drop: float,
        condition: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.condition = condition(inputs)
        self.convolution = MBConv(inputs, outputs, stride=stride, expand=config.expand, drop=drop)
        self.block_attention = GroupAttention(outputs, config, "block", drop=drop)
        self.grid_attention = GroupAttention(outputs, config, "grid", drop=drop)

    def forward(self, x_XCHW: Tensor, text_XE: Tensor) -> Tensor:
        """Map (X, C, H, W) to (X, C', H', W')."""
        x_XCHW = self.convolution(self.condition(x_XCHW, text_XE))
        x_XHWC = self.grid_attention(self.block_attention(x_XCHW.permute(0, 2, 3, 1)))
        return x_XHWC.permute(0, 3, 1, 2)


class MaxViT(nn.Module):
    """The image tokenizer's backbone: normalised image and text to (X, P, D)."""

    def __init__(
        self, config: MaxViTConfig, *, text_width: int, output_width: int, conditioning: Conditioning = "film"
    ) -> None:
        super().__init__()
        self.config = config
        condition = partial(conditioner, conditioning, text_width)
        self.stem = nn.Conv2d(3, config.stem_channels, 3, stride=2)
        self.stem_norm = BatchNorm(config.stem_channels)
        self.stem_2 = nn.Conv2d(config.stem_channels, config.stem_channels, 3, padding=1)
        self.blocks = nn.ModuleList(_blocks(config, condition))
        self.output = nn.Conv2d(config.channels[-1], output_width, 1, bias=False)
        self.output_condition = condition(output_width)
        self.apply(_initialise)

    def features(self, x_XCHW: Tensor, text_XE: Tensor) -> Tensor:
        """Return the feature map (X, C, H', W') before the projection to the token width."""
        x_XCHW = self.stem_2(gelu(self.stem_norm(self.stem(F.pad(x_XCHW, (0, 1, 0, 1))))))
        for block in self.blocks:
            x_XCHW = block(x_XCHW, text_XE)
        return x_XCHW

    def forward(self, x_XCHW: Tensor, text_XE: Tensor) -> Tensor:
        """Map normalised images (X, 3, H, W) and text, (X, E) or tokens (X, S, E), to positions (X, P, D)."""
        y_XDHW = self.output_condition(self.output(self.features(x_XCHW, text_XE)), text_XE)
        return y_XDHW.flatten(2).transpose(1, 2)


def grouped(x_XHWC: Tensor, partition: int, grouping: Grouping) -> Tensor:
    """Return (X, G, P, C): ``block`` groups neighbours, ``grid`` positions spread evenly over the whole map."""
    height, width = (n // partition for n in x_XHWC.shape[1:3])
    if grouping == "block":
        x = x_XHWC.unflatten(1, (height, partition)).unflatten(3, (width, partition))  # X, h, p, w, q, C
        return x.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3)
    x = x_XHWC.unflatten(1, (partition, height)).unflatten(3, (partition, width))  # X, p, h, q, w, C
    return x.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2, 3)


def ungrouped(x_XGPC: Tensor, partition: int, grouping: Grouping, size: tuple[int, int]) -> Tensor:
    """Undo :func:`grouped` for a map of ``size`` (H, W)."""
    height, width = (n // partition for n in size)
    x = x_XGPC.unflatten(1, (height, width)).unflatten(3, (partition, partition))  # X, h, w, p, q, C
    order = (0, 1, 3, 2, 4, 5) if grouping == "block" else (0, 3, 1, 4, 2, 5)
    return x.permute(*order).flatten(1, 2).flatten(2, 3)


def gelu(x: Tensor) -> Tensor:
    """Return GELU in its tanh form, as MaxViT's released weights were trained with."""
    return F.gelu(x, approximate="tanh")


def _relative_positions(partition: int) -> Tensor:
    """Return int64 (P, P): which of the (2 * partition - 1) ** 2 offsets lies between two positions of a group."""
    index = torch.arange(partition)
    row, column = (axis.flatten() for axis in torch.meshgrid(index, index, indexing="ij"))
    rows, columns = (axis[None, :] - axis[:, None] + partition - 1 for axis in (row, column))
    return rows * (2 * partition - 1) + columns


def _blocks(config: MaxViTConfig, condition: Callable[[int], nn.Module]) -> list[Block]:
    last = max(1, sum(config.depths) - 1)
    blocks: list[Block] = []
    for (inputs, outputs), depth in zip(pairwise((config.stem_channels, *config.channels)), config.depths, strict=True):
        for index in range(depth):
            width, stride = (inputs, 2) if index == 0 else (outputs, 1)
            drop = config.drop_connect * len(blocks) / last
            blocks.append(Block(width, outputs, config, stride=stride, drop=drop, condition=condition))
    return blocks


def _initialise(module: nn.Module) -> None:
    """Initialise convolutions for their fan-out, linear layers narrowly. Conditioning layers keep their zeros."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, GroupAttention):
        for layer in (module.query_key_value, module.output, module.feed_forward_in, module.feed_forward_out):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
