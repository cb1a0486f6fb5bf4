"""Google's JAX weights: names, numbers, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.reference.expand import compared
from torch import Tensor

from rt1.common.json_config import to_json
from rt1.errors import FlaxFileError
from rt1.model.efficientnet import Stage
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.transformer import TransformerConfig
from rt1.preprocess import resize, to_float
from rt1.pretrained.convert import Conversion, convert_flax
from rt1.pretrained.flax import variables
from rt1.pretrained.layout import Weight, WeightFile, released_with, source_shape, target_shape
from rt1.pretrained.released import flax_efficientnet, rt1x

ToSource = Callable[[Tensor, Weight, RT1Config], NDArray[Any]]
Reference = dict[str, NDArray[Any]]
NET = "image_tokenizer/EfficientNetWithFilm_0/"

SMALL = replace(
    rt1x().model,
    window=2,
    image_size=(48, 48),
    text_width=6,
    token_width=10,
    image_tokens=2,
    token_learner_hidden=4,
    efficientnet=replace(
        flax_efficientnet(),
        width=0.25,
        depth=1.0,
        stages=(
            Stage(kernel=3, stride=2, expand=1, channels=16, blocks=1),
            Stage(kernel=5, stride=2, expand=6, channels=32, blocks=2),
        ),
        top_channels=64,
    ),
    transformer=TransformerConfig(layers=2, width=12, heads=2, head_width=5, feed_forward="swiglu", hidden=9),
)


@pytest.fixture(scope="module")
def golden(reference: Path) -> Reference:
    return dict(np.load(reference / "jax_small" / "golden.npz"))


def inputs(golden: Reference) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(golden["image"]), torch.from_numpy(golden["lang"])


def check_close(ours: NDArray[Any], golden: Reference, name: str, *, rms: float = 5e-5) -> None:
    values, recorded = compared(np.asarray(ours, np.float64), golden, name)
    assert np.sqrt(np.mean((values - recorded) ** 2)) < rms * max(float(recorded.std()), 1e-6)


def check_within(ours: NDArray[Any], golden: Reference, name: str, *, atol: float, rtol: float = 0) -> None:
    values, recorded = compared(ours, golden, name)
    np.testing.assert_allclose(values, recorded, rtol=rtol, atol=atol)


def test_every_array_of_the_recorded_network_is_named_with_its_shape(reference: Path, jax_small: Conversion) -> None:
    listed = json.loads((reference / "jax_small" / "variables.json").read_text())
    names = {
        path.replace("batch_stats:", "batch_stats/") if path.startswith("batch_stats:") else f"params/{path}": tuple(
            shape
        )
        for path, shape in listed
    }
    state, config = jax_small.model.state_dict(), jax_small.model.config
    ours = {w.name: source_shape(w, target_shape(w, state[w.key]), config) for w in variables(config)}
    assert ours == names


def test_the_images_are_resized_as_recorded(golden: Reference) -> None:
    image = to_float(torch.from_numpy(golden["image"][:, -1]))
    resized = resize(image, (300, 300)).permute(0, 2, 3, 1).numpy()
    check_within(resized, golden, "image300_frame_last", atol=5e-6)


@torch.inference_mode()
def test_every_layer_is_reproduced(golden: Reference, jax_small: Conversion) -> None:
    model, kept = jax_small.model, dict[str, Tensor]()

    def keep(name: str) -> Callable[..., None]:
        def hook(_: object, __: object, output: Tensor) -> None:
            kept[name] = output.permute(0, 2, 3, 1) if output.ndim == 4 else output

        return hook

    backbone = model.backbone
    assert backbone.top_norm is not None
    hooks = [
        backbone.stem_norm.register_forward_hook(keep("stem")),
        backbone.top_norm.register_forward_hook(keep("head")),
        backbone.output_film.register_forward_hook(keep("image_tokenizer/FilmConditioning_0")),
        model.token_learner.register_forward_hook(keep("image_tokenizer/TokenLearnerModuleV11_0")),
    ]
    for index, block in enumerate(backbone.blocks):
        hooks.append(block.register_forward_hook(keep(f"{NET}FilmConditioning_{index}")))
    for index, layer in enumerate(model.transformer.layers):
        hooks.append(layer.register_forward_hook(keep(f"Transformer_0/TransformerBlock_{index}")))
    logits = model.predict(*inputs(golden))
    for hook in hooks:
        hook.remove()
    for ours, theirs in (("stem", f"{NET}Stem_0"), ("head", f"{NET}Head_0")):
        kept[theirs] = torch.nn.functional.silu(kept.pop(ours))
    kept["image_tokens"] = kept["image_tokenizer/TokenLearnerModuleV11_0"].unflatten(0, (2, 3))
    recorded = {name.split("/", 1)[1] for name in golden if name.startswith("inter_value/")}
    ours_named = {name if name == "image_tokens" else f"{name}/__call__" for name in kept}
    assert {name.removeprefix("image_tokenizer/") if name.endswith("image_tokens") else name for name in recorded} == (
        ours_named
    )
    for name in sorted(recorded):
        output = kept["image_tokens" if name.endswith("image_tokens") else name.removesuffix("/__call__")]
        assert list(output.shape) == golden[f"inter_shape/{name}"].tolist()
        sample = output.contiguous().numpy().ravel()[golden[f"inter_index/{name}"]]
        check_close(sample, golden, f"inter_value/{name}")
    check_within(logits.numpy(), golden, "logits_action", atol=3e-3)
    check_close(logits.numpy(), golden, "logits_action")


@torch.inference_mode()
def test_all_positions_tokens_and_actions_of_the_last_step_are_the_recorded_ones(
    golden: Reference, jax_small: Conversion
) -> None:
    model, spec = jax_small.model, jax_small.configuration.action
    image, text = inputs(golden)
    token = model.encode(model.prepare(image.flatten(0, 1)), model.text(text.flatten(0, 1))).unflatten(0, (2, 3))
    check_close(token.numpy(), golden, "image_tokens")
    everywhere = model.transformer.output(model.hidden(token))[:, -19:].numpy()
    check_within(everywhere, golden, "logits_last_step_all_positions", atol=3e-3)
    logits = model.decode(token)
    tokens = logits[:, -1].argmax(-1).numpy()
    np.testing.assert_array_equal(tokens, golden["tokens_last_step"])
    decoded = spec.to_dict(spec.decode(tokens))
    for name in decoded:
        np.testing.assert_allclose(decoded[name], golden[f"decoded/{name}"], rtol=0, atol=1e-6)
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 2), torch.from_numpy(golden["labels"]).flatten().long(), reduction="none"
    )
    np.testing.assert_allclose(nll.view(2, -1).mean(1).numpy(), golden["mean_nll"], rtol=1e-4)


def test_the_labels_are_those_of_the_jax_code(golden: Reference, jax_small: Conversion) -> None:
    spec = jax_small.configuration.action
    action = spec.from_dict({part.name: golden[f"action/{part.name}"] for part in spec.parts})
    np.testing.assert_array_equal(spec.encode(action), golden["labels"])


def test_the_mask_is_that_of_the_jax_code(golden: Reference, jax_small: Conversion) -> None:
    np.testing.assert_array_equal(jax_small.model.mask_LL.numpy(), golden["attn_mask"].astype(bool))


def test_training_mode_and_the_updated_statistics_are_reproduced(golden: Reference, jax_small: Conversion) -> None:
    config = jax_small.model.config
    model = RT1(
        replace(
            config,
            efficientnet=replace(config.efficientnet, drop_connect=0.0),
            transformer=replace(config.transformer, dropout=0.0),
        )
    )
    model.load_state_dict(jax_small.model.state_dict())
    with torch.no_grad():
        logits = model.train().predict(*inputs(golden))
    check_within(logits.numpy(), golden, "train/logits_action", atol=5e-2)
    state, compared = model.state_dict(), 0
    for weight in variables(config):
        if weight.name.startswith("batch_stats/"):
            name = f"train/batch_stats_after/{weight.name.removeprefix('batch_stats/')}"
            check_within(state[weight.key].numpy(), golden, name, rtol=1e-4, atol=1e-5)
            compared += 1
    assert compared == 156


# ---- small files, written here ----


def as_flax(model: RT1, to_source: ToSource) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    state = model.state_dict()
    for weight in variables(model.config):
        *parents, leaf = weight.name.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        value = np.ascontiguousarray(to_source(state[weight.key], weight, model.config))
        node[leaf] = msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))
    return tree


def small_network() -> RT1:
    torch.manual_seed(0)
    model = RT1(SMALL)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not name.startswith("pixel"):
            tensor.copy_(torch.rand_like(tensor))
    return model


@pytest.fixture
def small_config(tmp_path: Path) -> Path:
    file = tmp_path / "small.json"
    file.write_text(json.dumps({"model": to_json(SMALL), "action": rt1x().action.to_json()}))
    return file


def test_a_network_with_swiglu_comes_back_from_its_file(
    tmp_path: Path, to_source: ToSource, small_config: Path
) -> None:
    model = small_network()
    tree = as_flax(model, to_source)
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({**tree, "opt_state": {"count": 1}}))
    conversion = convert_flax(tmp_path, config=small_config)
    converted = conversion.model.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(converted[name], tensor), name
    assert conversion.report.skipped == {"not of the network": ("opt_state",)}


def test_the_configuration_of_rt1x_is_inferred_from_its_shapes() -> None:
    configuration = rt1x()
    with torch.device("meta"):
        model = RT1(configuration.model)
    state = model.state_dict()
    shapes = {
        w.name: source_shape(w, target_shape(w, state[w.key]), configuration.model)
        for w in variables(configuration.model)
    }
    file = WeightFile(
        path=Path("checkpoint"),
        format="",
        released=("rt1x",),
        variables=lambda config: {weight.name: weight for weight in variables(config)},
        shapes=shapes,
        read=lambda _: np.zeros(()),
        others=(),
    )
    assert released_with(file) == configuration


def test_sizes_that_were_not_released_ask_for_a_configuration(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match=r"no released configuration .*rt1x.*Give --config"):
        convert_flax(checkpoints / "jax_small" / "checkpoint")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer": {"layers": 1}}, "has 13 arrays that the configuration"),
        ({"transformer": {"layers": 3}}, "no variable 'params/Transformer_0/TransformerBlock_2"),
        ({"image_tokens": 9}, r"has shape \[8\]. The configuration .* needs \[9\]|has shape \[64, 8\]"),
    ],
)
def test_a_configuration_that_does_not_fit_names_the_array(
    tmp_path: Path, checkpoints: Path, jax_small_config: Path, change: dict[str, Any], message: str
) -> None:
    settings = json.loads(jax_small_config.read_text())
    for name, value in change.items():
        if isinstance(value, dict):
            settings["model"][name].update(value)
        else:
            settings["model"][name] = value
    (tmp_path / "other.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        convert_flax(checkpoints / "jax_small", config=tmp_path / "other.json")


def test_a_file_without_batch_statistics_is_refused(tmp_path: Path, to_source: ToSource, small_config: Path) -> None:
    tree = as_flax(small_network(), to_source)
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({"params": tree["params"]}))
    with pytest.raises(FlaxFileError, match=r"\['batch_stats'\].*\['params'\]"):
        convert_flax(tmp_path, config=small_config)
