"""The network as two graphs of fixed shapes: image to image tokens, window to logits.

Shape letters: T window, C channels, H height, W width, K tokens per image, E text or token width, A action
dimensions, V bins.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rt1.model.rt1 import RT1, RT1Config


class TokenizerGraph(nn.Module):
    """The image half of the network."""

    def __init__(self, model: RT1) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Turn a prepared image (1, H, W, C) in [0, 1] and a text embedding (1, E) into image tokens (1, K, E)."""
        return self.model.encode(image.permute(0, 3, 1, 2), self.model.text(text))


class DecoderGraph(nn.Module):
    """The transformer half of the network."""

    def __init__(self, model: RT1) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, step: Tensor, text: Tensor | None = None) -> Tensor:
        """Turn image tokens (1, T, K, E) into the logits (1, A, V) of one step, int64 (1,) in 0..T-1.

        The window always has full length: image tokens after ``step`` are ignored. The text embedding (1, E) is an
        input only where the transformer is conditioned on it.
        """
        condition = None if text is None else self.model.text(text)
        return self.model.decode(tokens, condition).index_select(1, step).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """Both graphs, traced."""

    tokenizer: ExportedProgram
    decoder: ExportedProgram

    @property
    def named(self) -> tuple[tuple[str, ExportedProgram], tuple[str, ExportedProgram]]:
        """Name and graph, the tokenizer first."""
        return ("tokenizer", self.tokenizer), ("decoder", self.decoder)


def trace(model: RT1) -> Programs:
    """Trace a network in evaluation mode for one image at a time."""
    image_half, token_half = _without(model, "transformer"), _without(model, "backbone", "token_learner")
    with torch.no_grad():
        return Programs(
            tokenizer=torch.export.export(TokenizerGraph(image_half).eval(), _tokenizer_inputs(model.config)),
            decoder=torch.export.export(DecoderGraph(token_half).eval(), _decoder_inputs(model.config)),
        )


def _without(model: RT1, *parts: str) -> RT1:
    """Return a copy without some parts, so that each graph's file holds only its own weights."""
    half = copy.deepcopy(model)
    for part in parts:
        half.add_module(part, nn.Identity())
    return half


def _tokenizer_inputs(config: RT1Config) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, *config.image_size, 3), torch.zeros(1, config.text_width)


def _decoder_inputs(config: RT1Config) -> tuple[Tensor, ...]:
    token_1TKE = torch.zeros(1, config.window, config.image_tokens, config.token_width)
    text = () if config.transformer.condition is None else (torch.zeros(1, config.text_width),)
    return (token_1TKE, torch.zeros(1, dtype=torch.int64), *text)
