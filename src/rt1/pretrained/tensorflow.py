"""Google's TensorFlow checkpoints of RT-1, a ``ckpt-NNN`` or a SavedModel, to our network; no TensorFlow needed.

The names follow from how Keras numbers layers: ``net/layer_with_weights-N`` counts the EfficientNet's layers that have
weights, in order, the FiLM layers among them. A SavedModel keeps the same variables as ``model_variables/1 ...`` in
the order of :func:`variables`; that order was proven on the released files by equal checksums (docs/network.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rt1.errors import BundleError
from rt1.model.efficientnet import EfficientNetConfig
from rt1.model.heads import parameter_counts
from rt1.model.rt1 import RT1Config
from rt1.pretrained.layout import (
    Conversion,
    ConversionReport,
    Skipped,
    Variable,
    Weight,
    attention_third,
    block_names,
    configuration_for,
    dense,
    filled_network,
    grouped,
    keras_norm,
    released_with,
    renamed,
)
from rt1.pretrained.tf_bundle import TensorBundle

Shape = tuple[int, ...]

CKPT_PREFIX = "agent/_actor_network/"
SAVED_MODEL_PREFIX = "model_variables/"
RELEASED = ("rt1main", "rt1simreal", "rt1multirobot")
"""Released configurations of TensorFlow checkpoints."""
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
IMAGE, NET, TRANSFORMER = "_image_tokenizer/_tokenizer/", "_image_tokenizer/_tokenizer/net/", "_transformer/"

ORDER_NOTE = "TensorFlow files do not tell the order of the action's parts; docs/weights.md says how to verify it"
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
        config: a name of :data:`rt1.pretrained.released.RELEASED` or a JSON file; None infers it from the shapes.
        action_order: names of the action's parts in token order, which TensorFlow files do not tell; None keeps the
            configuration's.

    Raises:
        ValueError: the files cannot be read (``BundleError``), or do not fit the configuration.
    """
    bundle = TensorBundle(path)
    if not any(key.startswith((CKPT_PREFIX, SAVED_MODEL_PREFIX)) for key in bundle.entries):
        raise BundleError(
            f"{bundle.prefix} has no variables {CKPT_PREFIX}*; it is not a checkpoint of Google's RT-1 code; "
            f"it starts with {sorted(bundle.entries)[:3]}"
        )
    saved_model = any(key.startswith(SAVED_MODEL_PREFIX) for key in bundle.entries)

    def shapes_of(network: RT1Config) -> dict[str, Shape]:
        return _shapes(bundle, network_keys(network, saved_model=saved_model))

    configuration = configuration_for(config, action_order, lambda: released_with(RELEASED, network_weights, shapes_of))
    keys = network_keys(configuration.model, saved_model=saved_model)
    shapes = _shapes(bundle, keys)
    _refuse_more(bundle, keys, configuration=configuration.name)
    weights = network_weights(configuration.model)
    model = filled_network(configuration, weights, shapes, lambda name: bundle.read(keys[name]))
    skipped = [v for v in variables(configuration.model) if isinstance(v, Skipped) and v.name in shapes]
    report = ConversionReport(
        source=bundle.prefix.name,
        format="TensorFlow SavedModel" if saved_model else "TensorFlow checkpoint",
        configuration=configuration.name,
        used=tuple(weight.name for weight in weights),
        skipped=grouped([*skipped, *other_variables(bundle, set(keys.values()))]),
        parameters=parameter_counts(model),
        notes=(ORDER_NOTE,) if saved_model else (ORDER_NOTE, CKPT_NOTE),
    )
    return Conversion(model=model, configuration=configuration, report=report)


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


def network_weights(config: RT1Config) -> list[Weight]:
    return [variable for variable in variables(config) if isinstance(variable, Weight)]


def _net(config: EfficientNetConfig) -> Iterator[Variable]:
    counter = iter(range(10_000))

    def layer() -> str:
        return f"{NET}layer_with_weights-{next(counter)}"

    normalization = layer()
    yield Weight(name=f"{normalization}/mean", key="pixel_mean", kind="pixel_mean")
    yield Weight(name=f"{normalization}/variance", key="pixel_std", kind="pixel_variance")
    yield Skipped(name=f"{normalization}/count", reason="counter")
    yield Weight(name=f"{layer()}/kernel", key="backbone.stem.weight", kind="conv")
    yield from keras_norm(layer(), "backbone.stem_norm")
    for index, _, expands in block_names(config):
        block = f"backbone.blocks.{index}."
        if expands:
            yield Weight(name=f"{layer()}/kernel", key=f"{block}expand.weight", kind="conv")
            yield from keras_norm(layer(), f"{block}expand_norm")
        yield Weight(name=f"{layer()}/depthwise_kernel", key=f"{block}depthwise.weight", kind="depthwise")
        yield from keras_norm(layer(), f"{block}depthwise_norm")
        yield from dense(layer(), f"{block}squeeze.reduce", "dense_1x1")
        yield from dense(layer(), f"{block}squeeze.expand", "dense_1x1")
        yield Weight(name=f"{layer()}/kernel", key=f"{block}project.weight", kind="conv")
        yield from keras_norm(layer(), f"{block}project_norm")
        yield from _film(layer(), f"{block}film")
    if config.top_channels is not None:
        yield Weight(name=f"{layer()}/kernel", key="backbone.top.weight", kind="conv")
        yield from keras_norm(layer(), "backbone.top_norm")


def _layer(name: str, key: str) -> Iterator[Weight]:
    yield from _norm(f"{name}layernorm1", f"{key}attention_norm")
    attention, stacked = f"{name}mha1/_", f"{key}attention.query_key_value"
    yield from attention_third(f"{attention}key_dense", 1, stacked)
    yield from dense(f"{attention}output_dense", f"{key}attention.output", "heads_out")
    yield from attention_third(f"{attention}query_dense", 0, stacked)
    yield from attention_third(f"{attention}value_dense", 2, stacked)
    yield from dense(f"{name}ff", f"{key}feed_forward")
    yield from _norm(f"{name}layernorm2", f"{key}feed_forward_norm")


def _film(name: str, key: str) -> Iterator[Weight]:
    yield from dense(f"{name}/_projection_add", f"{key}.add")
    yield from dense(f"{name}/_projection_mult", f"{key}.multiply")


def _norm(name: str, key: str) -> Iterator[Weight]:
    return renamed(name, key, {"gamma": "weight", "beta": "bias"})


def network_keys(config: RT1Config, *, saved_model: bool) -> dict[str, str]:
    """Return the file's key of every variable of the network, by name."""
    names = [variable.name for variable in variables(config)]
    if saved_model:
        return {name: f"{SAVED_MODEL_PREFIX}{number}{SUFFIX}" for number, name in enumerate(names, start=1)}
    return {name: f"{CKPT_PREFIX}{name}{SUFFIX}" for name in names}


def _shapes(bundle: TensorBundle, keys: Mapping[str, str]) -> dict[str, Shape]:
    return {name: bundle.entries[key].shape for name, key in keys.items() if key in bundle.entries}


def _refuse_more(bundle: TensorBundle, keys: Mapping[str, str], *, configuration: str) -> None:
    """Raise ``ValueError`` where the file holds network variables that the configuration has no place for."""
    known = set(keys.values())
    more = [key for key in bundle.entries if key.startswith((CKPT_PREFIX, SAVED_MODEL_PREFIX)) and key not in known]
    if more:
        raise ValueError(
            f"{bundle.prefix} has {len(more)} network variables that the configuration {configuration} does not have, "
            f"such as {min(more).removesuffix(SUFFIX)!r}; convert with the configuration it was trained with"
        )


def other_variables(bundle: TensorBundle, network: set[str]) -> Iterator[Skipped]:
    """Yield the file's tensors that are not among the ``network``'s keys, each with the reason to leave it out."""
    for key in bundle.entries:
        if key not in network:
            reason = next((why for start, why in OTHER_REASONS.items() if key.startswith(start)), "not of the network")
            yield Skipped(name=key.removesuffix(SUFFIX), reason=reason)
