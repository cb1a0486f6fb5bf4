"""The whole network: Google's numbers in training, and what its interface promises."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tests.reference.expand import compared
from torch import Tensor

from rt1.model.conditioning import TextConfig
from rt1.model.efficientnet import EfficientNetConfig, Stage
from rt1.model.layers import BatchNorm
from rt1.model.loss import action_loss
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.transformer import TransformerConfig
from rt1.preprocess import crop_margins, resize, shifted, to_float
from rt1.pretrained.convert import Conversion
from rt1.pretrained.layout import Weight, pixel_mean, pixel_std
from rt1.pretrained.tensorflow import CKPT_PREFIX, NET, SUFFIX, variables
from rt1.pretrained.tf_bundle import TensorBundle

ToSource = Callable[[Tensor, Weight, RT1Config], NDArray[Any]]
Reference = dict[str, NDArray[Any]]
GIVEN_STEPS = 6

TINY = RT1Config(
    window=3,
    image_size=(48, 48),
    text_width=12,
    token_width=16,
    image_tokens=2,
    token_learner_hidden=8,
    action_tokens=3,
    bins=10,
    efficientnet=EfficientNetConfig(
        width=0.25,
        depth=1.0,
        stages=(Stage(kernel=3, stride=2, expand=1, channels=32, blocks=2),),
        top_channels=None,
    ),
    transformer=TransformerConfig(layers=2, width=16, heads=2, head_width=8),
)


def tiny_model(**settings: Any) -> RT1:
    torch.manual_seed(0)
    model = RT1(replace(TINY, **settings)).eval()
    for parameter in model.parameters():  # FiLM starts at zero; every input shall matter here
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def tiny_batch(batch: int = 2, window: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (batch, window, 40, 60, 3), dtype=torch.uint8, generator=generator)
    return image, torch.randn(batch, window, 12, generator=generator)


# ---- Google's numbers in training mode ----


def without_dropout(model: RT1) -> RT1:
    """Return a copy without dropout and drop-connect, as the recording was made, in training mode."""
    config = replace(
        model.config,
        efficientnet=replace(model.config.efficientnet, drop_connect=0.0),
        transformer=replace(model.config.transformer, dropout=0.0),
    )
    fresh = RT1(config)
    fresh.load_state_dict(model.state_dict())
    return fresh.train()


def cropped_images(recorded: Reference) -> Tensor:
    """Return the training images (X, 3, 256, 320): the recording took float images, cropped at one offset."""
    image = to_float(torch.from_numpy(recorded["image"].astype(np.float32) / np.float32(255)).flatten(0, 1))
    y, x = (int(v) for v in recorded["train/crop_offset_yx"])
    return shifted(image, crop_margins(256, 320), (y, x))


def batch_norm_statistics(model: RT1) -> tuple[NDArray[Any], NDArray[Any]]:
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    means = [norm.running_mean.numpy() for norm in norms if norm.running_mean is not None]
    variances = [norm.running_var.numpy() for norm in norms if norm.running_var is not None]
    return np.concatenate(means), np.concatenate(variances)


@dataclass
class Update:
    """One training update of the recorded batch, and what was recorded of it."""

    recorded: Reference
    model: RT1
    film_tokens: Tensor
    logits: Tensor
    loss: Tensor

    @property
    def tokens(self) -> Tensor:
        return torch.from_numpy(self.recorded["action_tokens"])

    @property
    def mask(self) -> Tensor:
        return torch.from_numpy(self.recorded["step_type"] != 2)


def run_update(model: RT1, image_XCHW: Tensor, recorded: Reference) -> Update:
    kept: list[Tensor] = []
    hook = model.backbone.register_forward_hook(lambda _, __, output: kept.append(output))
    text_XE = torch.from_numpy(recorded["lang"]).flatten(0, 1).to(image_XCHW.dtype)
    logits = model.decode(model.encode(image_XCHW, model.text(text_XE)).unflatten(0, recorded["lang"].shape[:2]))
    hook.remove()
    update = Update(recorded, model, kept[0].detach(), logits.detach(), torch.tensor(0.0))
    loss = action_loss(logits, update.tokens, mask_BT=update.mask, form="google", step_tokens=model.config.step_tokens)
    loss.backward()
    update.loss = loss.detach()
    return update


@pytest.fixture(scope="module")
def update(reference: Path, tf_small: Conversion) -> Update:
    recorded = dict(np.load(reference / "tf_small" / "golden.npz"))
    image = resize(cropped_images(recorded), (300, 300))
    return run_update(without_dropout(tf_small.model), image, recorded)


def test_the_training_crop_is_the_recorded_one(update: Update) -> None:
    image = cropped_images(update.recorded)[0].permute(1, 2, 0)[::4, ::4]
    np.testing.assert_array_equal(*compared(image.numpy(), update.recorded, "train/preprocessed_frame0"))


def test_training_mode_gives_the_recorded_tokens_and_logits(update: Update) -> None:
    ours, recorded = compared(update.film_tokens[0].numpy(), update.recorded, "train/film_tokens_frame0")
    assert np.sqrt(np.mean((ours - recorded) ** 2)) < 1e-3 * recorded.std()
    ours, recorded = compared(update.logits.numpy(), update.recorded, "train/logits_action")
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=5e-2)


def test_the_cross_entropy_and_both_sums_of_it_are_the_recorded_ones(update: Update) -> None:
    recorded, logits, step_tokens = update.recorded, update.logits, update.model.config.step_tokens
    entropy = F.cross_entropy(logits.flatten(0, 2), update.tokens.flatten().long(), reduction="none")
    np.testing.assert_allclose(entropy.numpy(), recorded["train/ce_btk"].ravel(), rtol=2e-3, atol=2e-3)
    for mask, name in ((update.mask, "masked"), (None, "unmasked")):
        loss = action_loss(logits, update.tokens, mask_BT=mask, form="google", step_tokens=step_tokens)
        assert loss.item() == pytest.approx(recorded[f"train/loss_total_{name}"].item(), rel=1e-4)
    for index in range(GIVEN_STEPS):
        one = (torch.arange(GIVEN_STEPS) == index).view(update.tokens.shape[:2])
        loss = action_loss(logits, update.tokens, mask_BT=one, form="google", step_tokens=step_tokens)
        expected = recorded["train/loss_bt"].ravel()[index] / GIVEN_STEPS
        assert loss.item() == pytest.approx(expected, rel=1e-3)


def gradients(update: Update, to_source: ToSource) -> dict[str, NDArray[Any]]:
    """Return the gradients by TensorFlow name, in Keras' layout."""
    config, parameters = update.model.config, dict(update.model.named_parameters())
    found: dict[str, NDArray[Any]] = {}
    for weight in variables(config):
        if isinstance(weight, Weight) and weight.key in parameters:
            gradient = parameters[weight.key].grad
            assert gradient is not None, weight.name
            found[CKPT_PREFIX + weight.name] = to_source(gradient, weight, config)
    return found


def check_gradients(update: Update, to_source: ToSource, recorded: Reference, *, share: float) -> None:
    ours = gradients(update, to_source)
    names = [str(name) for name in recorded["grad_names"]]
    assert sorted(ours) == sorted(names)
    for index, name in enumerate(names):
        norm = recorded["grad_norm"][index]
        if norm <= 1e-6:  # biases before a softmax or a BatchNorm: their true gradient is 0
            assert np.linalg.norm(ours[name]) < 1e-5
            continue
        assert np.linalg.norm(ours[name].astype(np.float64)) == pytest.approx(norm, rel=share), name
        sample = ours[name].ravel()[recorded["grad_sample_index"][index]]
        assert np.abs(sample - recorded["grad_sample"][index]).max() <= share * norm, name


def test_every_gradient_has_the_recorded_norm_and_samples(update: Update, to_source: ToSource) -> None:
    recorded = {
        name.removeprefix("train/"): value for name, value in update.recorded.items() if name.startswith("train/grad")
    }
    check_gradients(update, to_source, recorded, share=1e-2)


def test_the_batch_norm_statistics_are_updated_as_recorded(update: Update) -> None:
    mean, variance = batch_norm_statistics(update.model)
    ours, recorded = compared(mean, update.recorded, "train/bn_after_moving_mean")
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=1e-5)
    ours, recorded = compared(variance, update.recorded, "train/bn_after_moving_variance")
    np.testing.assert_allclose(ours, recorded, rtol=1e-4)


def keras_adam_step(gradient: NDArray[Any]) -> NDArray[Any]:
    """Return the first change Keras' Adam makes: its eps is added to the root of the uncorrected second moment."""
    rate = 1e-4 * np.sqrt(1 - 0.999) / (1 - 0.9)
    return -rate * 0.1 * gradient / (np.sqrt(0.001 * gradient**2) + 1e-7)


def test_the_first_adam_update_is_the_recorded_one(update: Update, to_source: ToSource) -> None:
    ours = gradients(update, to_source)
    recorded = update.recorded
    errors = []
    for index, name in enumerate(recorded["train/grad_names"]):
        if recorded["train/grad_norm"][index] > 1e-6:
            step = keras_adam_step(ours[str(name)].ravel()[recorded["train/grad_sample_index"][index]])
            errors.append(np.abs(step - recorded["train/adam_step1_delta_sample"][index]))
    error = np.concatenate(errors)
    # In units of the learning rate; a gradient near Adam's eps turns noise of 1e-9 into a visible share.
    assert np.median(error) < 1e-3 * 1e-4
    assert np.quantile(error, 0.99) < 0.05 * 1e-4


def test_the_loss_after_that_update_is_the_recorded_one(update: Update) -> None:
    model = copy.deepcopy(update.model)
    for parameter, trained in zip(model.parameters(), update.model.parameters(), strict=True):
        assert trained.grad is not None
        parameter.data.add_(torch.from_numpy(keras_adam_step(trained.grad.numpy())))
    image = resize(cropped_images(update.recorded), (300, 300))
    text = torch.from_numpy(update.recorded["lang"]).flatten(0, 1)
    with torch.no_grad():
        logits = model.decode(model.encode(image, model.text(text)).unflatten(0, (2, 3)))
    step_tokens = model.config.step_tokens
    loss = action_loss(logits, update.tokens, form="google", step_tokens=step_tokens)
    assert loss.item() == pytest.approx(update.recorded["train/loss_bt_after_adam_step"].mean().item(), rel=2e-3)


# ---- float64: nothing is left of the difference ----


def google_resize(image_XHWC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize to 300x300 with TensorFlow's float32 operations in their order, so that not one bit differs."""

    def weights(size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
        place = (np.arange(300, dtype=np.float32) + np.float32(0.5)) * np.float32(size / 300) - np.float32(0.5)
        below = np.floor(place)
        lower, upper = np.maximum(below, 0).astype(int), np.minimum(np.ceil(place), size - 1).astype(int)
        return lower, upper, place - below

    (top, bottom, down), (left, right, across) = (weights(size) for size in image_XHWC.shape[1:3])
    down, across = down[:, None, None], across[:, None]
    upper = image_XHWC[:, top][:, :, left]
    upper = upper + (image_XHWC[:, top][:, :, right] - upper) * across
    lower = image_XHWC[:, bottom][:, :, left]
    lower = lower + (image_XHWC[:, bottom][:, :, right] - lower) * across
    return upper + (lower - upper) * down


def in_float64(model: RT1, checkpoint: Path) -> RT1:
    """Return the model in float64, its pixel constants not rounded to float32 either."""
    bundle = TensorBundle(checkpoint)
    mean, variance = (
        bundle.read(f"{CKPT_PREFIX}{NET}layer_with_weights-0/{part}{SUFFIX}") for part in ("mean", "variance")
    )
    model = copy.deepcopy(model).double()
    model.pixel_mean = torch.from_numpy(pixel_mean(mean))
    model.pixel_std = torch.from_numpy(pixel_std(variance))
    return model


def float64_images(image_XCHW: Tensor) -> Tensor:
    return torch.from_numpy(google_resize(image_XCHW.permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2).double()


@torch.no_grad()
def test_in_float64_every_output_is_googles_to_1e_10(reference: Path, checkpoints: Path, tf_small: Conversion) -> None:
    recorded = dict(np.load(reference / "tf_small" / "golden.npz"))
    exact = dict(np.load(reference / "tf_small" / "golden_f64.npz"))

    def check(ours: Tensor, name: str, atol: float = 1e-10) -> None:
        values, google = compared(ours.numpy(), exact, name)
        np.testing.assert_allclose(values, google, rtol=0, atol=atol)

    model = in_float64(tf_small.model, checkpoints / "tf_small")
    image = to_float(torch.from_numpy(recorded["image"].astype(np.float32) / np.float32(255)).flatten(0, 1))
    image = float64_images(image)
    check(image[:2].permute(0, 2, 3, 1), "resized_frames01", atol=0)
    text = torch.from_numpy(recorded["lang"]).flatten(0, 1).double()
    positions = model.positions(image, model.text(text))
    check(positions, "film_tokens")
    tokens = model.token_learner(positions).unflatten(0, (2, 3))
    check(tokens, "image_tokens")
    check(model.transformer.output(model.hidden(tokens)), "logits_all")


@pytest.mark.slow
def test_in_float64_a_training_update_is_googles_to_1e_10(
    reference: Path, checkpoints: Path, tf_small: Conversion, to_source: ToSource
) -> None:
    recorded = dict(np.load(reference / "tf_small" / "golden.npz"))
    exact = dict(np.load(reference / "tf_small" / "golden_f64.npz"))
    model = in_float64(without_dropout(tf_small.model), checkpoints / "tf_small")
    update = run_update(model, float64_images(cropped_images(recorded)), recorded)
    ours, google = compared(update.logits.numpy(), exact, "train_logits_action")
    np.testing.assert_allclose(ours, google, rtol=0, atol=1e-10)
    assert update.loss.item() == pytest.approx(exact["train_loss_total_masked"].item(), rel=1e-12)
    exact["grad_sample_index"] = recorded["train/grad_sample_index"]
    check_gradients(update, to_source, exact, share=1e-10)


# ---- what the interface promises ----


def test_the_defaults_are_rt1main_with_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        model = RT1(RT1Config())
    assert sum(p.numel() for p in model.parameters()) == 35_120_544
    assert model.config.sequence_length == 114


@torch.no_grad()
def test_a_step_does_not_depend_on_later_images() -> None:
    model, (image, text) = tiny_model(), tiny_batch()
    changed = image.clone()
    changed[:, 2] = 255 - changed[:, 2]
    before, after = model.predict(image, text), model.predict(changed, text)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


@torch.no_grad()
def test_a_step_depends_on_earlier_images_and_on_its_instruction() -> None:
    model, (image, text) = tiny_model(), tiny_batch()
    before = model.predict(image, text)
    changed = image.clone()
    changed[:, 0] = 255 - changed[:, 0]
    assert not torch.allclose(before[:, 2], model.predict(changed, text)[:, 2])
    assert not torch.allclose(before[:, 2], model.predict(image, text + 1)[:, 2])


@torch.no_grad()
def test_one_embedding_for_the_window_is_the_same_as_one_per_step() -> None:
    model, (image, text) = tiny_model(), tiny_batch()
    once = text[:, 0]
    torch.testing.assert_close(model.predict(image, once), model.predict(image, once[:, None].expand(-1, 3, -1)))


@torch.no_grad()
def test_bytes_and_floats_of_an_image_mean_the_same() -> None:
    model, (image, text) = tiny_model(), tiny_batch()
    torch.testing.assert_close(
        model.predict(image, text), model.predict(image.float() / 255, text), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_a_shorter_window_gives_what_the_full_one_gives_for_its_steps() -> None:
    model, (image, text) = tiny_model(), tiny_batch()
    torch.testing.assert_close(model.predict(image[:, :2], text[:, :2]), model.predict(image, text)[:, :2])


@torch.no_grad()
@pytest.mark.parametrize("mask", ["rt1", "rt1x"])
def test_nothing_attends_to_padding(mask: str) -> None:
    model, (image, text) = tiny_model(mask=mask), tiny_batch()
    valid = torch.tensor([[False, True, True], [True, True, True]])
    changed = image.clone()
    changed[0, 0] = 255 - changed[0, 0]
    before, after = (model.predict(images, text, valid_BT=valid) for images in (image, changed))
    torch.testing.assert_close(before[0, 1:], after[0, 1:])
    assert torch.isfinite(before).all()
    torch.testing.assert_close(before[1], model.predict(image, text)[1])


def test_logits_are_float32_under_autocast() -> None:
    model, (image, text) = tiny_model(), tiny_batch()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.predict(image, text)
    assert logits.dtype == torch.float32
    assert logits.shape == (2, 3, 3, 10)


def test_the_network_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    model, (image, text) = RT1(TINY).train(), tiny_batch()
    target = torch.randint(0, 10, (2, 3, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss = torch.tensor(0.0)
    for _ in range(120):
        loss = action_loss(model.predict(image, text), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3


def test_every_parameter_gets_a_gradient() -> None:
    model, (image, text) = tiny_model().train(), tiny_batch()
    action_loss(model.predict(image, text), torch.zeros(2, 3, 3, dtype=torch.int64)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


# ---- the loss ----


def test_the_mean_form_averages_over_the_counted_steps() -> None:
    logits, tokens = torch.randn(2, 3, 4, 10), torch.randint(0, 10, (2, 3, 4))
    entropy = F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none").view(2, 3, 4)
    torch.testing.assert_close(action_loss(logits, tokens), entropy.mean())
    mask = torch.tensor([[True, False, False], [True, True, False]])
    torch.testing.assert_close(action_loss(logits, tokens, mask_BT=mask), entropy.mean(-1)[mask].mean())


def test_a_mask_that_counts_nothing_gives_zero() -> None:
    loss = action_loss(
        torch.randn(1, 2, 3, 5),
        torch.zeros(1, 2, 3, dtype=torch.int64),
        mask_BT=torch.zeros(1, 2, dtype=torch.bool),
    )
    assert loss.item() == 0.0


# Two bins of probabilities 1/4 and 3/4 besides two of 1/2 and 1/2; the targets are bins 1 and 0.
LOGITS_OF_TWO = torch.tensor([[[[0.0, math.log(3.0)], [0.0, 0.0]]]])
TOKENS_OF_TWO = torch.tensor([[[1, 0]]])


def test_smoothing_gives_a_share_of_each_target_to_all_bins() -> None:
    loss = action_loss(LOGITS_OF_TWO, TOKENS_OF_TWO, smoothing=0.2)
    # 0.2 of the target is shared by two bins: the right one keeps 0.9 of it.
    first, second = 0.1 * math.log(4) + 0.9 * math.log(4 / 3), math.log(2)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_smoothing_comes_after_the_spread_and_leaves_the_google_form_as_it_is() -> None:
    spread = torch.tensor([1.0, 0.0])
    near = math.exp(-0.5)
    right = 0.8 * 1 / (1 + near) + 0.1
    first = (1 - right) * math.log(4) + right * math.log(4 / 3)
    mean = action_loss(LOGITS_OF_TWO, TOKENS_OF_TWO, smoothing=0.2, spread_A=spread)
    assert mean.item() == pytest.approx((first + math.log(2)) / 2, rel=1e-6)
    google = action_loss(LOGITS_OF_TWO, TOKENS_OF_TWO, smoothing=0.2, spread_A=spread, form="google", step_tokens=10)
    assert google.item() == pytest.approx(mean.item() / 10, rel=1e-6)


def test_without_smoothing_the_loss_is_the_same_bit_for_bit() -> None:
    logits, tokens = torch.randn(2, 3, 4, 10), torch.randint(0, 10, (2, 3, 4))
    for spread in (None, torch.tensor([0.0, 1.0, 2.0, 3.0])):
        plain = action_loss(logits, tokens, spread_A=spread)
        assert torch.equal(action_loss(logits, tokens, spread_A=spread, smoothing=0.0), plain)


# ---- what is refused ----


@pytest.mark.parametrize("shape", [(2, 13), (3, 12), (2, 4, 12), (12,)])
def test_a_text_embedding_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    image, _ = tiny_batch()
    with pytest.raises(ValueError, match=r"text embedding .*\(2, 12\) or \(2, 3, 12\)"):
        tiny_model().predict(image, torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 40, 60, 3), (2, 3, 40, 60, 1), (2, 3, 40, 60, 4), (40, 60, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    _, text = tiny_batch()
    with pytest.raises(ValueError, match="images have shape"):
        tiny_model().predict(torch.zeros(shape, dtype=torch.uint8), text)


def test_more_steps_than_the_window_are_refused() -> None:
    image, text = tiny_batch(window=4)
    with pytest.raises(ValueError, match=r"4 steps.*window of 3"):
        tiny_model().predict(image, text)


@pytest.mark.parametrize("settings", [{"window": 0}, {"bins": 1}, {"image_size": (0, 48)}])
def test_sizes_that_make_no_network_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(window|bins|image_size) is .*at least"):
        replace(TINY, **settings)


# ---- other networks of the family ----


@pytest.mark.parametrize("readout", ["last_token", "mean_token"])
def test_without_action_tokens_a_step_is_read_from_its_image_tokens(readout: Any) -> None:
    model = tiny_model(readout=readout, mask="rt1" if readout == "last_token" else "step")
    image, text = tiny_batch()
    assert model.config.sequence_length == 3 * 2
    logits = model.predict(image, text)
    assert logits.shape == (2, 3, 3, 10)
    later = image.clone()
    later[:, 2] = 0
    torch.testing.assert_close(model.predict(later, text)[:, :2], logits[:, :2])  # still causal
    assert (model.predict(later, text)[:, 2] - logits[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("readout", ["action_tokens", "last_token", "mean_token"])
def test_a_step_has_the_logits_it_has_without_the_steps_behind_it(readout: Any) -> None:
    model = tiny_model(readout=readout)
    image, text = tiny_batch()
    tokens = model.encode(model.prepare(image.flatten(0, 1)), model.text(text.flatten(0, 1))).unflatten(0, (2, 3))
    torch.testing.assert_close(model.decode(tokens[:, :2]), model.decode(tokens)[:, :2])


@pytest.mark.parametrize("conditioning", ["film", "cross_attention"])
def test_the_transformer_can_be_conditioned_too(conditioning: Any) -> None:
    transformer = replace(TINY.transformer, condition=conditioning, feed_forward="gelu", hidden=8)
    model = tiny_model(conditioning=conditioning, transformer=transformer)
    tokens_BTKE, text_BE = torch.randn(2, 3, 2, 16), torch.randn(2, 12)
    condition_B = model.text(text_BE)
    logits = model.decode(tokens_BTKE, condition_B)
    assert (model.decode(tokens_BTKE, condition_B.flip(0)) - logits).abs().max() > 1e-3
    with pytest.raises(ValueError, match="Give decode\\(\\) the condition"):
        model.decode(tokens_BTKE)


def test_one_network_is_not_conditioned_in_two_ways() -> None:
    with pytest.raises(ValueError, match=r"transformer\.condition is cross_attention, conditioning film"):
        replace(TINY, transformer=replace(TINY.transformer, condition="cross_attention"))


def test_text_may_be_word_pieces_and_attended_to() -> None:
    model = tiny_model(conditioning="cross_attention", text=TextConfig(vocabulary=30, table_width=6))
    image, _ = tiny_batch()
    ids_BE = torch.tensor([[3.0, 9.0] + [0.0] * 10, [4.0] + [0.0] * 11])
    logits = model.predict(image, ids_BE)
    assert logits.shape == (2, 3, 3, 10)
    assert (model.predict(image, ids_BE.flip(0)) - logits).abs().max() > 1e-3


def test_sigmoid_maps_are_weights_over_the_positions_too() -> None:
    model = tiny_model(position_weights="sigmoid")
    image, text = tiny_batch()
    positions = model.positions(model.prepare(image[:, 0]), model.text(text[:, 0]))
    sums = model.token_learner.attention(positions).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_the_feature_map_can_be_averaged_to_another_grid() -> None:
    efficientnet = replace(TINY.efficientnet, pool=(2, 3), output_condition=False)
    model = tiny_model(efficientnet=efficientnet)
    image, text = tiny_batch()
    assert model.config.grid == (2, 3)
    assert model.positions(model.prepare(image[:, 0]), model.text(text[:, 0])).shape == (2, 6, 16)


def test_an_unknown_backbone_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"'maxvi'.*maxvit"):
        replace(TINY, backbone="maxvi")
