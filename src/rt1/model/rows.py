"""Random draws of dropout and drop-connect that do not depend on how a batch is split.

A process that computes rows ``first .. first + n - 1`` of a batch of ``total`` rows draws for all rows from the same
seed and uses its part. Several processes, or one that computes parts in turn, then drop the same as one at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rows(NamedTuple):
    """Which rows of a batch are being computed."""

    first: int
    """The first one."""
    total: int
    """Rows of the whole batch."""


class RandomModule(nn.Module):
    """A module that draws random numbers per row of its batch."""

    rows: Rows | None = None
    """The rows that are being computed. None: the whole batch."""

    def draw_rows(self, count: int, draw: Callable[[int], Tensor]) -> Tensor:
        """Return the ``count`` rows of ``draw(total)`` that are being computed."""
        if self.rows is None or self.rows.total == count:
            return draw(count)
        return draw(self.rows.total)[self.rows.first : self.rows.first + count]


class ResidualBlock(RandomModule):
    """A module with residual branches that are dropped in training for whole rows (stochastic depth)."""

    drop: float
    """Probability of dropping a branch."""

    def drop_branch(self, y: Tensor) -> Tensor:
        """Set a branch, whose first dimension is the rows, to 0 for some rows, and scale up the others."""
        if not self.training or self.drop == 0.0:
            return y
        ones = [1] * (y.ndim - 1)
        draw = self.draw_rows(len(y), lambda rows: torch.rand(rows, *ones, device=y.device))
        return y * ((draw >= self.drop) / (1.0 - self.drop)).to(y.dtype)


class Dropout(RandomModule):
    """Dropout that draws for the rows being computed."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Set values of ``x``, whose first dimension is the rows, to 0 in training and scale up the others."""
        if not self.training or self.probability == 0.0:
            return x
        share = 1.0 - self.probability
        draw = self.draw_rows(len(x), lambda rows: x.new_empty((rows, *x.shape[1:])).bernoulli_(share))
        return x * draw.div_(share)


def set_rows(module: nn.Module, rows: Rows | None) -> None:
    """Set which rows are being computed in every random module of a network."""
    for child in module.modules():
        if isinstance(child, RandomModule):
            child.rows = rows
