"""The network run by torch: what it refuses, lower precision, and the accelerator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.model.rt1 import RT1
from rt1.policy.engines.torch import TorchEngine, acting_device, network_sizes
from rt1.policy.exported_manifest import Precision
from rt1.policy.stepper import Stepper
from rt1.presets import PRESETS, preset

Images = list[NDArray[np.uint8]]


@pytest.fixture
def model(make_network: Callable[..., RT1]) -> RT1:
    return make_network(window=3)


def _logits(engine: TorchEngine, images: Images, embedding: FloatArray) -> FloatArray:
    return Stepper(engine).episode_logits(embedding, images)


def test_bf16_is_the_network_nearly(model: RT1, images: Images, embedding: FloatArray) -> None:
    expected = _logits(TorchEngine(model), images, embedding)
    logits = _logits(TorchEngine(model, precision="bf16"), images, embedding)
    assert 1e-4 < np.abs(logits - expected).max() / expected.std() < 0.3
    assert TorchEngine(model, precision="bf16").label == "torch:bf16"


def test_robots_in_one_bf16_batch_get_nearly_what_each_gets_alone(model: RT1, images: Images) -> None:
    stepper = Stepper(TorchEngine(model, precision="bf16"))
    embeddings = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    alone = np.stack([stepper.episode_logits(embedding, images[n : n + 4]) for n, embedding in enumerate(embeddings)])
    states = [stepper.start(embedding) for embedding in embeddings]
    for step in range(4):
        together = stepper.step(states, images[step : step + 3])
        assert np.abs(together - alone[:, step]).max() < 0.1 * alone.std()


def test_the_image_is_prepared_as_in_training(model: RT1, images: Images) -> None:
    expected_CHW = model.prepare(torch.from_numpy(images[0])[None])[0]
    np.testing.assert_array_equal(TorchEngine(model).prepare(images[0]).transpose(2, 0, 1), expected_CHW.numpy())


WITHOUT_CUDA = pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device"))


@pytest.mark.parametrize("device", ["nowhere", "meta", WITHOUT_CUDA])
def test_a_device_that_does_not_run_it_is_refused_in_one_line(device: str, model: RT1) -> None:
    with pytest.raises(ValueError, match=f"'torch' cannot run on {device}: .*Use 'torch' on cpu") as caught:
        TorchEngine(model, device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_no_tensor_of_a_step_is_made_on_another_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device an operation with a tensor of the CPU is an error."""
    with torch.device("meta"):
        model = RT1(preset(name).model)
    if model.config.embodiments:
        pytest.skip("a network of several embodiments does not act. That of one is tested")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))
    sizes = network_sizes(model)
    engine = TorchEngine(model, precision="bf16", device="meta")  # takes a step
    text_SE = np.zeros((2, sizes.text_width), np.float32)
    condition = engine.condition(text_SE, dropped=sizes.guidance)
    token_SKE, map_SKP = engine.encode(np.zeros((2, *sizes.image_size, 3), np.float32), condition)
    logits_SAV = engine.decode(token_SKE[:, None], np.zeros(2, np.int64), condition)
    assert token_SKE.shape == (2, sizes.image_tokens, sizes.token_width)
    assert map_SKP.shape == (2, sizes.image_tokens, sizes.grid[0] * sizes.grid[1])
    assert logits_SAV.shape == (2, model.config.action_tokens, model.config.bins)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_without_an_accelerator_auto_is_the_processor() -> None:
    assert acting_device("auto") == torch.device("cpu")


def test_the_network_in_lower_precision_keeps_the_logits_in_float32(model: RT1, images: Images) -> None:
    logits = _logits(TorchEngine(model, precision="bf16"), images[:1], np.ones(8, np.float32))
    assert logits.dtype == np.float32
    assert len(np.unique(logits)) > 0.9 * logits.size


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-2), ("bf16", 0.3)])
def test_a_gpu_gives_what_the_processor_gives(
    precision: Precision, most: float, model: RT1, images: Images, embedding: FloatArray
) -> None:
    expected = _logits(TorchEngine(model), images, embedding)
    logits = _logits(TorchEngine(model, precision=precision, device="cuda"), images, embedding)
    assert np.abs(logits - expected).max() / expected.std() < most


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_step_keeps_no_robot_s_results(model: RT1, images: Images, embedding: FloatArray) -> None:
    stepper = Stepper(TorchEngine(model, device="cuda"))
    states = [stepper.start(embedding) for _ in range(2)]
    logits = stepper.step(states[:1], images[:1])
    copies = logits.copy(), states[0].token_TKE.copy()
    stepper.step(states[1:], images[1:2])
    np.testing.assert_array_equal(logits, copies[0])
    np.testing.assert_array_equal(states[0].token_TKE, copies[1])
