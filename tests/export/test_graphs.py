"""The two graphs: together they are the network, and each holds its own half of the weights only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rt1.checkpoint import load_model
from rt1.export.graphs import Programs, trace
from rt1.model.rt1 import RT1

Traced = tuple[RT1, Programs]


def _text(model: RT1) -> torch.Tensor:
    """Return a text embedding as the network takes it: a vector, or ids of word pieces."""
    vocabulary, shape = model.config.text.vocabulary, (1, model.config.text_width)
    return torch.randint(1, vocabulary, shape).float() if vocabulary else torch.randn(shape)


@pytest.fixture(scope="module", params=["rt1", "rt1x", "maxvit", "word pieces"])
def traced(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Traced:
    model = load_model(checkpoint(request.param))
    return model, trace(model)


@torch.no_grad()
def test_the_tokenizer_graph_gives_the_image_tokens(traced: Traced) -> None:
    model, programs = traced
    image_1HWC, text_1E = torch.rand(1, *model.config.image_size, 3), _text(model)
    wanted = model.encode(image_1HWC.permute(0, 3, 1, 2), model.text(text_1E))
    torch.testing.assert_close(programs.tokenizer.module()(image_1HWC, text_1E), wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_decoder_graph_gives_each_step_whatever_lies_behind_it(traced: Traced) -> None:
    model, programs = traced
    config = model.config
    token_1TKE = torch.randn(1, config.window, config.image_tokens, config.token_width)
    decoder, text_1E = programs.decoder.module(), _text(model)
    conditioned = config.transformer.condition is not None
    for step in range(config.window):
        behind_1TKE = token_1TKE.clone()
        behind_1TKE[:, step + 1 :] = 1e3
        given = decoder(behind_1TKE, torch.tensor([step]), *([text_1E] if conditioned else []))
        torch.testing.assert_close(given, model.decode(token_1TKE, model.text(text_1E))[:, step], rtol=0, atol=1e-5)


def test_no_weight_but_the_texts_is_in_both_graphs_and_none_is_lost(traced: Traced) -> None:
    model, programs = traced
    halves = [{name for name, _ in program.named_parameters()} for _, program in programs.named]
    assert all(name.startswith("model.text.") for name in halves[0] & halves[1])
    assert {name.removeprefix("model.") for name in halves[0] | halves[1]} == {n for n, _ in model.named_parameters()}


def test_tracing_leaves_the_network_as_it_was(traced: Traced) -> None:
    model, _ = traced
    for part in (model.backbone, model.token_learner, model.transformer):
        assert sum(p.numel() for p in part.parameters()) > 0
