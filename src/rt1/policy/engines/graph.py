"""Exported graphs as an engine: what all libraries that run them have in common. No torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.policy.engines.base import Engine, full_window
from rt1.policy.exported_manifest import Manifest, graph_files

Graph = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]
"""Inputs by name to outputs that the caller owns. Inputs that the graph does not have are ignored."""


def one_by_one(graph: Graph) -> Graph:
    """Return a graph that runs the robots of a batch one after another."""

    def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        robots = len(next(iter(inputs.values())))
        results = [graph({name: value[robot : robot + 1] for name, value in inputs.items()}) for robot in range(robots)]
        return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]

    return run


class GraphEngine(Engine):
    """The graphs of an exported folder."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int | None = None) -> None:
        """Load the graphs. ``threads`` compute. The library decides if None."""
        self.name, self.precision, self.sizes = manifest.kind, manifest.precision, manifest.sizes
        files = graph_files(manifest.kind, folder)
        self._condition, self._tokenizer, self._decoder = (self.load(file, threads) for file in files)

    @abstractmethod
    def load(self, file: Path, threads: int | None) -> Graph:
        """Return the graph of a file."""

    def condition(self, text_SE: FloatArray, *, dropped: bool) -> FloatArray:
        return self._condition({"text": text_SE, "dropped": np.full(len(text_SE), dropped)})[0]

    def encode(self, image_SHWC: FloatArray, condition: FloatArray) -> tuple[FloatArray, FloatArray]:
        token_SKE, map_SKP = self._tokenizer({"image": image_SHWC, "condition": condition})
        return token_SKE, map_SKP

    def decode(self, token_STKE: FloatArray, step_S: NDArray[np.int64], condition: FloatArray) -> FloatArray:
        token_SWKE = full_window(token_STKE, self.sizes.window)
        return self._decoder({"tokens": token_SWKE, "step": step_S, "condition": condition})[0]
