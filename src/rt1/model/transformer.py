"""The causal transformer over image and action tokens (spec sections 5 and 6).

Shape letters: B batch, L sequence, D width, N heads, H head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.common.json_config import MOST_WEIGHTS, WIDEST, check_between, check_fraction, check_total
from rt1.model.conditioning import Conditioning, CrossAttention, FiLM, conditioner
from rt1.model.rows import Dropout

FeedForward = Literal["linear", "linear_no_bias", "swiglu", "gelu"]
MaskKind = Literal["rt1", "rt1x", "step"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the decoder. The defaults are those of rt1main."""

    layers: int = 8
    """Number of layers."""
    width: int = 512
    """D: width of the residual stream."""
    heads: int = 8
    """N: attention heads."""
    head_width: int = 128
    """Width of one head. Heads * head_width need not equal the width."""
    feed_forward: FeedForward = "linear"
    """``linear`` is Google's single Dense layer without activation, ``swiglu`` that of RT-1-X, ``gelu`` two layers."""
    hidden: int = 512
    """Hidden width of the swiglu or gelu feed-forward."""
    condition: Conditioning | None = None
    """Condition every layer on the text, too. None, as in RT-1: only the image tokens know the text."""
    dropout: float = 0.1
    """Probability, on attention weights and after the feed-forward."""

    def __post_init__(self) -> None:
        check_between(self, 1, 500, "layers")
        check_between(self, 1, WIDEST, "width", "heads", "head_width", "hidden")
        weights = self.layers * self.width * (4 * self.heads * self.head_width + 2 * self.hidden)
        sizes = ("width", "layers", "heads", "head_width", "hidden")
        check_total(self, weights, MOST_WEIGHTS, "weights", *sizes)
        check_fraction(self, "dropout")


def dense(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer initialised as Keras' Dense: Glorot-uniform weight, zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def at_least_float32(x: Tensor) -> Tensor:
    """Bring half precision to float32 and leave float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def attention_mask(window: int, image_tokens: int, action_tokens: int, kind: MaskKind) -> Tensor:
    """Return bool (L, L), True where row i may attend to column j. L = window * (image + action tokens).

    Args:
        window: T, steps.
        image_tokens: K, tokens of an image.
        action_tokens: A, tokens of an action.
        kind: ``rt1``: causal, and no action token attends to an action token, itself included. Image tokens do
            attend to earlier steps' action tokens. ``rt1x``: nobody attends to any action token. ``step``: everything
            of the same step and of earlier ones.
    """
    index = torch.arange(window * (image_tokens + action_tokens))
    is_action = index % (image_tokens + action_tokens) >= image_tokens
    if kind == "step":
        step = index // (image_tokens + action_tokens)
        return step[None, :] <= step[:, None]
    causal = index[None, :] <= index[:, None]
    if kind == "rt1x":
        return causal & ~is_action[None, :]
    return causal & ~(is_action[:, None] & is_action[None, :])


class Attention(nn.Module):
    """Multi-head attention with biases everywhere, as Keras' layer has them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.dropout = Dropout(config.dropout)
        self.query_key_value = nn.Linear(config.width, 3 * inner)
        for part in self.query_key_value.weight.data.chunk(3):  # Glorot per matrix, as three layers would have it
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(self.query_key_value.bias)
        self.output = dense(inner, config.width)

    def project(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value, each (B, N, L, H)."""
        qkv_BL3NH = self.query_key_value(x_BLD).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv_BL3NH.permute(2, 0, 3, 1, 4)
        return query, key, value

    def project_apart(self, query_BRD: Tensor, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query (B, N, R, H) of some rows, and key and value (B, N, L, H) of others."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        inner = len(weight) // 3
        query = F.linear(query_BRD, weight[:inner], bias[:inner]).unflatten(-1, (self.heads, -1))
        key_value = F.linear(x_BLD, weight[inner:], bias[inner:]).unflatten(-1, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)
        return query.transpose(1, 2), key, value

    def forward(self, x_BLD: Tensor, mask: Tensor, query_BRD: Tensor | None = None) -> Tensor:
        """Attend where ``mask``, bool broadcastable to (B, 1, R, L), is True.

        ``query_BRD`` are the rows that attend to those of ``x_BLD``. None: all of ``x_BLD``.
        """
        query, key, value = self.project(x_BLD) if query_BRD is None else self.project_apart(query_BRD, x_BLD)
        if self.training and self.dropout.rows is not None and self.dropout.probability > 0.0:
            # The library's function draws for the rows it sees; this draws for those of the whole batch.
            score_BNLL = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
            weight_BNLL = score_BNLL.masked_fill(~mask, float("-inf")).softmax(-1)
            y_BNLH = self.dropout(weight_BNLL).to(value.dtype) @ value
        else:
            probability = self.dropout.probability if self.training else 0.0
            y_BNLH = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=probability)
        return self.output(y_BNLH.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """RT-1-X' feed-forward: ``w2(silu(w1 x) * gate x)``, no biases."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.w1 = dense(config.width, config.hidden, bias=False)
        self.gate = dense(config.width, config.hidden, bias=False)
        self.w2 = dense(config.hidden, config.width, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        return self.w2(F.silu(self.w1(x_BLD)) * self.gate(x_BLD))


class Layer(nn.Module):
    """Pre-norm attention and feed-forward with residuals. With a text width, each input is conditioned on the text."""

    def __init__(self, config: TransformerConfig, text_width: int = 0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.feed_forward: nn.Module
        if config.feed_forward == "swiglu":
            self.feed_forward = SwiGLU(config)
        elif config.feed_forward == "gelu":
            self.feed_forward = nn.Sequential(
                dense(config.width, config.hidden), nn.GELU(approximate="tanh"), dense(config.hidden, config.width)
            )
        else:
            # One Dense layer without activation: an oddity of Google's code that its weights depend on.
            self.feed_forward = dense(config.width, config.width, bias=config.feed_forward == "linear")
        self.dropout = Dropout(config.dropout)
        self.attention_condition: FiLM | CrossAttention | None = None
        self.feed_forward_condition: FiLM | CrossAttention | None = None
        if config.condition is not None:
            self.attention_condition = conditioner(config.condition, text_width, config.width)
            self.feed_forward_condition = conditioner(config.condition, text_width, config.width)

    def forward(
        self,
        x_BLD: Tensor,
        mask: Tensor,
        text: Tensor | None = None,
        *,
        keys: int | None = None,
        read_BR: Tensor | None = None,
    ) -> Tensor:
        """Map (B, L, D) to (B, L, D), or to (B, R, D).

        Args:
            x_BLD: the rows.
            mask: who attends to whom, bool broadcastable to (B, 1, rows, keys).
            text: (B, E) or (B, S, E), for a conditioned layer.
            keys: number of rows, from the first on, that anything attends to. None: all.
            read_BR: rows to compute. None: all.
        """
        y_BLD = self.attention_norm(x_BLD)
        if self.attention_condition is not None and text is not None:
            y_BLD = self.attention_condition.sequence(y_BLD, text)
        query_BRD = None if keys is None else y_BLD
        if read_BR is not None:
            index_BRD = read_BR[..., None].expand(-1, -1, x_BLD.shape[-1])
            x_BLD, query_BRD = x_BLD.gather(1, index_BRD), y_BLD.gather(1, index_BRD)
        x_BLD = x_BLD + self.attention(y_BLD[:, :keys], mask, query_BRD)
        y_BLD = self.feed_forward_norm(x_BLD)
        if self.feed_forward_condition is not None and text is not None:
            y_BLD = self.feed_forward_condition.sequence(y_BLD, text)
        return x_BLD + self.dropout(self.feed_forward(y_BLD))


class Heads(nn.ModuleList):
    """Output layers of several embodiments. Every sample of a batch is read by one of them."""

    def __init__(self, width: int, vocabularies: Sequence[int]) -> None:
        super().__init__(dense(width, vocabulary) for vocabulary in vocabularies)
        self.vocabulary = max(vocabularies)

    def forward(self, x: Tensor, embodiment_B: Tensor) -> Tensor:
        """Map (B, ..., D) to (B, ..., V), each sample by its head, 0 behind the end of a shorter one.

        Every head reads every sample and one is chosen: so each has a gradient on each rank, zero from other heads'
        samples, and the shapes do not depend on what a batch holds.
        """
        chosen_B = embodiment_B.view(-1, *[1] * (x.ndim - 1))
        y = x.new_zeros(())
        for number, layer in enumerate(self):
            own = layer(x)
            y = torch.where(chosen_B == number, F.pad(own, (0, self.vocabulary - own.shape[-1])), y)
        return y


class Transformer(nn.Module):
    """Token embedding, learned positions, layers, output projection. No final norm (Google has none)."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        token_width: int,
        length: int,
        vocabulary: int | Sequence[int],
        text_width: int = 0,
    ) -> None:
        """Make it. With several vocabularies its output is a :class:`Heads`, else a linear layer."""
        super().__init__()
        self.embed = dense(token_width, config.width)
        # Google's position embedding is Dense(one_hot(position)): a table and, easily missed, a bias.
        self.position_LD = nn.Parameter(nn.init.xavier_uniform_(torch.empty(length, config.width)))
        self.position_bias_D = nn.Parameter(torch.zeros(config.width))
        self.layers = nn.ModuleList(Layer(config, text_width) for _ in range(config.layers))
        self.output: Any = (
            dense(config.width, vocabulary) if isinstance(vocabulary, int) else Heads(config.width, vocabulary)
        )

    def hidden(self, token_BLE: Tensor, mask: Tensor, text: Tensor | None = None) -> Tensor:
        """Return the residual stream (B, L, D) after the last layer. L may be shorter than the longest sequence."""
        x_BLD = self.embed(token_BLE) + self.position_LD[: token_BLE.shape[1]] + self.position_bias_D
        for layer in self.layers:
            x_BLD = layer(x_BLD, mask, text)
        return x_BLD
