"""Squeeze-excite, the channel attention of both convolutional backbones.

Shape letters: X images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Weigh channels by a small network over their means."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, reduced)
        self.expand = nn.Linear(reduced, channels)

    def forward(self, x_XCHW: Tensor) -> Tensor:
        """Scale (X, C, H, W) per channel by a value in (0, 1)."""
        gate_XC = torch.sigmoid(self.expand(F.silu(self.reduce(x_XCHW.mean((2, 3))))))
        return x_XCHW * gate_XC[:, :, None, None]
