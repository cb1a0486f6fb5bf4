"""How the instruction reaches the network: its form (vector, tokens, word pieces), the learned null, FiLM, attention.

Shape letters: X or B rows, E text embedding as given, S text tokens, W condition width, C channels, H height, W' width
of a map, L sequence, D width of a sequence, N heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.common.json_config import WIDEST, check_between, check_fraction

Conditioning = Literal["film", "cross_attention"]

_HEAD_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What a text embedding holds, and what the network makes of it. The defaults are Google's: a vector, as it is."""

    tokens: int = 1
    """S: vectors of one token each that are laid end to end in a text embedding. A vector of zeros is padding."""
    vocabulary: int = 0
    """Word pieces of a table that is trained with the network: a text embedding then holds ids, 0 for padding.
    0: there is no table, a text embedding holds vectors."""
    table_width: int = 128
    """Width of the table's vectors."""
    projection: int = 0
    """Width that a learned linear layer brings every vector to. 0 leaves it out."""
    drop: float = 0.0
    """Probability, per sample in training, that a learned null takes the place of the text: what guidance needs."""

    def __post_init__(self) -> None:
        check_between(self, 1, WIDEST, "tokens", "table_width")
        check_between(self, 0, 1 << 20, "vocabulary")
        check_between(self, 0, WIDEST, "projection")
        check_fraction(self, "drop")

    def token_width(self, text_width: int) -> int:
        """Return the entries of one vector of a text embedding with ``text_width`` entries."""
        if self.vocabulary:
            return self.table_width
        if text_width % self.tokens:
            raise ValueError(
                f"the text embedding has {text_width} entries, which {self.tokens} tokens cannot share evenly. "
                "Set text.tokens to that of the text encoder"
            )
        return text_width // self.tokens

    def width(self, text_width: int) -> int:
        """Return W, the width that conditions the network."""
        return self.projection or self.token_width(text_width)


class TextInput(nn.Module):
    """Text embeddings as given to what conditions the network: (X, W), or tokens (X, S, W), zeros for padding."""

    def __init__(self, config: TextConfig, *, text_width: int, as_tokens: bool) -> None:
        super().__init__()
        self.config, self.as_tokens = config, as_tokens
        inner, width = config.token_width(text_width), config.width(text_width)
        self.table = nn.Embedding(config.vocabulary, inner, padding_idx=0) if config.vocabulary else None
        self.projection = nn.Linear(inner, width) if config.projection else None
        self.null_W = nn.Parameter(torch.randn(width) * 0.02) if config.drop else None

    def forward(self, text_XE: Tensor, dropped_X: Tensor | None = None) -> Tensor:
        """Return (X, W), or (X, S, W) where the network looks at tokens.

        Args:
            text_XE: text embeddings as the text encoder gives them.
            dropped_X: bool (X,), True where the learned null takes the text's place. None: nowhere.

        Raises:
            ValueError: ``dropped_X`` is given to a network that has no null.
        """
        token_XSW, real_XS = self._tokens(text_XE)
        if self.projection is not None:
            token_XSW = self.projection(token_XSW) * real_XS[..., None]
        condition = token_XSW if self.as_tokens else _mean(token_XSW, real_XS)
        if dropped_X is None:
            return condition
        if self.null_W is None:
            raise ValueError(
                "this network was trained without dropping the text (text.drop is 0) and has no null to put in its "
                "place. Train with text.drop above 0, or use it with a guidance scale of 1"
            )
        null = torch.zeros_like(condition)
        null[:, 0 if self.as_tokens else slice(None)] = self.null_W.to(null.dtype)
        return torch.where(dropped_X.view(-1, *[1] * (condition.ndim - 1)), null, condition)

    def _tokens(self, text_XE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (X, S, W') and which of them are real, bool (X, S)."""
        if self.table is not None:
            id_XS = text_XE.long()
            return self.table(id_XS), id_XS > 0
        token_XSW = text_XE.unflatten(-1, (self.config.tokens, -1))
        if self.config.tokens == 1:  # one vector is the text, whatever it holds
            return token_XSW, torch.ones(token_XSW.shape[:2], dtype=torch.bool, device=text_XE.device)
        return token_XSW, real_tokens(token_XSW)


def real_tokens(token_XSW: Tensor) -> Tensor:
    """Return bool (X, S), False for padding: tokens of zeros alone."""
    return token_XSW.detach().abs().amax(-1) > 0


def _mean(token_XSW: Tensor, real_XS: Tensor) -> Tensor:
    if token_XSW.shape[1] == 1:
        return token_XSW[:, 0]
    return (token_XSW * real_XS[..., None]).sum(1) / real_XS.sum(1, keepdim=True).clamp(min=1)


class FiLM(nn.Module):
    """Scale and shift every channel by the text: ``(1 + W_m e + b_m) x + W_a e + b_a``, zero at the start."""

    def __init__(self, text_width: int, channels: int) -> None:
        super().__init__()
        self.multiply = nn.Linear(text_width, channels)
        self.add = nn.Linear(text_width, channels)
        for layer in (self.multiply, self.add):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_XCHW: Tensor, text_XE: Tensor) -> Tensor:
        """Condition (X, C, H, W) on (X, E)."""
        scale_XC = 1.0 + self.multiply(text_XE)
        return torch.addcmul(self.add(text_XE)[:, :, None, None], scale_XC[:, :, None, None], x_XCHW)

    def sequence(self, x_BLD: Tensor, text_BE: Tensor) -> Tensor:
        """Condition (B, L, D) on (B, E)."""
        scale_BD = 1.0 + self.multiply(text_BE)
        return torch.addcmul(self.add(text_BE)[:, None], scale_BD[:, None], x_BLD)


class CrossAttention(nn.Module):
    """Every position attends to the text's tokens and adds the result, zero at the start."""

    def __init__(self, text_width: int, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD_WIDTH)
        inner = self.heads * _HEAD_WIDTH
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.text_norm = nn.LayerNorm(text_width, eps=1e-6)
        self.query = nn.Linear(channels, inner)
        self.key_value = nn.Linear(text_width, 2 * inner)
        self.output = nn.Linear(inner, channels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_XCHW: Tensor, text_XSE: Tensor) -> Tensor:
        """Condition (X, C, H, W) on tokens (X, S, E)."""
        y_XPC = self.sequence(x_XCHW.flatten(2).transpose(1, 2), text_XSE)
        return y_XPC.transpose(1, 2).unflatten(2, x_XCHW.shape[2:])

    def sequence(self, x_BLD: Tensor, text_BSE: Tensor) -> Tensor:
        """Condition (B, L, D) on tokens (B, S, E)."""
        query_BNLH = self.query(self.norm(x_BLD)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_value = self.key_value(self.text_norm(text_BSE)).unflatten(-1, (2, self.heads, -1))
        key_BNSH, value_BNSH = key_value.permute(2, 0, 3, 1, 4)
        mask_B11S = real_tokens(text_BSE)[:, None, None]
        y_BNLH = F.scaled_dot_product_attention(query_BNLH, key_BNSH, value_BNSH, attn_mask=mask_B11S)
        return x_BLD + self.output(y_BNLH.transpose(1, 2).flatten(2))


def conditioner(kind: Conditioning, text_width: int, channels: int) -> FiLM | CrossAttention:
    """Return the layer that conditions ``channels`` channels on the text. It starts as the identity."""
    return FiLM(text_width, channels) if kind == "film" else CrossAttention(text_width, channels)
