"""Backbones of the package timm, where it is installed; and what is said where it is not."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from rt1.model.rt1 import RT1Config
from rt1.model.timm import TimmBackbone

HAS_TIMM = importlib.util.find_spec("timm") is not None


@pytest.mark.skipif(HAS_TIMM, reason="timm is installed")
def test_a_timm_backbone_without_timm_says_what_to_install() -> None:
    with pytest.raises(ValueError, match=r"timm:resnet18 .*pip install timm"):
        RT1Config(backbone="timm:resnet18")


@pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed: it needs torchvision, which is no dependency")
@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", (64, 96)), ("vit_tiny_patch16_224", (64, 96)), ("swin_tiny_patch4_window7_224", (64, 96))],
)
def test_a_timm_model_gives_positions(name: str, size: tuple[int, int]) -> None:
    config = RT1Config(backbone=f"timm:{name}", image_size=size)
    backbone = TimmBackbone(config.backbone, size, text_width=5, output_width=7, conditioning="film").eval()
    positions = backbone(torch.randn(2, 3, *size), torch.randn(2, 5))
    assert positions.shape == (2, config.grid[0] * config.grid[1], 7)


@pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed: it needs torchvision, which is no dependency")
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_every_parameter_that_learns_has_a_gradient(name: str) -> None:
    backbone = TimmBackbone(
        f"timm:{name}", (64, 64), text_width=5, output_width=7, conditioning="cross_attention"
    ).train()
    backbone(torch.randn(2, 3, 64, 64), torch.randn(2, 4, 5)).sum().backward()
    assert [n for n, p in backbone.named_parameters() if (p.grad is None) == p.requires_grad] == []


@pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed: it needs torchvision, which is no dependency")
@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet19", (64, 64), r"timm has no model 'resnet19'. It has, for instance, resnet18"),
        ("mvitv2_tiny", (64, 96), r"does not take images of 64x96 \(.*\). It was made for 224x224"),
        ("mixer_s32_224", (224, 224), r"gives \[49, 512\] for an image of 224x224.*Use another model"),
    ],
)
def test_what_timm_cannot_give_is_refused(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RT1Config(backbone=f"timm:{name}", image_size=size)
