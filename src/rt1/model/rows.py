"""Random draws of dropout and drop-connect that do not depend on how a batch is shared out.

Who computes rows ``first .. first + n - 1`` of a batch of ``total`` rows draws for all of them, from the same seed, and
takes its own: several processes, or one after another in parts, then drop what one process would drop at once.
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
    """The rows that are being computed; None: all there are."""

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
        kept = self.draw_rows(len(y), lambda rows: torch.rand(rows, *ones, device=y.device)) >= self.drop
        return y * (kept / (1.0 - self.drop)).to(y.dtype)


class Dropout(RandomModule):
    """Dropout that draws for the rows being computed."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Set values to 0 in training and scale up the others."""
        if not self.training or self.probability == 0.0:
            return x
        return x * self.factors(x)

    def factors(self, x: Tensor) -> Tensor:
        """Return 0 or ``1 / (1 - probability)`` for every value of ``x``, whose first dimension is the rows."""
        kept = 1.0 - self.probability
        return self.draw_rows(
            len(x), lambda rows: torch.empty((rows, *x.shape[1:]), dtype=x.dtype, device=x.device).bernoulli_(kept)
        ).div_(kept)


def set_rows(module: nn.Module, rows: Rows | None) -> None:
    """Tell every random part of a network which rows are being computed."""
    for part in module.modules():
        if isinstance(part, RandomModule):
            part.rows = rows
