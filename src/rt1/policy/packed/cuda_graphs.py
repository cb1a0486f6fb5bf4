"""CUDA graphs: a function of tensors is recorded once for each shape of its inputs, then replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
"""Tensors to one tensor or a tuple of them."""
_WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Any


class Graphs:
    """A function on CUDA tensors, replayed without the processor's time between its kernels. Not thread-safe."""

    def __init__(self, function: Function) -> None:
        """Take a function whose kernels depend on its inputs' shapes alone, not on what they hold."""
        self._function = function
        self._recorded: dict[tuple[torch.Size, ...], _Recorded] = {}

    def __call__(self, *inputs: Tensor) -> Any:  # noqa: ANN401 (what the function returns)
        """Return what the function returns, in memory of its own."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(inputs)
        recorded = self._recorded[shapes]
        for kept, new in zip(recorded.inputs, inputs, strict=True):
            kept.copy_(new)
        recorded.graph.replay()
        if isinstance(recorded.outputs, tuple):
            return tuple(output.clone() for output in recorded.outputs)
        return recorded.outputs.clone()

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recorded:
        kept = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # the libraries choose their kernels in the first calls, which graphs cannot
            for _ in range(_WARM_UP):
                self._function(*kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*kept)
        return _Recorded(graph=graph, inputs=kept, outputs=outputs)
