"""TokenLearner v1.1: many positions to a few tokens, each a weighted mean of positions (docs/network.md)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rt1.model.transformer import at_least_float32, dense

Weights = Literal["softmax", "sigmoid"]


class TokenLearner(nn.Module):
    """K soft attention maps over the positions of an image, and the K tokens they pool."""

    def __init__(self, width: int, *, tokens: int, hidden: int, weights: Weights = "softmax") -> None:
        super().__init__()
        self.weights = weights
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.hidden = dense(width, hidden)
        self.maps = dense(hidden, tokens)

    def attention(self, x_XPD: Tensor) -> Tensor:
        """Return (X, K, P) weights. Each token's weights over the positions sum to 1."""
        h_XPM = F.gelu(self.hidden(self.norm(x_XPD)), approximate="tanh")  # tanh form: flax' and Google's GELU
        map_XKP = at_least_float32(self.maps(h_XPM).transpose(1, 2))
        if self.weights == "sigmoid":
            gate_XKP = map_XKP.sigmoid()
            return gate_XKP / gate_XKP.sum(dim=-1, keepdim=True)
        return map_XKP.softmax(dim=-1)

    def forward(self, x_XPD: Tensor) -> Tensor:
        """Pool (X, P, D) to (X, K, D). The tokens pooled are the raw ones, not the normalised."""
        return self.pool(x_XPD)[0]

    def pool(self, x_XPD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (X, K, D) and the maps (X, K, P) they were pooled with."""
        map_XKP = self.attention(x_XPD)
        return map_XKP.to(x_XPD.dtype) @ x_XPD, map_XKP
