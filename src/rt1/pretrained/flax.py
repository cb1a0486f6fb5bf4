"""RT-1-X, Google's JAX weights (a flax msgpack file), to our network. No JAX needed.

The names are those flax gives to the modules of the Open X-Embodiment code: a class name and a running number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rt1.errors import FlaxFileError
from rt1.model.efficientnet import EfficientNetConfig
from rt1.model.rt1 import RT1Config
from rt1.model.transformer import FeedForward
from rt1.pretrained.flax_file import find_file, read_arrays
from rt1.pretrained.layout import (
    Conversion,
    Kind,
    Skipped,
    Weight,
    WeightFile,
    block_names,
    convert_file,
    dense,
    renamed,
)

NET = "image_tokenizer/EfficientNetWithFilm_0/"
TRANSFORMER = "Transformer_0/"
COLLECTIONS = ("params", "batch_stats")


def convert_flax(
    path: Path | str, *, config: str | Path | None = None, action_order: Sequence[str] | None = None
) -> Conversion:
    """Read Google's JAX weights (RT-1-X).

    Args:
        path: a flax msgpack file, or the folder it lies in.
        config: a name of :data:`rt1.pretrained.released.RELEASED` or a JSON file. None infers it from the shapes.
        action_order: names of the action's parts in token order. None keeps the configuration's.

    Raises:
        ValueError: the file cannot be read (``FlaxFileError``), or does not fit the configuration.
    """
    file = find_file(Path(path))
    arrays, others = read_arrays(file, COLLECTIONS)
    present = {name.split("/")[0] for name in arrays}
    if missing := [name for name in COLLECTIONS if name not in present]:
        entries = f"{sorted({*present, *others})!r:.200}"
        raise FlaxFileError(f"{file} has no {missing}, it has {entries}. RT-1-X needs {list(COLLECTIONS)} at the top")
    weight_file = WeightFile(
        path=file,
        format="flax checkpoint",
        released=("rt1x",),
        variables=lambda network: {weight.name: weight for weight in variables(network)},
        shapes={name: array.shape for name, array in arrays.items()},
        read=arrays.__getitem__,
        others=[Skipped(name=name, reason="not of the network") for name in others],
    )
    return convert_file(weight_file, config, action_order)


def variables(config: RT1Config) -> Iterator[Weight]:
    """Yield every array of the JAX network, its collection in front of its name."""
    yield from _net(config.efficientnet)
    yield Weight(name="params/image_tokenizer/Conv_0/kernel", key="backbone.output.weight", kind="conv")
    yield from _film("image_tokenizer/FilmConditioning_0", "backbone.output_film")
    learner = "image_tokenizer/TokenLearnerModuleV11_0/"
    yield from _norm(f"{learner}LayerNorm_0", "token_learner.norm")
    yield from _dense(f"{learner}token_masking/Dense_0", "token_learner.hidden")
    yield from _dense(f"{learner}token_masking/Dense_1", "token_learner.maps")
    yield from _dense(f"{TRANSFORMER}Dense_0", "transformer.embed")
    yield Weight(name=f"params/{TRANSFORMER}Dense_1/kernel", key="transformer.position_LD")
    yield Weight(name=f"params/{TRANSFORMER}Dense_1/bias", key="transformer.position_bias_D")
    yield from _dense(f"{TRANSFORMER}Dense_2", "transformer.output")
    for index in range(config.transformer.layers):
        name, key = f"{TRANSFORMER}TransformerBlock_{index}/", f"transformer.layers.{index}."
        yield from _layer(name, key, config.transformer.feed_forward)


def _net(config: EfficientNetConfig) -> Iterator[Weight]:
    yield from _conv(f"{NET}Stem_0/conv2d", "backbone.stem")
    yield from _batch_norm(f"{NET}Stem_0/batch_normalization", "backbone.stem_norm")
    for index, _, expands in block_names(config):
        name, key = f"{NET}MBConvBlock_{index}/", f"backbone.blocks.{index}."
        norms = iter(f"{name}batch_normalization_{number}" for number in range(3))
        if expands:
            yield from _conv(f"{name}expand_conv2d_0", f"{key}expand")
            yield from _batch_norm(next(norms), f"{key}expand_norm")
        kernel = f"params/{name}depthwise_conv2d/depthwise_kernel"
        yield Weight(name=kernel, key=f"{key}depthwise.weight", kind="depthwise")
        yield from _batch_norm(next(norms), f"{key}depthwise_norm")
        yield from _dense(f"{name}SqueezeExcite_0/reduce_conv2d_0", f"{key}squeeze.reduce", "dense_1x1")
        yield from _dense(f"{name}SqueezeExcite_0/expand_conv2d_0", f"{key}squeeze.expand", "dense_1x1")
        yield from _conv(f"{name}project_conv2d_0", f"{key}project")
        yield from _batch_norm(next(norms), f"{key}project_norm")
        yield from _film(f"{NET}FilmConditioning_{index}", f"{key}film")
    if config.top_channels is not None:
        yield from _conv(f"{NET}Head_0/conv2d", "backbone.top")
        yield from _batch_norm(f"{NET}Head_0/batch_normalization", "backbone.top_norm")


def _layer(name: str, key: str, feed_forward: FeedForward) -> Iterator[Weight]:
    yield from _norm(f"{name}LayerNorm_0", f"{key}attention_norm")
    attention = f"params/{name}MultiHeadDotProductAttention_0/"
    for third, part in enumerate(("query", "key", "value")):
        yield from dense(f"{attention}{part}", f"{key}attention.query_key_value", "heads_in", third)
    yield from dense(f"{attention}out", f"{key}attention.output", "heads_out")
    yield from _norm(f"{name}LayerNorm_1", f"{key}feed_forward_norm")
    if feed_forward == "linear":
        yield from _dense(f"{name}Dense_0", f"{key}feed_forward")
        return
    parts = (".w1", ".gate", ".w2") if feed_forward == "swiglu" else ("",)
    for number, part in enumerate(parts):
        yield Weight(name=f"params/{name}Dense_{number}/kernel", key=f"{key}feed_forward{part}.weight", kind="dense")


def _conv(name: str, key: str) -> Iterator[Weight]:
    yield Weight(name=f"params/{name}/kernel", key=f"{key}.weight", kind="conv")


def _dense(name: str, key: str, kind: Kind = "dense") -> Iterator[Weight]:
    return dense(f"params/{name}", key, kind)


def _film(name: str, key: str) -> Iterator[Weight]:
    yield from _dense(f"{name}/Dense_0", f"{key}.add")
    yield from _dense(f"{name}/Dense_1", f"{key}.multiply")


def _norm(name: str, key: str) -> Iterator[Weight]:
    return renamed(f"params/{name}", key, {"scale": "weight", "bias": "bias"})


def _batch_norm(name: str, key: str) -> Iterator[Weight]:
    yield from _norm(name, key)
    yield from renamed(f"batch_stats/{name}", key, {"mean": "running_mean", "var": "running_var"})
