"""Google's TensorFlow checkpoints: names, numbers, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.reference.expand import compared
from torch import Tensor

from rt1.actions import ActionSpec, Continuous
from rt1.common.json_config import to_json
from rt1.model.efficientnet import EfficientNetConfig, Stage
from rt1.model.loss import action_loss
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.transformer import Attention, Layer, TransformerConfig
from rt1.preprocess import to_float
from rt1.pretrained.convert import Conversion, convert_tensorflow
from rt1.pretrained.layout import Skipped, Weight, WeightFile, check_shapes, released_with
from rt1.pretrained.released import RELEASED
from rt1.pretrained.tensorflow import CKPT_PREFIX, SUFFIX, other_variables, variables, variables_by_key
from rt1.pretrained.tf_bundle import TensorBundle

TENSORFLOW = ["rt1main", "rt1simreal", "rt1multirobot"]
CLEAR = 0.005
"""Gap between the two largest logits from which on the arg-max must be the recorded one."""

WriteBundle = Callable[..., Path]
ToSource = Callable[[Tensor, Weight, RT1Config], NDArray[Any]]

SMALL = RT1Config(
    window=2,
    image_size=(48, 48),
    text_width=6,
    token_width=10,
    image_tokens=2,
    token_learner_hidden=4,
    action_tokens=3,
    bins=7,
    efficientnet=EfficientNetConfig(
        width=0.25,
        depth=1.0,
        stages=(
            Stage(kernel=3, stride=2, expand=1, channels=16, blocks=1),
            Stage(kernel=5, stride=2, expand=6, channels=32, blocks=2),
        ),
        top_channels=64,
    ),
    transformer=TransformerConfig(layers=2, width=12, heads=2, head_width=5),
)
SMALL_ACTION = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),), bins=7)


# ---- the released files, by their tables of variables ----


def released_table(reference: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((reference / "released" / f"converter_map_{name}.json").read_text())


@pytest.mark.parametrize("name", TENSORFLOW)
def test_every_variable_of_a_released_network_is_named_in_both_files(reference: Path, name: str) -> None:
    table, config = released_table(reference, name), RELEASED[name]().model
    for saved_model, column in ((False, "ckpt"), (True, "savedmodel")):
        assert list(variables_by_key(config, saved_model=saved_model)) == [row[column] for row in table]


@pytest.mark.parametrize("name", TENSORFLOW)
def test_every_variable_of_a_released_network_is_mapped_or_skipped_as_known(reference: Path, name: str) -> None:
    table, config = released_table(reference, name), RELEASED[name]().model
    for variable, row in zip(variables(config), table, strict=True):
        assert variable.name == row["path"]
        assert isinstance(variable, Skipped) == row["use"].startswith("skip")


@pytest.mark.parametrize("name", TENSORFLOW)
def test_every_shape_of_a_released_network_fits(reference: Path, name: str) -> None:
    config = RELEASED[name]().model
    with torch.device("meta"):
        model = RT1(config)
    shapes = {row["ckpt"]: tuple(row["shape"]) for row in released_table(reference, name)}
    check_shapes(variables_by_key(config, saved_model=False), model, shapes, configuration=name)
    filled = {variable.key for variable in variables(config) if isinstance(variable, Weight)}
    unfilled = [key for key in model.state_dict() if key not in filled and not key.endswith("num_batches_tracked")]
    assert unfilled == []


@pytest.mark.parametrize("name", TENSORFLOW)
@pytest.mark.parametrize("file", ["ckpt", "savedmodel"])
def test_every_tensor_of_the_released_files_is_of_the_network_or_has_a_reason(
    reference: Path, write_bundle: WriteBundle, tmp_path: Path, name: str, file: str
) -> None:
    """The tables' names as a file of empty tensors: what the converter says of each."""
    listed = json.loads((reference / "released" / f"{name}_{file}_variables.json").read_text())["tensors"]
    bundle = TensorBundle(write_bundle(tmp_path / "ckpt-1", {row["key"]: np.zeros(0, np.float32) for row in listed}))
    network = variables_by_key(RELEASED[name]().model, saved_model=file == "savedmodel")
    assert network.keys() <= bundle.entries.keys()
    others = other_variables(bundle)
    assert len(network) + len(others) == len(bundle.entries)
    assert {item.reason for item in others} <= {"optimizer state", "object graph of TensorFlow", "counter"}


@pytest.mark.parametrize("name", TENSORFLOW)
def test_the_configuration_of_a_released_network_is_inferred_from_its_shapes(reference: Path, name: str) -> None:
    file = WeightFile(
        path=Path("ckpt-1"),
        format="",
        released=tuple(TENSORFLOW),
        variables=lambda config: variables_by_key(config, saved_model=False),
        shapes={row["ckpt"]: tuple(row["shape"]) for row in released_table(reference, name)},
        read=lambda _: np.zeros(()),
        others=(),
    )
    configuration = released_with(file)
    assert configuration.model == RELEASED[name]().model
    assert configuration.action == RELEASED[name]().action


# ---- the recorded network, converted from its file ----


class Probes:
    """Everything the recording holds of one inference, taken from our network with hooks."""

    def __init__(self, model: RT1, recorded: dict[str, NDArray[Any]]) -> None:
        self.recorded = recorded
        self.layers: list[Tensor] = []
        self.stream: list[Tensor] = []
        backbone, layers = model.backbone, list(model.transformer.layers)
        assert backbone.top_norm is not None
        assert isinstance(layers[0], Layer)
        hooks = [
            backbone.register_forward_pre_hook(lambda _, inputs: self.layers.append(inputs[0][:2])),
            backbone.stem_norm.register_forward_hook(self._keep_activated),
            *(block.register_forward_hook(self._keep) for block in backbone.blocks),
            backbone.top_norm.register_forward_hook(self._keep_activated),
            *(layer.register_forward_pre_hook(lambda _, inputs: self.stream.append(inputs[0])) for layer in layers),
            layers[0].attention.register_forward_pre_hook(self._keep_attention),
        ]
        text = torch.from_numpy(recorded["lang"])
        # The recording fed float images, the bytes divided by 255.
        image = torch.from_numpy(recorded["image"].astype(np.float32) / np.float32(255))
        with torch.inference_mode():
            prepared = model.prepare(image.flatten(0, 1))
            self.positions = model.positions(prepared, model.text(text.flatten(0, 1)))
            self.attention = model.token_learner.attention(self.positions)
            self.tokens = model.token_learner(self.positions).unflatten(0, text.shape[:2])
            self.hidden = model.hidden(self.tokens)
            self.logits_all = model.transformer.output(self.hidden)
            self.logits = model.decode(self.tokens)
        for hook in hooks:
            hook.remove()

    def _keep(self, _: object, __: object, output: Tensor) -> None:
        self.layers.append(output[:2])

    def _keep_activated(self, _: object, __: object, output: Tensor) -> None:
        self.layers.append(torch.nn.functional.silu(output[:2]))

    def _keep_attention(self, layer: Attention, inputs: tuple[Tensor, Tensor]) -> None:
        query, key, _ = layer.project(inputs[0])
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        self.transformer_attention = scores.masked_fill(~inputs[1], -torch.inf).softmax(-1)


def check_close(ours: NDArray[Any], recorded: NDArray[Any], *, rms: float = 5e-5) -> None:
    """Compare in units of the recording's spread, as the recordings' own noise was measured."""
    error = np.asarray(ours, np.float64) - recorded
    assert np.sqrt(np.mean(error**2)) < rms * max(float(recorded.std()), 1e-6)


def check_array(
    ours: Tensor, recorded: dict[str, NDArray[Any]], name: str, *, rms: float = 5e-5, atol: float | None = None
) -> None:
    """Compare with a recorded array: within ``atol`` where it is given, else in units of its spread."""
    values, expected = compared(ours.numpy(), recorded, name)
    if atol is None:
        check_close(values, expected, rms=rms)
    else:
        np.testing.assert_allclose(values, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, NDArray[Any]]:
    return dict(np.load(reference / "tf_small" / "golden.npz"))


@pytest.fixture(scope="module")
def probes(golden: dict[str, NDArray[Any]], tf_small: Conversion) -> Probes:
    return Probes(tf_small.model, golden)


def test_every_layer_of_the_image_network_is_reproduced(probes: Probes) -> None:
    recorded = probes.recorded
    assert len(probes.layers) == len(recorded["inf/eff_names"]) == 29
    for index, layer in enumerate(probes.layers):
        ours = layer.permute(0, 2, 3, 1).contiguous().numpy()
        assert list(ours.shape[1:]) == recorded["inf/eff_shapes"][index].tolist()
        spread = recorded["inf/eff_std"][index]
        assert abs(ours.mean() - recorded["inf/eff_mean"][index]) < 1e-4 * spread
        assert ours.std() == pytest.approx(spread, rel=1e-4)
        assert np.abs(ours).max() == pytest.approx(recorded["inf/eff_absmax"][index], rel=1e-4)
        sample = ours.ravel()[recorded["inf/eff_sample_index"][index]]
        check_close(sample, recorded["inf/eff_sample_value"][index])
    check_array(probes.layers[-1].permute(0, 2, 3, 1), recorded, "inf/eff_top_frames01")


def test_positions_attention_and_image_tokens_are_reproduced(probes: Probes) -> None:
    check_array(probes.positions, probes.recorded, "inf/film_tokens")
    check_array(probes.tokens, probes.recorded, "inf/image_tokens")
    check_array(probes.attention, probes.recorded, "inf/token_learner_attention", atol=1e-3)


def test_every_transformer_layer_is_reproduced(probes: Probes) -> None:
    recorded = probes.recorded
    sequence = torch.cat([probes.tokens[0], torch.zeros(3, 8, 512)], dim=1).reshape(48, 512)
    check_array(sequence, recorded, "inf/input_sequence_b0")
    check_array(probes.stream[0][0], recorded, "inf/tr_embedded_b0")
    check_array(probes.stream[1][0], recorded, "inf/tr_layer0_b0")
    check_array(probes.hidden[0], recorded, "inf/tr_layer1_b0")
    check_array(probes.transformer_attention[0], recorded, "inf/tr_attention_layer0_b0", atol=1e-4)


def test_the_logits_are_reproduced_and_read_one_place_early(probes: Probes) -> None:
    recorded = probes.recorded
    check_array(probes.logits_all, recorded, "inf/logits_all", atol=3e-3)
    check_array(probes.logits, recorded, "inf/logits_action", atol=3e-3)
    check_array(probes.logits, recorded, "inf/logits_action")
    read = probes.logits_all[:, torch.from_numpy(recorded["inf/logit_positions"]).long()]
    torch.testing.assert_close(read.view(probes.logits.shape), probes.logits)


def test_the_decoded_actions_are_the_recorded_ones(probes: Probes, tf_small: Conversion) -> None:
    recorded, spec = probes.recorded, tf_small.configuration.action
    tokens = probes.logits.argmax(-1).numpy()
    clear = recorded["inf/argmax_margin"] > CLEAR
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(tokens[clear], recorded["inf/action_predictions"][clear])
    assert clear[:, -1].all()
    decoded = spec.to_dict(spec.decode(tokens[:, -1]))
    for name in decoded:
        np.testing.assert_array_equal(decoded[name], recorded[f"inf/decoded/{name}"])


def test_the_labels_and_the_loss_are_the_recorded_ones(probes: Probes, tf_small: Conversion) -> None:
    recorded, spec = probes.recorded, tf_small.configuration.action
    assert [part.name for part in spec.parts] == recorded["action_order"].tolist()
    action = spec.from_dict({part.name: recorded[f"action/{part.name}"] for part in spec.parts})
    np.testing.assert_array_equal(spec.encode(action), recorded["action_tokens"])
    loss = action_loss(probes.logits, torch.from_numpy(recorded["action_tokens"]), form="google", step_tokens=16)
    assert loss.item() == pytest.approx(recorded["inf/loss_bt"].mean().item(), rel=1e-4)


@torch.inference_mode()
def test_ten_steps_with_a_memory_of_image_tokens_are_the_recorded_stream(
    golden: dict[str, NDArray[Any]], tf_small: Conversion
) -> None:
    model, spec, memory = tf_small.model, tf_small.configuration.action, torch.zeros(1, 0, 8, 512)
    text, tokens_seen = torch.from_numpy(golden["stream/lang"]), []
    for step, frame in enumerate(golden["stream/image"]):
        image = to_float(torch.from_numpy(frame[None].astype(np.float32) / np.float32(255)))
        token = model.encode(model.prepare(image.permute(0, 2, 3, 1)), model.text(text))
        tokens_seen.append(token[0])
        memory = torch.cat([memory, token[:, None]], dim=1)[:, -3:]
        logits = model.decode(memory)[0, -1].numpy()
        np.testing.assert_allclose(logits, golden["stream/logits"][step], rtol=0, atol=3e-3)
        clear = golden["stream/argmax_margin"][step] > CLEAR
        tokens = logits.argmax(-1)
        np.testing.assert_array_equal(tokens[clear], golden["stream/tokens"][step][clear])
        if clear.all():
            decoded = spec.to_dict(spec.decode(tokens))
            for name in decoded:
                np.testing.assert_array_equal(decoded[name], golden[f"stream/decoded/{name}"][step])
        if step == 2:
            check_array(memory[0], golden, "stream/state_context_image_tokens_step2", rms=1e-4)
    check_array(memory[0], golden, "stream/state_context_image_tokens_last", rms=1e-4)
    check_array(torch.stack(tokens_seen), golden, "stream/image_tokens", rms=1e-4)


def test_the_report_lists_what_was_used_and_why_the_rest_was_not(tf_small: Conversion) -> None:
    report = tf_small.report
    assert (report.format, report.source, len(report.used)) == ("TensorFlow checkpoint", "ckpt-1", 645)
    assert {reason: len(names) for reason, names in report.skipped.items()} == {
        "unused: the network sets action tokens to zero": 2,
        "counter": 3,
        "object graph of TensorFlow": 1,
    }
    assert sum(report.parameters.values()) == 2 * report.parameters["total"]
    assert report.parameters["efficientnet"] == 10_696_232
    json.dumps(report.to_json())


# ---- small files of both kinds, written here ----


def small_network() -> RT1:
    torch.manual_seed(0)
    model = RT1(SMALL)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor))
    return model


def as_tensorflow(model: RT1, to_source: ToSource, *, saved_model: bool = False) -> dict[str, NDArray[Any]]:
    state = model.state_dict()
    tensors: dict[str, NDArray[Any]] = {}
    for key, variable in variables_by_key(model.config, saved_model=saved_model).items():
        if isinstance(variable, Weight) and not variable.key.startswith("pixel"):
            tensors[key] = to_source(state[variable.key], variable, model.config)
        else:
            shape = (3,) if isinstance(variable, Weight) else ()
            tensors[key] = np.full(shape, 0.25, np.float32)
    return tensors


@pytest.fixture
def small_config(tmp_path: Path) -> Path:
    file = tmp_path / "small.json"
    file.write_text(json.dumps({"model": to_json(SMALL), "action": SMALL_ACTION.to_json()}))
    return file


@pytest.mark.parametrize("saved_model", [False, True])
def test_a_network_comes_back_from_both_kinds_of_files(
    tmp_path: Path, write_bundle: WriteBundle, to_source: ToSource, small_config: Path, *, saved_model: bool
) -> None:
    model = small_network()
    tensors = as_tensorflow(model, to_source, saved_model=saved_model)
    write_bundle(tmp_path / "variables" / "variables", {**tensors, "train_step" + SUFFIX: np.array(7, np.int64)})
    conversion = convert_tensorflow(tmp_path, config=small_config)
    assert conversion.report.format == ("TensorFlow SavedModel" if saved_model else "TensorFlow checkpoint")
    converted = conversion.model.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.startswith("pixel") and not name.endswith("num_batches_tracked"):
            assert torch.equal(converted[name], tensor), name
    assert not conversion.model.training


def test_a_variable_of_another_shape_is_named_with_both_shapes(
    tmp_path: Path, write_bundle: WriteBundle, to_source: ToSource, small_config: Path
) -> None:
    tensors = as_tensorflow(small_network(), to_source)
    tensors[f"{CKPT_PREFIX}_transformer/_layers/1/ff/kernel{SUFFIX}"] = np.zeros((12, 13), np.float32)
    write_bundle(tmp_path / "ckpt-1", tensors)
    expected = (
        r"'_transformer/_layers/1/ff/kernel' has shape \[12, 13\]. The configuration small\.json needs \[12, 12\]"
    )
    with pytest.raises(ValueError, match=expected):
        convert_tensorflow(tmp_path / "ckpt-1", config=small_config)


def test_a_missing_variable_is_named(
    tmp_path: Path, write_bundle: WriteBundle, to_source: ToSource, small_config: Path
) -> None:
    tensors = as_tensorflow(small_network(), to_source)
    del tensors[f"{CKPT_PREFIX}_transformer/_output_tokens/bias{SUFFIX}"]
    write_bundle(tmp_path / "ckpt-1", tensors)
    with pytest.raises(ValueError, match="'_transformer/_output_tokens/bias'"):
        convert_tensorflow(tmp_path / "ckpt-1", config=small_config)


def test_more_layers_than_the_configuration_has_are_refused(
    tmp_path: Path, write_bundle: WriteBundle, to_source: ToSource, small_config: Path
) -> None:
    deeper = RT1(replace(SMALL, transformer=replace(SMALL.transformer, layers=3)))
    for saved_model in (False, True):
        write_bundle(tmp_path / f"ckpt-{saved_model:d}", as_tensorflow(deeper, to_source, saved_model=saved_model))
        with pytest.raises(ValueError, match=r"1\d arrays .*small\.json"):
            convert_tensorflow(tmp_path / f"ckpt-{saved_model:d}", config=small_config)


def test_sizes_that_were_not_released_ask_for_a_configuration(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match=r"no released configuration .*rt1main.*Give --config"):
        convert_tensorflow(checkpoints / "tf_small")


def test_a_released_configuration_that_does_not_fit_is_refused(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match="The configuration rt1main needs"):
        convert_tensorflow(checkpoints / "tf_small", config="rt1main")


def test_an_unknown_configuration_is_refused_with_a_suggestion(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'rt1main'"):
        convert_tensorflow(checkpoints / "tf_small", config="rt1-main")


@pytest.mark.parametrize("name", ["model_variables/1" + SUFFIX, "layer/kernel" + SUFFIX])
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, write_bundle: WriteBundle, name: str) -> None:
    write_bundle(tmp_path / "ckpt-1", {name: np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"no released configuration|not a checkpoint"):
        convert_tensorflow(tmp_path / "ckpt-1")


def test_the_action_order_is_an_option(checkpoints: Path, tf_small_config: Path) -> None:
    order = ["rotation_delta", "world_vector", "gripper_closedness_action", "terminate_episode"]
    conversion = convert_tensorflow(checkpoints / "tf_small", config=tf_small_config, action_order=order)
    assert [part.name for part in conversion.configuration.action.parts] == order
    with pytest.raises(ValueError, match="must name each of"):
        convert_tensorflow(checkpoints / "tf_small", config=tf_small_config, action_order=order[:3])
