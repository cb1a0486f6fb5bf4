"""A part that is computed again has the output, gradients and random numbers of one that is not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.model.recompute import Contexts, recomputed


def _contexts() -> Contexts:
    return nullcontext(), nullcontext()


def _gradients(*, again: bool, bf16: bool = False) -> list[Tensor]:
    torch.manual_seed(4)
    layer, x, other = nn.Linear(6, 6), torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)

    def part(x: Tensor, other: Tensor) -> Tensor:
        return F.dropout(layer(x).tanh(), 0.5) + other

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        y = recomputed(part, _contexts, x, other) if again else part(x, other)
    (y.float() ** 2).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    return [y.detach(), x.grad, layer.weight.grad, torch.rand(3)]


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_output_gradients_and_random_numbers_are_the_same(*, bf16: bool) -> None:
    for found, wanted in zip(_gradients(again=True, bf16=bf16), _gradients(again=False, bf16=bf16), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_part_learns_though_its_input_does_not() -> None:
    layer = nn.Linear(2, 2)
    recomputed(layer, _contexts, torch.randn(3, 2)).sum().backward()
    assert layer.weight.grad is not None


def test_a_part_that_does_not_learn_is_passed_over() -> None:
    layer = nn.Linear(2, 2)
    recomputed(torch.tanh, _contexts, torch.randn(3, 2)).mul(layer.weight.sum()).sum().backward()
    assert layer.weight.grad is not None


def test_an_update_with_it_does_without_torchs_compiler() -> None:
    words = """
import sys, torch
from rt1.model.recompute import recomputed
from rt1.train.adam import Adam
from contextlib import nullcontext
layer = torch.nn.Linear(2, 2)
recomputed(layer, lambda: (nullcontext(), nullcontext()), torch.randn(3, 2)).sum().backward()
optimizer = Adam([{"params": [*layer.parameters()], "lr": 0.1, "eps": 1e-8, "weight_decay": 0.0}], betas=(0.9, 0.99),
                 decoupled=True)
optimizer.step()
assert layer.weight.grad.abs().sum() > 0
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"
