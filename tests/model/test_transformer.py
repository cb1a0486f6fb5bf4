"""The causal transformer: Google's mask and numbers, and the feed-forward of RT-1-X."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from rt1.model.rt1 import RT1, RT1Config
from rt1.model.transformer import (
    Attention,
    FeedForward,
    Layer,
    Transformer,
    TransformerConfig,
    attention_mask,
)
from rt1.pretrained.layout import Weight, fill
from rt1.pretrained.tensorflow import TRANSFORMER, variables

SHAPES = [(6, 8, 11), (3, 8, 8), (2, 3, 2), (1, 8, 11)]


@pytest.mark.parametrize(("window", "image", "action"), SHAPES)
def test_the_mask_is_googles(reference: Path, window: int, image: int, action: int) -> None:
    unit = np.load(reference / "unit" / "attention_mask.npz")
    expected = unit[f"mask_T{window}_img{image}_act{action}"].astype(bool)
    np.testing.assert_array_equal(attention_mask(window, image, action, "rt1").numpy(), expected)


def test_no_row_of_the_rt1x_mask_sees_an_action_token_and_none_is_empty() -> None:
    mask = attention_mask(3, 4, 2, "rt1x")
    is_action = torch.arange(18) % 6 >= 4
    assert not mask[:, is_action].any()
    assert mask[~is_action][:, ~is_action].equal(torch.ones(12, 12).tril().bool())
    assert mask.any(dim=1).all()


def tiny_transformer(reference: Path) -> tuple[Transformer, dict[str, NDArray[Any]]]:
    unit = dict(np.load(reference / "unit" / "tiny_transformer.npz"))
    config = RT1Config(
        window=3,
        token_width=24,
        bins=32,
        image_tokens=4,
        action_tokens=5,
        transformer=TransformerConfig(layers=2, width=40, heads=3, head_width=16),
    )
    model = RT1(config).eval().requires_grad_(requires_grad=False)
    # The recording names Keras' projections query, key, value, attention_output; checkpoints _query_dense and so on.
    renamed = {f"_{part}_dense": part for part in ("query", "key", "value")} | {"_output_dense": "attention_output"}

    def read(name: str) -> NDArray[Any]:
        parts = [renamed.get(part, part) for part in name.removeprefix(TRANSFORMER).split("/")]
        return unit["w/" + "/".join(parts)]

    weights = [w for w in variables(config) if isinstance(w, Weight) and w.name.startswith(TRANSFORMER)]
    fill(model, weights, read)
    return model.transformer, unit


def test_the_recorded_transformer_is_reproduced(reference: Path) -> None:
    transformer, unit = tiny_transformer(reference)
    attended: list[torch.Tensor] = []

    def attend(layer: Attention, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        query, key, _ = layer.project(inputs[0])
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        attended.append(scores.masked_fill(~inputs[1], -torch.inf).softmax(-1))

    for layer in transformer.layers:
        assert isinstance(layer, Layer)
        layer.attention.register_forward_pre_hook(attend)
    mask = torch.from_numpy(unit["mask"]).bool()
    logits = transformer.output(transformer.hidden(torch.from_numpy(unit["x"]), mask))
    np.testing.assert_allclose(logits.numpy(), unit["logits"], rtol=0, atol=2e-5)
    for index, probabilities in enumerate(attended):
        expected = unit[f"attention_layer{index}"]
        np.testing.assert_allclose(probabilities.numpy(), expected, rtol=0, atol=2e-6)


def test_swiglu_is_the_formula_of_rt1x() -> None:
    config = TransformerConfig(width=6, heads=2, head_width=4, hidden=10, feed_forward="swiglu")
    feed_forward = Layer(config).feed_forward
    x = torch.randn(2, 3, 6)
    state = feed_forward.state_dict()
    expected = (F.silu(x @ state["w1.weight"].T) * (x @ state["gate.weight"].T)) @ state["w2.weight"].T
    torch.testing.assert_close(feed_forward(x), expected)


@pytest.mark.parametrize(("kind", "parameters"), [("linear", 36 + 6), ("linear_no_bias", 36), ("swiglu", 3 * 60)])
def test_each_feed_forward_has_the_parameters_of_its_code(kind: FeedForward, parameters: int) -> None:
    layer = Layer(TransformerConfig(width=6, heads=2, head_width=4, hidden=10, feed_forward=kind))
    assert sum(p.numel() for p in layer.feed_forward.parameters()) == parameters


def test_dropout_acts_in_training_only() -> None:
    layer = Layer(TransformerConfig(width=8, heads=2, head_width=4, dropout=0.5))
    x, mask = torch.randn(1, 5, 8), torch.ones(5, 5).tril().bool()
    torch.manual_seed(0)
    assert not torch.equal(layer(x, mask), layer(x, mask))
    layer.eval()
    assert torch.equal(layer(x, mask), layer(x, mask))


@pytest.mark.parametrize("settings", [{"layers": 0}, {"head_width": 0}, {"dropout": 1.0}])
def test_sizes_that_make_no_transformer_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TransformerConfig(**settings)
