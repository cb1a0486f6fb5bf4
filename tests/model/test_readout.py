"""The rows of one step's action are those of the whole sequence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from rt1.model.rt1 import RT1
from rt1.presets import preset

CONFIG = preset("debug").model
FILM = dataclasses.replace(CONFIG.transformer, condition="film", layers=1)
ATTENTION = dataclasses.replace(CONFIG.transformer, condition="cross_attention")


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": "rt1x"},
        {"mask": "step"},
        {"readout": "last_token"},
        {"readout": "mean_token"},
        {"action_tokens": 1, "mask": "rt1x"},
        {"image_tokens": 1},
        {"transformer": FILM},
        {"transformer": ATTENTION, "conditioning": "cross_attention", "mask": "rt1x"},
    ],
)
def test_one_step_s_logits_are_those_of_the_whole_window(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = RT1(dataclasses.replace(CONFIG, **changes)).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    config = model.config
    token_BTKE = torch.randn(3, config.window, config.image_tokens, config.token_width)
    condition_B, step_B = model.text(torch.randn(3, config.text_width)), torch.tensor([0, config.window - 1, 1])
    expected_BAV = model.decode(token_BTKE, condition_B)[torch.arange(3), step_B]
    logits_BAV = model.decode(token_BTKE, condition_B, step_B=step_B)
    torch.testing.assert_close(logits_BAV, expected_BAV, rtol=0, atol=2e-5)
