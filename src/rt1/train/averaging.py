"""The moving average of the weights, which a policy then acts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rt1.common.json_config import check_fraction
from rt1.model.weights import check_same_tensors


@dataclass(frozen=True, kw_only=True)
class AverageSettings:
    """An exponential moving average of weights and BatchNorm statistics."""

    decay: float = 0.0
    """Share of the average that an update keeps, 0.999 for one over about the last 1000. 0 switches it off."""
    warmup: bool = True
    """Keep less at first, (1 + n) / (10 + n) after n updates, so that the random start is soon forgotten."""

    def __post_init__(self) -> None:
        check_fraction(self, "decay")

    def decay_at(self, updates: int) -> float:
        """Return the share that is kept when the weights of update ``updates``, counted from 1, are added."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay


class WeightAverage:
    """The averaged weights of a network."""

    def __init__(self, model: nn.Module, settings: AverageSettings) -> None:
        self._settings = settings
        self._tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def add(self, model: nn.Module, updates: int) -> None:
        """Add the weights after ``updates`` updates. Counters are copied."""
        pairs = [(mean, new) for mean, new in self._pairs(model) if mean.is_floating_point()]
        average = get_ema_multi_avg_fn(self._settings.decay_at(updates))
        average([mean for mean, _ in pairs], [new for _, new in pairs], updates)
        for mean, new in self._pairs(model):
            if not mean.is_floating_point():
                mean.copy_(new)

    @contextmanager
    def averaged(self, model: nn.Module) -> Iterator[Mapping[str, Tensor]]:
        """Use the averaged weights in the network within the block, and yield the current ones by name."""
        self._exchange(model)
        try:
            yield self._tensors
        finally:
            self._exchange(model)

    @torch.no_grad()
    def restore(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Restore from a checkpoint: the network holds the average, ``weights`` are its current weights.

        Raises:
            CheckpointError: a weight is missing, is one too many, or has another shape.
        """
        cure = "They belong to another network. Use another checkpoint"
        check_same_tensors(weights, self._tensors, what="the weights stored with the average", cure=cure)
        for name, tensor in self._tensors.items():
            tensor.copy_(weights[name])
        self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for mean, weight in self._pairs(model):
            copy = weight.clone()
            weight.copy_(mean)
            mean.copy_(copy)

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        return [(self._tensors[name], tensor) for name, tensor in model.state_dict().items()]
