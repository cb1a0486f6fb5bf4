"""Clips: each image is encoded once, and the windows cut from them are what they are by themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rt1.data.pipeline.augment import AugmentSettings, augment
from rt1.data.pipeline.buffers import ImageGroup
from rt1.data.pipeline.loader import Batch, Loader
from rt1.data.pipeline.mixture import Mixture
from rt1.data.pipeline.windows import Clips, Windows
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import JoinedSource
from rt1.model.loss import action_loss
from rt1.model.rt1 import RT1, RT1Config
from rt1.presets import PRESETS, preset
from rt1.train import forward
from rt1.train.data import text_embeddings
from rt1.train.forward import Predictor, layout, predict, prepared_images

LENGTHS = (9, 2, 6)

MakeSource = Callable[..., EpisodeSource]


def _loader(source: EpisodeSource, samples: Windows | Clips | Mixture) -> Loader:
    text = text_embeddings(source, None)
    return Loader(source, samples, text=text, batch_size=64, seed=0)


def _batches(source: EpisodeSource, group: int) -> tuple[Batch, Batch]:
    windows = Windows(lengths=source.lengths, episodes=np.arange(len(source.lengths)), window=3)
    clips = Clips(windows=windows, group=group)
    return next(_loader(source, windows).in_order()), next(_loader(source, clips).in_order())


def _gradients(model: RT1, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    predicted = predict(Predictor(model, "fp32"), batch, image_size=model.config.image_size)
    loss = action_loss(predicted.logits_WTAV, predicted.token_WTA, mask_BT=predicted.mask_WT)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("group", [1, 2, 4])
def test_clips_give_the_loss_and_the_gradients_of_their_windows(
    group: int, make_source: MakeSource, make_network: Callable[..., RT1]
) -> None:
    model = make_network(3)
    windows, clips = _batches(make_source(*LENGTHS), group)
    (one, by_window), (other, by_clip) = _gradients(model, windows), _gradients(model, clips)
    assert other == pytest.approx(one, rel=1e-6)
    assert by_clip.keys() == by_window.keys()
    for name, gradient in by_window.items():
        torch.testing.assert_close(by_clip[name], gradient, rtol=1e-3, atol=2e-5)


def test_the_windows_of_clips_have_the_tokens_and_actions_of_the_windows(
    make_source: MakeSource, make_network: Callable[..., RT1]
) -> None:
    model = make_network(3)
    windows, clips = _batches(make_source(*LENGTHS), 4)
    with torch.no_grad():
        one, other = (predict(Predictor(model, "fp32"), b, image_size=(48, 48)) for b in (windows, clips))
    assert torch.equal(one.token_WTA[one.mask_WT], other.token_WTA[other.mask_WT])
    assert torch.equal(one.action_WTA[one.mask_WT], other.action_WTA[other.mask_WT])
    assert one.accuracy() == pytest.approx(other.accuracy())


def test_every_real_image_of_a_clip_is_encoded_once_and_no_padding(make_source: MakeSource) -> None:
    windows, clips = _batches(make_source(*LENGTHS), 4)
    assert layout(windows).images == windows.valid_BT.size == 3 * layout(windows).windows
    plan = layout(clips)
    assert plan.windows == layout(windows).windows
    assert plan.images == clips.valid_BT.sum() < layout(windows).images
    assert plan.place_WT is not None
    assert 0 <= plan.place_WT.min() <= plan.place_WT.max() < plan.images


@pytest.mark.parametrize("settings", [AugmentSettings(), AugmentSettings(crop_per="sample", hue=0.2)])
@pytest.mark.parametrize("pixels_at_once", [1 << 24, 1])
def test_another_data_set_does_not_change_the_pixels_of_the_first(
    settings: AugmentSettings, pixels_at_once: int, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_PIXELS_AT_ONCE", pixels_at_once)
    sources = [make_source(4, size=(60, 70)), make_source(5), make_source(3, size=(30, 40))]
    joined = JoinedSource(sources)
    parts = tuple(Windows(lengths=joined.lengths, episodes=np.array([first]), window=2) for first in joined.firsts)
    mixture = Mixture(parts=parts, weights=(1.0,) * 3)

    def prepared(batch: Batch, rows: NDArray[np.int64]) -> Tensor:
        def change(image: Tensor, row: NDArray[np.int64]) -> Tensor:
            return augment(image, rows[row], settings, seed=1, update=2)

        images = prepared_images(batch, image_size=(48, 48), device="cpu", augment=change)
        return images.unflatten(0, (-1, 2))

    together = prepared(_loader(joined, mixture).take(np.array([3, 0, 7, 1])), np.arange(4))
    for source, numbers, rows in zip(sources, ([0, 1], [0], [0]), ([1, 3], [0], [2]), strict=True):
        windows = Windows(lengths=source.lengths, episodes=np.arange(1), window=2)
        alone = prepared(_loader(source, windows).take(np.array(numbers)), np.array(rows))
        assert torch.equal(together[rows], alone)


def test_logits_are_float32_in_bfloat16_too(make_source: MakeSource, make_network: Callable[..., RT1]) -> None:
    model = make_network(3)
    _, clips = _batches(make_source(*LENGTHS), 4)
    with torch.no_grad():
        half = predict(Predictor(model, "bf16"), clips, image_size=(48, 48)).logits_WTAV
        full = predict(Predictor(model, "fp32"), clips, image_size=(48, 48)).logits_WTAV
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


def test_half_a_batch_has_half_its_rows(make_source: MakeSource) -> None:
    _, clips = _batches(make_source(*LENGTHS), 2)
    rows = len(clips.episodes)
    parts = [clips.rows(0, rows // 2), clips.rows(rows // 2, rows)]
    assert sum(layout(part).windows for part in parts) == layout(clips).windows
    assert parts[0].episodes + parts[1].episodes == clips.episodes
    assert sum(part.clipped for part in parts) == clips.clipped
    assert dataclasses.asdict(parts[1])["token_BTA"].shape[0] == rows - rows // 2


def _two_windows(model: RT1Config) -> Batch:
    """Return a batch of two windows, the second of the second embodiment, as the loader gives it."""
    steps = model.window
    return Batch(
        images=(ImageGroup(np.arange(2), np.zeros((2, steps, 60, 70, 3), dtype=np.uint8)),),
        text_BE=np.zeros((2, model.text_width), dtype=np.float32),
        token_BTA=np.zeros((2, steps, model.action_tokens), dtype=np.int32),
        action_BTA=np.zeros((2, steps, model.action_tokens), dtype=np.float32),
        valid_BT=np.ones((2, steps), dtype=np.bool_),
        episodes=(0, 1),
        embodiment_B=np.arange(2) if model.embodiments else None,
    )


@pytest.mark.parametrize(("name", "heads"), [("debug", ()), *((name, (3, 11)) for name in PRESETS)])
def test_no_preset_makes_a_tensor_on_the_cpu_in_passing(name: str, heads: tuple[int, ...]) -> None:
    network = preset(name).model
    text = dataclasses.replace(network.text, drop=0.5)  # the learned null is what guidance compares with
    network = dataclasses.replace(network, text=text, embodiments=heads)
    with torch.device("meta"):
        model = RT1(network).train()

    def change(image: Tensor, row: NDArray[np.int64]) -> Tensor:
        settings = AugmentSettings(brightness=0.1, hue=0.1)
        return augment(image, row, settings, seed=0, update=0)

    predicted = predict(
        Predictor(model, "fp32"),
        _two_windows(network),
        image_size=network.image_size,
        device="meta",
        augment=change,
        dropped_B=np.array([True, False]),
    )
    loss = action_loss(
        predicted.logits_WTAV,
        predicted.token_WTA,
        mask_BT=predicted.mask_WT,
        spread_A=torch.ones(network.action_tokens, device="meta"),
        smoothing=0.1,
    )
    loss.backward()
    assert loss.is_meta
    assert all(parameter.grad is None or parameter.grad.is_meta for parameter in model.parameters())
