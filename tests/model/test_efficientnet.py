"""The FiLM-EfficientNet against Google's layers, in inference and training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.reference.expand import compared

from rt1.model.conditioning import FiLM
from rt1.model.efficientnet import (
    SCALING,
    EfficientNetConfig,
    FiLMEfficientNet,
    MBConv,
    Stage,
)
from rt1.model.layers import BatchNorm
from rt1.pretrained.imagenet_names import keras_names
from rt1.pretrained.layout import Weight, pixel_mean, pixel_std, to_torch

TINY = EfficientNetConfig(
    width=1.0,
    depth=1.0,
    drop_connect=0.0,
    stages=(
        Stage(kernel=3, stride=1, expand=1, channels=8, blocks=1),
        Stage(kernel=3, stride=2, expand=6, channels=16, blocks=2),
        Stage(kernel=5, stride=2, expand=6, channels=24, blocks=2),
        Stage(kernel=3, stride=2, expand=6, channels=24, blocks=1),
    ),
)


class Tiny:
    """The recorded network of six blocks, and its normalised inputs."""

    def __init__(self, reference: Path) -> None:
        self.unit = dict(np.load(reference / "unit" / "tiny_film_efficientnet.npz"))
        self.net = FiLMEfficientNet(TINY, text_width=512, output_width=4)
        weights = [Weight(name=w.name, key=w.key, kind=w.kind) for w in keras_names(TINY)]
        for index in range(6):
            layer = "film_conditioning" + (f"_{index}" if index else "")
            for theirs, ours in (("add", "add"), ("mult", "multiply")):
                name, key = f"{layer}/_projection_{theirs}", f"blocks.{index}.film.{ours}"
                weights.append(Weight(name=f"{name}/kernel", key=f"{key}.weight", kind="dense"))
                weights.append(Weight(name=f"{name}/bias", key=f"{key}.bias"))
        state = self.net.state_dict()
        for weight in weights:
            state[weight.key].copy_(to_torch(self.unit[f"w/{weight.name}"], weight.kind, state[weight.key].shape))
        self.text = torch.from_numpy(self.unit["context"])
        self.norms = [w for w in weights if w.key.endswith(("running_mean", "running_var"))]

    def image(self, name: str) -> torch.Tensor:
        mean = pixel_mean(self.unit["w/normalization/mean"])
        std = pixel_std(self.unit["w/normalization/variance"])
        return torch.from_numpy(((self.unit[name] / 255.0 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)


def check_close(ours: torch.Tensor, unit: dict[str, NDArray[np.float32]], name: str, share: float = 5e-5) -> None:
    """Compare (X, C, H, W) with a recorded (X, H, W, C), relative to the recording's spread."""
    values, recorded = compared(ours.detach().permute(0, 2, 3, 1).numpy(), unit, name)
    assert np.abs(values - recorded).max() <= share * max(float(recorded.std()), 1.0)


def test_the_recorded_film_layer_is_reproduced(reference: Path) -> None:
    unit = dict(np.load(reference / "unit" / "film.npz"))
    film = FiLM(512, 24)
    state = film.state_dict()
    for theirs, ours in (("add", "add"), ("mult", "multiply")):
        state[f"{ours}.weight"].copy_(torch.from_numpy(unit[f"w/_projection_{theirs}/kernel"].T))
        state[f"{ours}.bias"].copy_(torch.from_numpy(unit[f"w/_projection_{theirs}/bias"]))
    x = torch.from_numpy(unit["x"]).permute(0, 3, 1, 2)
    check_close(film(x, torch.from_numpy(unit["context"])), unit, "out")


def recorded_batch_norm(unit: dict[str, NDArray[np.float32]], config: EfficientNetConfig) -> BatchNorm:
    norm = BatchNorm(
        6, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum, unbiased=config.unbiased_moving_variance
    )
    norm.load_state_dict(
        {
            "weight": torch.from_numpy(unit["gamma"]),
            "bias": torch.from_numpy(unit["beta"]),
            "running_mean": torch.from_numpy(unit["moving_mean"]),
            "running_var": torch.from_numpy(unit["moving_variance"]),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    return norm


def test_the_recorded_batch_norm_is_reproduced_with_its_updated_statistics(reference: Path) -> None:
    unit = dict(np.load(reference / "unit" / "batchnorm.npz"))
    norm = recorded_batch_norm(unit, EfficientNetConfig())
    x = torch.from_numpy(unit["x"]).permute(0, 3, 1, 2)
    check_close(norm.eval()(x), unit, "y_inference")
    check_close(norm.train()(x), unit, "y_training")
    assert norm.running_mean is not None
    assert norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean.numpy(), unit["after_moving_mean"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(norm.running_var.numpy(), unit["after_moving_variance"], rtol=1e-6, atol=1e-7)


def test_the_biased_moving_variance_is_that_of_the_batch(reference: Path) -> None:
    unit = dict(np.load(reference / "unit" / "batchnorm.npz"))
    norm = recorded_batch_norm(unit, EfficientNetConfig(unbiased_moving_variance=False))
    norm.train()(torch.from_numpy(unit["x"]).permute(0, 3, 1, 2))
    expected = 0.99 * unit["moving_variance"] + 0.01 * unit["x"].var(axis=(0, 1, 2))
    assert norm.running_var is not None
    np.testing.assert_allclose(norm.running_var.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("size", ["x75", "x64x80"])
def test_the_recorded_network_is_reproduced_block_by_block(reference: Path, size: str) -> None:
    tiny = Tiny(reference)
    net = tiny.net.eval()
    seen: list[torch.Tensor] = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    features = net.features(tiny.image(size), tiny.text)
    stem = torch.nn.functional.silu(net.stem_norm(net.stem(tiny.image(size))))
    sizes = [[*t.shape[2:], t.shape[1]] for t in (stem, *seen, features)]
    assert sizes == tiny.unit[f"{size}/shapes"].tolist()
    check_close(features, tiny.unit, f"{size}/out")
    names = ["stem", *(f"block{index}_film" for index in range(6))]
    for name, output, stride in zip(names, [stem, *seen], (4, 2, 1, 1, 1, 1, 1), strict=True):  # recorded with gaps
        check_close(output[:, :, ::stride, ::stride], tiny.unit, f"{size}/{name}")


def test_training_mode_and_the_updated_statistics_are_reproduced(reference: Path) -> None:
    tiny = Tiny(reference)
    features = tiny.net.train().features(tiny.image("x75"), tiny.text)
    check_close(features, tiny.unit, "out75_train", 1e-4)
    state = tiny.net.state_dict()
    for weight in tiny.norms:
        recorded = tiny.unit[f"after_train/{weight.name}"]
        np.testing.assert_allclose(state[weight.key].numpy(), recorded, rtol=1e-4, atol=1e-5)


def test_rt1s_padding_gives_nine_by_nine_positions_and_same_padding_ten_by_ten() -> None:
    assert EfficientNetConfig().grid((300, 300)) == (9, 9)
    assert EfficientNetConfig(padding="same").grid((300, 300)) == (10, 10)


def test_the_grid_is_the_size_of_the_feature_map() -> None:
    for padding in ("rt1", "same"):
        config = EfficientNetConfig(width=0.25, depth=0.5, padding=padding, drop_connect=0.0)
        net = FiLMEfficientNet(config, text_width=4, output_width=4).eval()
        for size in ((64, 80), (75, 61)):
            features = net.features(torch.zeros(1, 3, *size), torch.zeros(1, 4))
            assert tuple(features.shape[2:]) == config.grid(size)


def test_b3_has_the_blocks_and_channels_of_the_paper() -> None:
    config = EfficientNetConfig()
    blocks = [(config.blocks(s.blocks), config.channels(s.channels)) for s in config.stages]
    assert blocks == [(2, 24), (3, 32), (3, 48), (5, 96), (5, 136), (6, 232), (2, 384)]
    assert (config.channels(config.stem_channels), config.output_channels) == (40, 1536)
    assert SCALING["b3"] == (1.2, 1.4)


def test_the_instruction_changes_nothing_at_the_start() -> None:
    net = FiLMEfficientNet(TINY, text_width=8, output_width=4).eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(net(image, torch.zeros(1, 8)), net(image, torch.randn(1, 8)))


def test_drop_connect_drops_whole_branches_and_keeps_the_mean() -> None:
    config = EfficientNetConfig(stages=(Stage(kernel=3, stride=1, expand=1, channels=24, blocks=2),), top_channels=None)
    net = FiLMEfficientNet(config, text_width=4, output_width=4).train()
    block = net.blocks[-1]
    assert isinstance(block, MBConv)
    torch.manual_seed(0)
    rate = config.drop_connect * 2 / 3
    kept = torch.cat([block.drop_branch(torch.ones(500, 1, 1, 1)).flatten() for _ in range(8)])
    assert sorted(set(kept.tolist())) == pytest.approx([0.0, 1 / (1 - rate)])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.03)
    net.eval()
    assert torch.equal(block.drop_branch(torch.ones(5, 1, 1, 1)), torch.ones(5, 1, 1, 1))


@pytest.mark.parametrize(
    ("name", "value"), [("kernel", 4), ("kernel", -1), ("stride", 3), ("expand", 0), ("blocks", 0)]
)
def test_a_stage_that_makes_no_network_is_refused(name: str, value: int) -> None:
    stage = Stage(kernel=3, stride=1, expand=1, channels=8, blocks=1)
    with pytest.raises(ValueError, match=f"{name} is {value}, must be"):
        dataclasses.replace(stage, **{name: value})
    with pytest.raises(ValueError, match="stages is empty"):
        EfficientNetConfig(stages=())


def test_a_drop_connect_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="drop_connect is 1"):
        EfficientNetConfig(drop_connect=1.0)
