"""MaxViT of timm to our backbone: the same features, the sizes read off the file, and what is refused.

``maxvit_timm.npz`` holds a small MaxViT of timm 1.0.31 (settings of its ``maxvit_tiny_tf_224``, but stages of 1 and 2
blocks, 8 and 16 channels, heads of 8, groups of 2x2), every tensor of it random, two images of 16x32 and its features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rt1.model.maxvit import MaxViTConfig
from rt1.model.rt1 import RT1, RT1Config
from rt1.model.transformer import TransformerConfig
from rt1.pretrained.convert import convert_imagenet, load_imagenet

GOLDEN = Path(__file__).with_name("maxvit_timm.npz")
SIZES = MaxViTConfig(stem_channels=8, channels=(8, 16), depths=(1, 2), partition=2, head_width=8)
FIRST_TABLE = "stages.0.blocks.0.attn_block.attn.rel_pos.relative_position_bias_table"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    with np.load(GOLDEN) as golden:
        return {name.removeprefix("weights/"): torch.from_numpy(golden[name]) for name in golden if "/" in name}


@pytest.fixture
def converted(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    save_file(weights, tmp_path / "timm.safetensors")
    convert_imagenet(tmp_path / "timm.safetensors", tmp_path / "backbone.safetensors")
    return tmp_path / "backbone.safetensors"


def _network(maxvit: MaxViTConfig = SIZES) -> RT1:
    torch.manual_seed(0)
    transformer = TransformerConfig(layers=1, width=8, heads=1, head_width=8)
    return RT1(RT1Config(backbone="maxvit", maxvit=maxvit, image_size=(16, 32), text_width=4, transformer=transformer))


def test_the_features_are_those_of_timm(converted: Path) -> None:
    model = _network().eval()
    load_imagenet(model, converted)
    with np.load(GOLDEN) as golden, torch.inference_mode():
        features = model.backbone.features(torch.from_numpy(golden["image"]), torch.randn(2, 4))
        np.testing.assert_allclose(features.numpy(), golden["features"], rtol=1e-4, atol=1e-5)


def test_every_tensor_is_used_or_skipped_with_a_reason(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "timm.pth")
    report = convert_imagenet(tmp_path / "timm.pth", tmp_path / "backbone.safetensors")
    assert report.format == "MaxViT of timm"
    counts = {reason: len(names) for reason, names in report.skipped.items()}
    assert counts == {"counter": 10, "classifier of ImageNet": 6}
    assert len(report.used) + sum(counts.values()) == len(weights)
    filled = load_file(tmp_path / "backbone.safetensors")
    assert report.parameters == {"maxvit": sum(t.numel() for k, t in filled.items() if "running_" not in k)}


def test_the_sizes_are_read_off_the_file_and_said_as_options(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, tmp_path / "timm.safetensors")
    report = convert_imagenet(tmp_path / "timm.safetensors", tmp_path / "backbone.safetensors")
    assert report.configuration == (
        "MaxViT: --model.backbone maxvit --model.maxvit.stem-channels 8 --model.maxvit.channels 8 16 "
        "--model.maxvit.depths 1 2 --model.maxvit.partition 2 --model.maxvit.head-width 8"
    )
    assert "Images are multiples of 16 pixels" in report.notes[0]


def test_only_what_imagenet_knows_is_filled(converted: Path) -> None:
    model, before = _network(), _network().state_dict()
    load_imagenet(model, converted)
    filled = load_file(converted)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, filled.get(name.removeprefix("backbone."), before[name])), name


def test_a_network_of_other_sizes_is_refused_with_the_options_that_fit(converted: Path) -> None:
    other = MaxViTConfig(stem_channels=8, channels=(8, 16), depths=(1, 1), partition=2, head_width=8)
    with pytest.raises(ValueError, match=r"MaxViT: .*--model\.maxvit\.depths 1 2.*46 tensors"):
        load_imagenet(_network(other), converted)
    efficientnet = RT1(RT1Config(text_width=4))
    with pytest.raises(ValueError, match=r"backbone .*efficientnet"):
        load_imagenet(efficientnet, converted)


def test_a_missing_tensor_is_named(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    for missing, message in (
        ("stages.1.blocks.1.attn_grid.mlp.fc2.bias", "has no 'stages.1.blocks.1.attn_grid.mlp.fc2.bias', which MaxViT"),
        (FIRST_TABLE, "there is no 'stages.0.blocks.0.attn_block.attn.rel_pos.relative_position_bias_table'"),
    ):
        save_file({k: v for k, v in weights.items() if k != missing}, tmp_path / "timm.safetensors")
        with pytest.raises(ValueError, match=message):
            convert_imagenet(tmp_path / "timm.safetensors", tmp_path / "backbone.safetensors")
        assert not (tmp_path / "backbone.safetensors").exists()


def test_a_tensor_of_another_shape_is_named(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    name = "stages.1.blocks.0.attn_block.attn.proj.weight"
    save_file({**weights, name: torch.zeros(16, 8)}, tmp_path / "timm.safetensors")
    with pytest.raises(ValueError, match=r"attn\.proj\.weight' .*\[16, 8\].*\[16, 16\]"):
        convert_imagenet(tmp_path / "timm.safetensors", tmp_path / "backbone.safetensors")


def test_timms_own_variants_are_refused_by_their_bias_table(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file({**weights, FIRST_TABLE: torch.zeros(9, 1)}, tmp_path / "timm.safetensors")
    with pytest.raises(ValueError, match=r"\[9, 1\].*maxvit_\*_tf_\*"):
        convert_imagenet(tmp_path / "timm.safetensors", tmp_path / "backbone.safetensors")
