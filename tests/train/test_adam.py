"""The optimizer makes the steps of torch's own classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rt1.train.adam import Adam


def _weights() -> list[nn.Parameter]:
    torch.manual_seed(5)
    return [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(2))]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
def test_its_steps_are_torchs_bit_for_bit(kind: type[torch.optim.Adam]) -> None:
    decoupled = kind is torch.optim.AdamW
    own, other = _weights(), _weights()
    groups = [{"weight_decay": 0.1, "lr": 0.01, "eps": 1e-7}, {"weight_decay": 0.0, "lr": 0.02, "eps": 1e-7}]
    split = [slice(0, 1), slice(1, 3)]
    mine = Adam(
        [{**g, "params": own[s]} for g, s in zip(groups, split, strict=True)], betas=(0.9, 0.99), decoupled=decoupled
    )
    torchs = kind(
        [{**g, "params": other[s]} for g, s in zip(groups, split, strict=True)], betas=(0.9, 0.99), fused=True
    )
    for step in range(5):
        mine.param_groups[0]["lr"] = torchs.param_groups[0]["lr"] = 0.01 * (step + 1)
        for weights in (own, other):
            for number, weight in enumerate(weights):
                weight.grad = None if number == 2 and step < 2 else torch.full_like(weight, 0.3 + step * number)
        mine.step()
        torchs.step()
    for one, two in zip(own, other, strict=True):
        assert torch.equal(one, two)
        assert all(torch.equal(mine.state[one][name], torchs.state[two][name]) for name in mine.state[one])


def test_it_lets_go_of_gradients() -> None:
    weights = _weights()
    optimizer = Adam([{"params": weights}], betas=(0.9, 0.99), decoupled=True)
    weights[0].grad = torch.ones(3, 4)
    optimizer.zero_grad()
    assert weights[0].grad is None
