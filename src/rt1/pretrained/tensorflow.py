"""Google's TensorFlow checkpoints of RT-1, a ``ckpt-NNN`` or a SavedModel, to our network. No TensorFlow needed.

The names follow from how Keras numbers layers: ``net/layer_with_weights-N`` counts the EfficientNet's layers that have
weights, in order, the FiLM layers among them. A SavedModel keeps the same variables as ``model_variables/1 ...`` in
the order of :func:`variables`. That order was proven on the released files by equal checksums (docs/network.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rt1.errors import BundleError
from rt1.model.efficientnet import EfficientNetConfig
from rt1.model.rt1 import RT1Config
from rt1.pretrained.imagenet_names import keras_names
from rt1.pretrained.layout import (
    Conversion,
    Skipped,
    Variable,
    Weight,
    WeightFile,
    convert_file,
    dense,
    renamed,
)
from rt1.pretrained.tf_bundle import TensorBundle

CKPT_PREFIX = "agent/_actor_network/"
SAVED_MODEL_PREFIX = "model_variables/"
PREFIXES = (CKPT_PREFIX, SAVED_MODEL_PREFIX)
"""How the keys of the network's variables start."""
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
IMAGE, NET, TRANSFORMER = "_image_tokenizer/_tokenizer/", "_image_tokenizer/_tokenizer/net/", "_transformer/"

ORDER_NOTE = "TensorFlow files do not tell the order of the action's parts. Docs/weights.md says how to verify it"
CKPT_NOTE = (
    "prefer the SavedModel of the same network if there is one: rt1main's has other BatchNorm statistics than its "
    "ckpt-424760, and it is what others run"
)
ZEROED = "unused: the network sets action tokens to zero"
OTHER_REASONS = {
    "agent/_actor_optimizer/": "optimizer state",
    "_CHECKPOINTABLE_OBJECT_GRAPH": "object graph of TensorFlow",
    "global_step": "counter",
    "train_step": "counter",
    "save_counter": "counter",
}
"""Why variables outside the network are left out, by how their names start."""


def convert_tensorflow(
    path: Path | str, *, config: str | Path | None = None, action_order: Sequence[str] | None = None
) -> Conversion:
    """Read Google's TensorFlow weights.

    Args:
        path: a checkpoint prefix (``.../ckpt-424760``) or a SavedModel folder.
        config: a name of :data:`rt1.pretrained.released.RELEASED` or a JSON file. None infers it from the shapes.
        action_order: names of the action's parts in token order, which TensorFlow files do not tell. None keeps the
            configuration's.

    Raises:
        ValueError: the files cannot be read (``BundleError``), or do not fit the configuration.
    """
    bundle = TensorBundle(path)
    shapes = {name: entry.shape for name, entry in bundle.entries.items() if name.startswith(PREFIXES)}
    if not shapes:
        raise BundleError(
            f"{bundle.prefix} has no variables {CKPT_PREFIX}*. It is not a checkpoint of Google's RT-1 code. "
            f"It starts with {sorted(bundle.entries)[:3]}"
        )
    saved_model = any(name.startswith(SAVED_MODEL_PREFIX) for name in shapes)
    file = WeightFile(
        path=bundle.prefix,
        format="TensorFlow SavedModel" if saved_model else "TensorFlow checkpoint",
        released=("rt1main", "rt1simreal", "rt1multirobot"),
        variables=lambda network: variables_by_key(network, saved_model=saved_model),
        shapes=shapes,
        read=bundle.read,
        others=other_variables(bundle),
        notes=(ORDER_NOTE,) if saved_model else (ORDER_NOTE, CKPT_NOTE),
    )
    return convert_file(file, config, action_order)


def variables(config: RT1Config) -> Iterator[Variable]:
    """Yield every variable of the official network in the order in which a SavedModel numbers them, from 1."""
    yield Skipped(name="_action_token_emb/kernel", reason=ZEROED)
    yield Skipped(name="_action_token_emb/bias", reason=ZEROED)
    yield Weight(name=f"{IMAGE}conv1x1/kernel", key="backbone.output.weight", kind="conv")
    yield from _net(config.efficientnet)
    yield from _film(f"{IMAGE}film_layer", "backbone.output_film")
    learner = "_image_tokenizer/_token_learner/"
    yield from dense(f"{learner}mlp/_hidden_layer", "token_learner.hidden")
    yield from dense(f"{learner}mlp/_output_layer", "token_learner.maps")
    yield from _norm(f"{learner}layernorm", "token_learner.norm")
    for index in range(config.transformer.layers):
        yield from _layer(f"{TRANSFORMER}_layers/{index}/", f"transformer.layers.{index}.")
    yield from dense(f"{TRANSFORMER}_output_tokens", "transformer.output")
    # Dense(one_hot(position)): row p of the kernel is the vector of position p.
    yield Weight(name=f"{TRANSFORMER}_position_emb/kernel", key="transformer.position_LD")
    yield Weight(name=f"{TRANSFORMER}_position_emb/bias", key="transformer.position_bias_D")
    yield from dense(f"{TRANSFORMER}_token_emb", "transformer.embed")


def _net(config: EfficientNetConfig) -> Iterator[Variable]:
    names = (f"{NET}layer_with_weights-{number}" for number in itertools.count())
    normalization = next(names)
    yield Weight(name=f"{normalization}/mean", key="pixel_mean", kind="pixel_mean")
    yield Weight(name=f"{normalization}/variance", key="pixel_std", kind="pixel_variance")
    yield Skipped(name=f"{normalization}/count", reason="counter")
    for weight in keras_names(config, lambda _: next(names), _film):
        yield replace(weight, key=f"backbone.{weight.key}")


def _layer(name: str, key: str) -> Iterator[Weight]:
    yield from _norm(f"{name}layernorm1", f"{key}attention_norm")
    attention, stacked = f"{name}mha1/_", f"{key}attention.query_key_value"
    yield from dense(f"{attention}key_dense", stacked, "heads_in", 1)
    yield from dense(f"{attention}output_dense", f"{key}attention.output", "heads_out")
    yield from dense(f"{attention}query_dense", stacked, "heads_in", 0)
    yield from dense(f"{attention}value_dense", stacked, "heads_in", 2)
    yield from dense(f"{name}ff", f"{key}feed_forward")
    yield from _norm(f"{name}layernorm2", f"{key}feed_forward_norm")


def _film(name: str, key: str) -> Iterator[Weight]:
    yield from dense(f"{name}/_projection_add", f"{key}.add")
    yield from dense(f"{name}/_projection_mult", f"{key}.multiply")


def _norm(name: str, key: str) -> Iterator[Weight]:
    return renamed(name, key, {"gamma": "weight", "beta": "bias"})


def variables_by_key(config: RT1Config, *, saved_model: bool) -> dict[str, Variable]:
    """Return every variable of the network by its key in the file."""
    numbered = enumerate(variables(config), start=1)
    return {
        f"{SAVED_MODEL_PREFIX}{number}{SUFFIX}" if saved_model else f"{CKPT_PREFIX}{variable.name}{SUFFIX}": variable
        for number, variable in numbered
    }


def other_variables(bundle: TensorBundle) -> list[Skipped]:
    """Return the file's tensors that are not of the network, each with the reason to leave it out."""
    return [
        Skipped(
            name=key.removesuffix(SUFFIX),
            reason=next((why for start, why in OTHER_REASONS.items() if key.startswith(start)), "not of the network"),
        )
        for key in bundle.entries
        if not key.startswith(PREFIXES)
    ]
