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
    """A function on CUDA tensors, replayed without CPU time between its kernels. Not thread-safe.

    The function's kernels may depend on the shapes of its inputs only, not on their values.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._recorded: dict[tuple[torch.Size, ...], _Recorded] = {}

    def __call__(self, *inputs: Tensor) -> Any:  # noqa: ANN401 (what the function returns)
        """Return a copy of the function's result."""
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(inputs)
        recorded = self._recorded[shapes]
        for static, new in zip(recorded.inputs, inputs, strict=True):
            static.copy_(new)
        recorded.graph.replay()
        if isinstance(recorded.outputs, tuple):
            return tuple(output.clone() for output in recorded.outputs)
        return recorded.outputs.clone()

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recorded:
        static_inputs = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # the libraries choose their kernels in the first calls, which graphs cannot
            for _ in range(_WARM_UP):
                self._function(*static_inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*static_inputs)
        return _Recorded(graph=graph, inputs=static_inputs, outputs=outputs)
