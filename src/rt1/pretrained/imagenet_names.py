"""What Keras, timm and torchvision call the weights of their ImageNet networks, and where each goes in ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from rt1.model.efficientnet import EfficientNetConfig
from rt1.model.maxvit import MaxViTConfig
from rt1.pretrained.layout import Kind, Weight, block_names, dense, renamed

Names = Iterator[Weight]

_BIAS_TABLE = "attn_block.attn.rel_pos.relative_position_bias_table"


class Naming(NamedTuple):
    """The names that a file uses, and the network that it holds."""

    layout: str
    """Keras, timm or torchvision."""
    config: EfficientNetConfig | MaxViTConfig
    weights: tuple[Weight, ...]
    """The tensors that fill our backbone."""


def recognize(tensors: Mapping[str, Tensor]) -> Naming | None:
    """Return the naming of a file by a tensor that every one of its kind has. None if it is of no known kind.

    Raises:
        ValueError: a MaxViT whose sizes cannot be told, or of another kind than the released ones.
    """
    b3 = EfficientNetConfig()
    if "stem_conv/kernel" in tensors:
        return Naming("Keras", b3, tuple(keras_names(b3)))
    if "conv_stem.weight" in tensors:
        return Naming("timm", b3, tuple(_timm(b3)))
    if "features.0.0.weight" in tensors:
        return Naming("torchvision", b3, tuple(_torchvision(b3)))
    if "stem.conv1.weight" in tensors and "stages.0.blocks.0.attn_grid.attn.qkv.weight" in tensors:
        sizes = _maxvit_config(tensors)
        return Naming("timm", sizes, tuple(_maxvit(sizes)))
    return None


def keras_names(
    config: EfficientNetConfig, rename: Callable[[str], str] = str, film: Callable[[str, str], Names] | None = None
) -> Names:
    """Yield the arrays of Keras's EfficientNet in its order.

    ``rename`` returns the file's name of a layer. ``film`` yields the arrays of a FiLM layer after each block, if any.
    """

    def conv(name: str, key: str, kind: Kind = "conv") -> Weight:
        kernel = "depthwise_kernel" if kind == "depthwise" else "kernel"
        return Weight(name=f"{rename(name)}/{kernel}", key=f"{key}.weight", kind=kind)

    def norm(name: str, key: str) -> Names:
        parts = {"moving_mean": "running_mean", "moving_variance": "running_var", "gamma": "weight", "beta": "bias"}
        return renamed(rename(name), key, parts)

    yield conv("stem_conv", "stem")
    yield from norm("stem_bn", "stem_norm")
    for index, name, expands in block_names(config):
        keras, ours = f"block{name}_", f"blocks.{index}."
        if expands:
            yield conv(f"{keras}expand_conv", f"{ours}expand")
            yield from norm(f"{keras}expand_bn", f"{ours}expand_norm")
        yield conv(f"{keras}dwconv", f"{ours}depthwise", "depthwise")
        yield from norm(f"{keras}bn", f"{ours}depthwise_norm")
        for part in ("reduce", "expand"):
            yield from dense(rename(f"{keras}se_{part}"), f"{ours}squeeze.{part}", "dense_1x1")
        yield conv(f"{keras}project_conv", f"{ours}project")
        yield from norm(f"{keras}project_bn", f"{ours}project_norm")
        if film is not None:
            yield from film(rename(f"{keras}film"), f"{ours}film")
    if config.top_channels is not None:
        yield conv("top_conv", "top")
        yield from norm("top_bn", "top_norm")


def _timm(config: EfficientNetConfig) -> Names:
    yield from _conv_and_norm("conv_stem", "bn1", "stem")
    for index, name, expands in block_names(config):
        source, ours = f"blocks.{int(name[0]) - 1}.{ord(name[1]) - ord('a')}.", f"blocks.{index}."
        # Without an expansion timm counts its convolutions and norms from the depthwise one on.
        parts = (
            (("conv_pw", "bn1", "expand"), ("conv_dw", "bn2", "depthwise"), ("conv_pwl", "bn3", "project"))
            if expands
            else (("conv_dw", "bn1", "depthwise"), ("conv_pw", "bn2", "project"))
        )
        for conv, norm, part in parts:
            yield from _conv_and_norm(f"{source}{conv}", f"{source}{norm}", f"{ours}{part}")
        for part in ("reduce", "expand"):
            yield from _weight_and_bias(f"{source}se.conv_{part}", f"{ours}squeeze.{part}")
    yield from _conv_and_norm("conv_head", "bn2", "top")


def _torchvision(config: EfficientNetConfig) -> Names:
    yield from _conv_and_norm("features.0.0", "features.0.1", "stem")
    for index, name, expands in block_names(config):
        source, ours = f"features.{name[0]}.{ord(name[1]) - ord('a')}.block.", f"blocks.{index}."
        parts = ("expand", "depthwise", "squeeze", "project")
        for number, part in enumerate(parts if expands else parts[1:]):
            if part == "squeeze":
                yield from _weight_and_bias(f"{source}{number}.fc1", f"{ours}squeeze.reduce")
                yield from _weight_and_bias(f"{source}{number}.fc2", f"{ours}squeeze.expand")
            else:
                yield from _conv_and_norm(f"{source}{number}.0", f"{source}{number}.1", f"{ours}{part}")
    last = len(config.stages) + 1
    yield from _conv_and_norm(f"features.{last}.0", f"features.{last}.1", "top")


def _maxvit_config(tensors: Mapping[str, Tensor]) -> MaxViTConfig:
    """Return the sizes of a MaxViT of timm, all read off its shapes."""
    matches = [re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name) for name in tensors]
    blocks = {(int(match[1]), int(match[2])) for match in matches if match}
    stages = sorted({stage for stage, _ in blocks})
    channels = tuple(_shape(tensors, f"stages.{stage}.blocks.0.conv.conv3_1x1.weight")[0] for stage in stages)
    table = _shape(tensors, f"stages.0.blocks.0.{_BIAS_TABLE}", " (maxvit_*_tf_*, of Google's weights, have it)")
    if len(table) != 3:
        raise ValueError(
            f"this MaxViT's {_BIAS_TABLE} has shape {list(table)}, that of timm's own variants, whose attention lays "
            "its heads out differently. Give a maxvit_*_tf_*, of Google's weights"
        )
    return MaxViTConfig(
        stem_channels=_shape(tensors, "stem.conv2.weight")[0],
        channels=channels,
        depths=tuple(sum(stage == number for number, _ in blocks) for stage in stages),
        partition=(table[1] + 1) // 2,
        head_width=channels[0] // table[0],
        expand=_shape(tensors, "stages.0.blocks.0.attn_block.mlp.fc1.weight")[0] // channels[0],
    )


def _shape(tensors: Mapping[str, Tensor], name: str, more: str = "") -> tuple[int, ...]:
    if name not in tensors:
        raise ValueError(f"there is no {name!r}, which a MaxViT of Google's kind has{more}")
    return tuple(tensors[name].shape)


def _maxvit(config: MaxViTConfig) -> Names:
    yield from _weight_and_bias("stem.conv1", "stem")
    yield from _norm("stem.norm1", "stem_norm")
    yield from _weight_and_bias("stem.conv2", "stem_2")
    inputs = (config.stem_channels, *config.channels)
    blocks = [(stage, block) for stage, depth in enumerate(config.depths) for block in range(depth)]
    for index, (stage, block) in enumerate(blocks):
        source, ours = f"stages.{stage}.blocks.{block}.", f"blocks.{index}."
        if block == 0 and inputs[stage] != inputs[stage + 1]:
            yield from _weight_and_bias(f"{source}conv.shortcut.expand", f"{ours}convolution.shortcut")
        yield from _norm(f"{source}conv.pre_norm", f"{ours}convolution.pre_norm")
        yield from _conv_and_norm(f"{source}conv.conv1_1x1", f"{source}conv.norm1", f"{ours}convolution.expand")
        yield from _conv_and_norm(f"{source}conv.conv2_kxk", f"{source}conv.norm2", f"{ours}convolution.depthwise")
        yield from _weight_and_bias(f"{source}conv.se.fc1", f"{ours}convolution.squeeze.reduce")
        yield from _weight_and_bias(f"{source}conv.se.fc2", f"{ours}convolution.squeeze.expand")
        yield from _weight_and_bias(f"{source}conv.conv3_1x1", f"{ours}convolution.project")
        for grouping in ("block", "grid"):
            yield from _attention(f"{source}attn_{grouping}.", f"{ours}{grouping}_attention.")


def _attention(source: str, ours: str) -> Names:
    for name, key in (
        ("norm1", "norm"),
        ("attn.qkv", "query_key_value"),
        ("attn.proj", "output"),
        ("norm2", "feed_forward_norm"),
        ("mlp.fc1", "feed_forward_in"),
        ("mlp.fc2", "feed_forward_out"),
    ):
        yield from _weight_and_bias(f"{source}{name}", f"{ours}{key}")
    yield Weight(name=f"{source}attn.rel_pos.relative_position_bias_table", key=f"{ours}bias_NRR")


def _weight_and_bias(name: str, key: str) -> Names:
    for part in ("weight", "bias"):
        yield Weight(name=f"{name}.{part}", key=f"{key}.{part}")


def _conv_and_norm(conv: str, norm: str, key: str) -> Names:
    yield Weight(name=f"{conv}.weight", key=f"{key}.weight")
    yield from _norm(norm, f"{key}_norm")


def _norm(name: str, key: str) -> Names:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield Weight(name=f"{name}.{part}", key=f"{key}.{part}")
