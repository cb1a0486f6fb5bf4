"""The graphs: together they are the network, and each holds its own part of the weights only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rt1.checkpoint import load_model
from rt1.model.rt1 import RT1
from rt1.policy.export.graphs import Programs, trace

Traced = tuple[RT1, Programs]


def _text(model: RT1, robots: int) -> torch.Tensor:
    """Return a text embeddings as the network takes them: a vector, or ids of word pieces."""
    vocabulary, shape = model.config.text.vocabulary, (robots, model.config.text_width)
    return torch.randint(1, vocabulary, shape).float() if vocabulary else torch.randn(shape)


def _condition(model: RT1, programs: Programs, text_SE: torch.Tensor) -> torch.Tensor:
    dropped = [torch.zeros(len(text_SE), dtype=torch.bool)] if model.config.text.drop else []
    return programs.condition.module()(text_SE, *dropped)


@pytest.fixture(scope="module", params=["rt1", "rt1x", "maxvit", "word pieces"])
def traced(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Traced:
    model = load_model(checkpoint(request.param))
    return model, trace(model)


@torch.no_grad()
@pytest.mark.parametrize("robots", [1, 3])
def test_the_graphs_together_are_the_network_for_any_number_of_robots(traced: Traced, robots: int) -> None:
    model, programs = traced
    config = model.config
    text_SE, image_SHWC = _text(model, robots), torch.rand(robots, *config.image_size, 3)
    condition = _condition(model, programs, text_SE)
    token_SKE, map_SKP = programs.tokenizer.module()(image_SHWC, condition)
    position = model.positions(image_SHWC.permute(0, 3, 1, 2), model.text(text_SE))
    expected_SKE, expected_SKP = model.token_learner.pool(position)
    torch.testing.assert_close(token_SKE, expected_SKE, rtol=0, atol=1e-5)
    torch.testing.assert_close(map_SKP, expected_SKP, rtol=0, atol=1e-5)
    token_STKE = torch.randn(robots, config.window, config.image_tokens, config.token_width)
    step_S = torch.arange(robots) % config.window
    later = torch.arange(config.window)[None] > step_S[:, None]
    logits_SAV = programs.decoder.module()(token_STKE.masked_fill(later[..., None, None], 1e3), step_S, condition)
    expected_SAV = model.decode(token_STKE, model.text(text_SE))[torch.arange(robots), step_S]
    torch.testing.assert_close(logits_SAV, expected_SAV, rtol=0, atol=1e-5)


def test_no_weight_is_in_two_graphs(traced: Traced) -> None:
    _, programs = traced
    names = [name for _, program in programs.named for name, _ in program.named_parameters()]
    assert len(names) == len(set(names)) > 0


def test_tracing_leaves_the_network_as_it_was(traced: Traced) -> None:
    model, _ = traced
    for part in (model.backbone, model.token_learner, model.transformer):
        assert sum(p.numel() for p in part.parameters()) > 0
