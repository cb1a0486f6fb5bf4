"""Counting parameters."""

from __future__ import annotations

import torch

from rt1.model.conditioning import TextConfig
from rt1.model.maxvit import MaxViTConfig
from rt1.model.parameters import parameter_counts
from rt1.model.rt1 import RT1, RT1Config


def test_the_parameters_are_counted_as_in_the_paper() -> None:
    with torch.device("meta"):
        counts = parameter_counts(RT1(RT1Config()))
    assert counts == {
        "efficientnet": 10_696_232,
        "block_films": 3_701_808,
        "projection": 786_432,
        "last_film": 525_312,
        "token_learner": 34_376,
        "transformer": 19_376_384,
        "total": 35_120_544,
    }


def test_another_backbone_is_counted_under_its_own_name() -> None:
    small = MaxViTConfig(stem_channels=8, channels=(8, 16), depths=(1, 1), partition=2, head_width=8)
    with torch.device("meta"):
        model = RT1(RT1Config(backbone="maxvit", maxvit=small, image_size=(16, 16), text=TextConfig(projection=4)))
    counts = parameter_counts(model)
    assert set(counts) == {
        "text",
        "maxvit",
        "block_films",
        "projection",
        "last_film",
        "token_learner",
        "transformer",
        "total",
    }
    assert counts["text"] == 512 * 4 + 4
    assert counts["total"] == sum(p.numel() for p in model.parameters())
