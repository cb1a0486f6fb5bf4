"""TokenLearner against the numbers of Google's layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tests.reference.expand import compared
from torch import nn

from rt1.model.token_learner import TokenLearner


def test_the_recorded_layer_is_reproduced(reference: Path) -> None:
    unit = dict(np.load(reference / "unit" / "token_learner.npz"))
    learner = TokenLearner(512, tokens=8, hidden=64).requires_grad_(requires_grad=False)
    for layer, name in ((learner.hidden, "mlp/_hidden_layer"), (learner.maps, "mlp/_output_layer")):
        layer.weight.copy_(torch.from_numpy(unit[f"w/{name}/kernel"].T))
        layer.bias.copy_(torch.from_numpy(unit[f"w/{name}/bias"]))
    learner.norm.weight.copy_(torch.from_numpy(unit["w/layernorm/gamma"]))
    learner.norm.bias.copy_(torch.from_numpy(unit["w/layernorm/beta"]))
    x = torch.from_numpy(unit["x"])
    np.testing.assert_allclose(learner.attention(x).numpy(), unit["attention"], rtol=0, atol=1e-5)
    ours, recorded = compared(learner(x).numpy(), unit, "out")
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=5e-5)


def test_the_gelu_is_googles_tanh_form(reference: Path) -> None:
    unit = np.load(reference / "unit" / "gelu.npz")
    ours = F.gelu(torch.from_numpy(unit["x"]), approximate="tanh").numpy()
    np.testing.assert_allclose(ours, unit["y"], rtol=0, atol=1e-6)


def test_the_layer_norm_has_googles_eps(reference: Path) -> None:
    unit = np.load(reference / "unit" / "layernorm_eps.npz")
    norm = nn.LayerNorm(512, eps=TokenLearner(512, tokens=8, hidden=64).norm.eps)
    norm.weight.data = torch.from_numpy(unit["gamma"])
    norm.bias.data = torch.from_numpy(unit["beta"])
    ours = norm(torch.from_numpy(unit["x"])).detach().numpy()
    np.testing.assert_allclose(ours, unit["y"], rtol=0, atol=2e-4)


def test_each_token_weighs_the_positions_with_a_sum_of_one() -> None:
    learner = TokenLearner(16, tokens=3, hidden=8)
    attention = learner.attention(torch.randn(2, 20, 16))
    assert attention.shape == (2, 3, 20)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3))


def test_half_precision_weights_are_normalised_in_float32() -> None:
    learner = TokenLearner(16, tokens=3, hidden=8).bfloat16()
    x = torch.randn(2, 20, 16, dtype=torch.bfloat16)
    assert learner.attention(x).dtype == torch.float32
    assert learner(x).dtype == torch.bfloat16
