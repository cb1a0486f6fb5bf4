"""The network as three graphs: text to condition, image to image tokens, window to logits.

All shapes but the number of robots are fixed.

Shape letters: S robots, T window, C channels, H height, W width, K tokens per image, P positions, E text or token
width, A action dimensions, V bins.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rt1.model.inference import ActingNetwork
from rt1.model.rt1 import RT1

MOST_ROBOTS = 4096
_ROBOTS = 2
"""Robots in the inputs of a trace, which must not look like a constant."""


class ConditionGraph(nn.Module):
    """The text's part of the network, for the start of an episode."""

    def __init__(self, network: ActingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, text: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Turn text embeddings (S, E) into the condition, that of no text where ``dropped``, bool (S,), is True."""
        return self.network.condition(text, dropped)


class TokenizerGraph(nn.Module):
    """The image's part of the network."""

    def __init__(self, network: ActingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Turn prepared images (S, H, W, C) in [0, 1] into image tokens (S, K, E) and attention maps (S, K, P)."""
        return self.network.encode(image.permute(0, 3, 1, 2), condition)


class DecoderGraph(nn.Module):
    """The transformer."""

    def __init__(self, network: ActingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Turn image tokens (S, T, K, E) into the logits (S, A, V) of one step of each robot, int64 (S,) in 0..T-1.

        The window always has full length: image tokens after ``step`` are ignored.
        """
        return self.network.decode(tokens, step, condition)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """All graphs, traced."""

    condition: ExportedProgram
    tokenizer: ExportedProgram
    decoder: ExportedProgram

    @property
    def named(self) -> tuple[tuple[str, ExportedProgram], ...]:
        """Name and graph, in order."""
        return tuple(vars(self).items())


def trace(model: RT1) -> Programs:
    """Trace a network in evaluation mode for any number of robots at a time."""
    config = model.config
    with torch.no_grad():
        network = ActingNetwork(model).eval()
        text, step = torch.zeros(_ROBOTS, config.text_width), torch.zeros(_ROBOTS, dtype=torch.int64)
        dropped = (torch.zeros(_ROBOTS, dtype=torch.bool),) if config.text.drop else ()
        image = torch.zeros(_ROBOTS, *config.image_size, 3)
        tokens = torch.zeros(_ROBOTS, config.window, config.image_tokens, config.token_width)
        condition = network.condition(text)
        rest = ("transformer", "backbone", "token_learner")
        return Programs(
            condition=_trace(ConditionGraph(_without(network, *rest)), text, *dropped),
            tokenizer=_trace(TokenizerGraph(_without(network, "text", "transformer")), image, condition),
            decoder=_trace(DecoderGraph(_without(network, "text", *rest[1:])), tokens, step, condition),
        )


def _trace(graph: nn.Module, *inputs: Tensor) -> ExportedProgram:
    robots = Dim("robots", min=1, max=MOST_ROBOTS)
    names = list(graph.forward.__code__.co_varnames[1 : 1 + len(inputs)])
    return torch.export.export(graph.eval(), inputs, dynamic_shapes={name: {0: robots} for name in names})


def _without(network: ActingNetwork, *parts: str) -> ActingNetwork:
    """Return a copy without some parts of the network, so that each graph's file holds only its own weights."""
    part = copy.deepcopy(network)
    for name in parts:
        part.network.add_module(name, nn.Identity())
    if "text" in parts and part.films is not None:
        part.add_module("films", nn.Identity())
    return part
