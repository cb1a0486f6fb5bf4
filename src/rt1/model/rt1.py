"""RT-1, the whole network in one forward: images and an instruction to action-token logits.

    image (B, T, H, W, 3) --preprocess--> (X, 3, 300, 300) --FiLM-EfficientNet(text)--> 81 positions
    --TokenLearner--> 8 image tokens per step; per step [8 image tokens | A empty action tokens] --> one
    sequence --causal transformer--> at the place before each action token: logits over 256 bins.

Shape letters: B batch, T window, X = B*T, C channels, H height, W width, P positions, K tokens per image,
A action dimensions, L = T*(K+A) sequence, E text or token width, D transformer width, V bins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.model.backbone import TIMM, Backbone, TimmBackbone, timm_grid
from rt1.model.conditioning import Conditioning, TextConfig, TextInput
from rt1.model.efficientnet import EfficientNetConfig, FiLMEfficientNet
from rt1.model.maxvit import MaxViT, MaxViTConfig
from rt1.model.token_learner import TokenLearner, Weights
from rt1.model.transformer import (
    MaskKind,
    Transformer,
    TransformerConfig,
    at_least_float32,
    attention_mask,
)
from rt1.names import unknown_name
from rt1.preprocess import resize, to_float
from rt1.settings import MOST_WEIGHTS, WIDEST, check_at_least, check_between, check_total

Readout = Literal["action_tokens", "last_token", "mean_token"]

LONGEST = 8192
"""Most tokens of a window: one layer's attention takes 2 GB for each sample with 8 heads."""
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class RT1Config:
    """Every size and quirk of the network; the defaults are Google's rt1main (35 M parameters)."""

    window: int = 6
    """T: images the policy looks at, newest last."""
    image_size: tuple[int, int] = (300, 300)
    """Height and width the image is stretched to, pixels."""
    text_width: int = 512
    """E: entries of the text embedding."""
    token_width: int = 512
    """Width of positions and image tokens."""
    image_tokens: int = 8
    """K: tokens per image after TokenLearner."""
    token_learner_hidden: int = 64
    """Hidden width of TokenLearner."""
    action_tokens: int = 11
    """A: dimensions of an action; of the longest, where there are several embodiments."""
    heads: tuple[int, ...] = ()
    """Several embodiments on one trunk: the action's dimensions of each, which has an output layer of its own. Empty:
    one, with ``action_tokens`` dimensions."""
    bins: int = 256
    """V: bins per action dimension."""
    position_weights: Weights = "softmax"
    """How TokenLearner turns its maps into weights over the positions."""
    mask: MaskKind = "rt1"
    """Attention mask: Google's TensorFlow code, RT-1-X, or all tokens of one step seeing each other."""
    readout: Readout = "action_tokens"
    """Where an action is read. ``action_tokens``: as in RT-1, each dimension at the place before its empty action
    token. ``last_token``, ``mean_token``: all dimensions at the step's last image token, or at the mean of its image
    tokens; there are no action tokens then."""
    backbone: str = "efficientnet"
    """``efficientnet``, ``maxvit``, or ``timm:NAME`` for a model of the package timm, where it is installed."""
    efficientnet: EfficientNetConfig = field(default_factory=EfficientNetConfig)
    """The backbone ``efficientnet``."""
    maxvit: MaxViTConfig = field(default_factory=MaxViTConfig)
    """The backbone ``maxvit``."""
    text: TextConfig = field(default_factory=TextConfig)
    """What a text embedding holds."""
    conditioning: Conditioning = "film"
    """How the text conditions the backbone: FiLM by one vector, or attention to the text's tokens."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """The decoder."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "window", "image_tokens", "action_tokens")
        check_between(self, 1, 4096, "image_size", "token_learner_hidden")
        check_between(self, 1, WIDEST, "token_width")
        check_between(self, 1, 1 << 20, "text_width")
        check_between(self, 2, WIDEST, "bins")
        check_total(self, self.sequence_length, LONGEST, "tokens", "window", "image_tokens", "action_tokens")
        outputs = self.transformer.width * self.bins * (sum(self.heads) or self.action_tokens)
        check_total(self, outputs, MOST_WEIGHTS, "weights", "bins", "action_tokens")
        if self.heads and (min(self.heads) < 1 or max(self.heads) != self.action_tokens):
            raise ValueError(
                f"heads is {self.heads}, action_tokens {self.action_tokens}; each head has at least 1 dimension, and "
                "action_tokens is those of the largest"
            )
        if min(self.grid) < 1:
            raise ValueError(f"image_size {self.image_size} shrinks to nothing in the backbone; use a larger image")
        if self.transformer.condition not in (None, self.conditioning):
            raise ValueError(
                f"transformer.condition is {self.transformer.condition}, conditioning {self.conditioning}; the "
                "transformer's layers are conditioned as the backbone is, or not at all"
            )
        self.text.width(self.text_width)

    @property
    def step_tokens(self) -> int:
        """K + A: tokens of one step; K where the readout needs no action tokens."""
        return self.image_tokens + (self.action_tokens if self.readout == "action_tokens" else 0)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid of positions that TokenLearner pools."""
        if self.backbone == "efficientnet":
            return self.efficientnet.grid(self.image_size)
        if self.backbone == "maxvit":
            return self.maxvit.grid(self.image_size)
        if self.backbone.startswith(TIMM):
            return timm_grid(self.backbone, self.image_size)
        raise ValueError(unknown_name("backbone", self.backbone, ("efficientnet", "maxvit", TIMM + "NAME")))

    @property
    def sequence_length(self) -> int:
        """L: tokens of a full window."""
        return self.window * self.step_tokens


class RT1(nn.Module):
    """The Robotics Transformer. Stateless: :class:`rt1.policy.Policy` keeps the memory."""

    pixel_mean: Tensor
    pixel_std: Tensor
    mask_LL: Tensor
    size_H: Tensor

    def __init__(self, config: RT1Config) -> None:
        super().__init__()
        self.config = config
        self.text = TextInput(
            config.text, text_width=config.text_width, as_tokens=config.conditioning == "cross_attention"
        )
        self.backbone: Any = _make_backbone(config)  # a Backbone; converters reach into its own kind
        self.token_learner = TokenLearner(
            config.token_width,
            tokens=config.image_tokens,
            hidden=config.token_learner_hidden,
            weights=config.position_weights,
        )
        self.transformer = Transformer(
            config.transformer,
            token_width=config.token_width,
            length=config.sequence_length,
            vocabulary=_vocabulary(config),
            text_width=config.text.width(config.text_width),
        )
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN))
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD))
        empty = config.step_tokens - config.image_tokens
        mask = attention_mask(config.window, config.image_tokens, empty, config.mask)
        self.register_buffer("mask_LL", mask, persistent=False)
        if config.heads:
            self.register_buffer("size_H", torch.tensor(config.heads), persistent=False)

    def forward(
        self,
        image_BTHWC: Tensor,
        text: Tensor,
        *,
        valid_BT: Tensor | None = None,
        head_B: Tensor | None = None,
    ) -> Tensor:
        """Predict the action of every step of a window.

        Args:
            image_BTHWC: RGB (B, T, H, W, 3), uint8 in [0, 255] or float in [0, 1], any height and width; T may be
                shorter than the configured window.
            text: float (B, E), or (B, T, E) with one embedding per step.
            valid_BT: bool (B, T), False for padding, which nothing attends to; None means all are real.
            head_B: integers (B,), the head of each sample, for a network with ``heads``; None for any other.

        Returns:
            float32 logits (B, T, A, V); 0 in dimensions that a sample's head does not have.
        """
        if image_BTHWC.ndim != 5:
            raise ValueError(f"images have shape {tuple(image_BTHWC.shape)}; they must be (B, T, H, W, 3)")
        batch, window = image_BTHWC.shape[:2]
        text_BTE = self._text_per_step(text, batch, window)
        image_XCHW = self.prepare(image_BTHWC.flatten(0, 1))
        token_XKE = self.encode_images(image_XCHW, text_BTE.flatten(0, 1))
        token_BTKE = token_XKE.unflatten(0, (batch, window))
        return self.decode(token_BTKE, text_BTE[:, -1], valid_BT=valid_BT, head_B=head_B)

    def prepare(self, image_XHWC: Tensor) -> Tensor:
        """Bring images (X, H, W, 3) to float (X, 3, *image_size) in [0, 1]."""
        return resize(to_float(image_XHWC), self.config.image_size)

    def encode_images(self, image_XCHW: Tensor, text_XE: Tensor, *, dropped_X: Tensor | None = None) -> Tensor:
        """Turn prepared images (X, 3, H, W) in [0, 1] and text (X, E) into image tokens (X, K, E).

        Where ``dropped_X``, bool (X,), is True the learned null takes the text's place.
        """
        return self.token_learner(self.encode_positions(image_XCHW, text_XE, dropped_X=dropped_X))

    def encode_positions(self, image_XCHW: Tensor, text_XE: Tensor, *, dropped_X: Tensor | None = None) -> Tensor:
        """Turn prepared images and text into the grid (X, P, E) that TokenLearner pools."""
        return self.conditioned_positions(image_XCHW, self.text(text_XE, dropped_X))

    def conditioned_positions(self, image_XCHW: Tensor, condition_X: Tensor) -> Tensor:
        """Turn prepared images and what ``self.text`` made of the text into the grid (X, P, E)."""
        mean, std = (v[:, None, None] for v in (self.pixel_mean, self.pixel_std))
        return self.backbone((image_XCHW - mean) / std, condition_X)

    def decode(
        self,
        token_BTKE: Tensor,
        text_BE: Tensor | None = None,
        *,
        dropped_B: Tensor | None = None,
        valid_BT: Tensor | None = None,
        head_B: Tensor | None = None,
    ) -> Tensor:
        """Turn image tokens (B, T, K, E) into float32 logits (B, T, A, V).

        The text, (B, E), is needed where the transformer's layers are conditioned on it, too, and else not looked at.
        """
        condition_B = self._condition(text_BE, dropped_B)
        return self.decode_conditioned(token_BTKE, condition_B, valid_BT=valid_BT, head_B=head_B)

    def decode_conditioned(
        self,
        token_BTKE: Tensor,
        condition_B: Tensor | None,
        *,
        valid_BT: Tensor | None = None,
        head_B: Tensor | None = None,
    ) -> Tensor:
        """Turn image tokens and what ``self.text`` made of the text into float32 logits (B, T, A, V)."""
        hidden_BLD = self.hidden(token_BTKE, condition_B, valid_BT=valid_BT, head_B=head_B)
        hidden_BTSD = hidden_BLD.unflatten(1, (token_BTKE.shape[1], self.config.step_tokens))
        return self._logits(hidden_BTSD, head_B)

    def hidden(
        self,
        token_BTKE: Tensor,
        condition_B: Tensor | None = None,
        *,
        valid_BT: Tensor | None = None,
        head_B: Tensor | None = None,
    ) -> Tensor:
        """Return the transformer's stream (B, L, D) for image tokens (B, T, K, E)."""
        if bool(self.config.heads) == (head_B is None):
            raise ValueError(
                "this network has one head; leave head_B out"
                if head_B is not None
                else f"this network has {len(self.config.heads)} heads; give head_B, or take the network of one with "
                "rt1.model.heads.single_head"
            )
        batch, window = token_BTKE.shape[:2]
        if window > self.config.window:
            raise ValueError(f"{window} steps were given; this network has a window of {self.config.window}")
        # Action tokens are zero vectors in training and inference: RT-1 has no action history (spec section 5).
        empty = self.config.step_tokens - self.config.image_tokens
        action = token_BTKE.new_zeros(batch, window, empty, self.config.token_width)
        sequence_BLE = torch.cat([token_BTKE, action], dim=2).flatten(1, 2)
        mask = self._mask(sequence_BLE.shape[1], valid_BT, head_B)
        return self.transformer.hidden(sequence_BLE, mask, condition_B)

    def _condition(self, text_BE: Tensor | None, dropped_B: Tensor | None) -> Tensor | None:
        """Return what the transformer's layers are conditioned on; None where they are not."""
        if self.config.transformer.condition is None:
            return None
        if text_BE is None:
            raise ValueError("this network's transformer is conditioned on the text; give decode() the text embedding")
        return self.text(text_BE, dropped_B)

    def used(self, head_B: Tensor) -> Tensor:
        """Return bool (B, A): True for the dimensions that each sample's head has."""
        return torch.arange(self.config.action_tokens, device=head_B.device) < self.size_H[head_B][:, None]

    def _mask(self, length: int, valid_BT: Tensor | None, head_B: Tensor | None) -> Tensor:
        """Return who sees whom, bool (L, L) or (B, 1, L, L).

        The action tokens of dimensions that a sample's head does not have are not seen, as if they were not there: an
        embodiment acts as in a network of its own, see :func:`rt1.model.heads.single_head`.
        """
        mask = self.mask_LL[:length, :length]
        real_BL = None
        if valid_BT is not None:
            real_BL = valid_BT.repeat_interleave(self.config.step_tokens, dim=1)
        if head_B is not None and self.config.readout == "action_tokens" and len(set(self.config.heads)) > 1:
            used_BS = F.pad(self.used(head_B), (self.config.image_tokens, 0), value=True)
            used_BL = used_BS.repeat(1, length // self.config.step_tokens)
            real_BL = used_BL if real_BL is None else used_BL & real_BL
        if real_BL is None:
            return mask
        # A padded row still sees itself: a fully masked row would be NaN, and nothing reads it.
        itself = torch.eye(length, dtype=torch.bool, device=mask.device)[None, None]
        return (mask & real_BL[:, None, None, :]) | itself & ~real_BL[:, None, :, None]

    def _logits(self, hidden_BTSD: Tensor, head_B: Tensor | None = None) -> Tensor:
        """Return float32 logits (B, T, A, V), or (B, A, V), from the stream of whole steps."""
        tokens, actions = self.config.image_tokens, self.config.action_tokens
        heads = () if head_B is None else (head_B,)
        if self.config.readout == "action_tokens":
            # One place early: the last image token predicts dimension 0, action token k predicts k + 1.
            read = hidden_BTSD[..., tokens - 1 : tokens - 1 + actions, :]
            logits_BTAV = at_least_float32(self.transformer.output(read, *heads))
            return logits_BTAV if head_B is None else logits_BTAV.masked_fill(~self.used(head_B)[:, None, :, None], 0.0)
        read = hidden_BTSD[..., -1, :] if self.config.readout == "last_token" else hidden_BTSD.mean(-2)
        return at_least_float32(self.transformer.output(read, *heads)).unflatten(-1, (actions, self.config.bins))

    def _text_per_step(self, text: Tensor, batch: int, window: int) -> Tensor:
        expected = self.config.text_width
        if text.shape[0] != batch or text.shape[-1] != expected or text.shape[1:-1] not in ((), (window,)):
            raise ValueError(
                f"the text embedding has shape {tuple(text.shape)}; it must be ({batch}, {expected}) or "
                f"({batch}, {window}, {expected}) for these images and this network"
            )
        return text[:, None].expand(batch, window, expected) if text.ndim == 2 else text


def _vocabulary(config: RT1Config) -> int | list[int]:
    """Return how many logits the output layer gives at a place that is read, or each head's."""
    if config.readout == "action_tokens":
        return [config.bins] * len(config.heads) if config.heads else config.bins
    return [config.bins * size for size in config.heads] if config.heads else config.bins * config.action_tokens


def _make_backbone(config: RT1Config) -> Backbone:
    widths = {"text_width": config.text.width(config.text_width), "output_width": config.token_width}
    if config.backbone == "efficientnet":
        return FiLMEfficientNet(config.efficientnet, **widths, conditioning=config.conditioning)
    if config.backbone == "maxvit":
        return MaxViT(config.maxvit, **widths, conditioning=config.conditioning)
    return TimmBackbone(config.backbone, config.image_size, **widths, conditioning=config.conditioning)


LossForm = Literal["mean", "google"]


def action_loss(
    logits_BTAV: Tensor,
    token_BTA: Tensor,
    *,
    mask_BT: Tensor | None = None,
    form: LossForm = "mean",
    step_tokens: int = 1,
    spread_A: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the scalar cross-entropy of action tokens (spec section 8).

    Args:
        logits_BTAV: float (B, T, A, V).
        token_BTA: integers (B, T, A), -1 in dimensions that the sample's action does not have: a step's loss is the
            mean over those it has.
        mask_BT: bool (B, T), False for steps that count nothing (padding, terminal steps); None counts all.
        form: ``mean`` averages over the counted steps. ``google`` divides by B*T and again by B*T*step_tokens, as
            the official code does; with Adam its eps of 1e-7 is then no longer negligible.
        step_tokens: K + A, for the ``google`` form.
        spread_A: float (A,), or (B, 1, A) where samples differ, standard deviation in bins of the Gaussian that spreads
            a target over the neighbouring bins, 0 for one-hot as in Google's code; None means 0 everywhere. It tells
            the network that bins are ordered, which it must otherwise find out from data.
        smoothing: share of the target, in [0, 1), that goes to all V bins alike (label smoothing), after the spread; 0
            as in Google's code.
    """
    logits_BTAV = at_least_float32(logits_BTAV)
    used_BTA = token_BTA >= 0
    token_BTA = token_BTA.clamp(min=0)
    if spread_A is None:
        flat = F.cross_entropy(
            logits_BTAV.flatten(0, 2), token_BTA.flatten().long(), reduction="none", label_smoothing=smoothing
        )
        entropy_BTA = flat.view(token_BTA.shape)
    else:
        bins = logits_BTAV.shape[-1]
        target_BTAV = (1.0 - smoothing) * spread_targets(token_BTA, spread_A, bins=bins) + smoothing / bins
        entropy_BTA = -(target_BTAV * logits_BTAV.log_softmax(-1)).sum(-1)
    entropy_BT = (entropy_BTA * used_BTA).sum(dim=-1) / used_BTA.sum(dim=-1).clamp(min=1)
    steps = entropy_BT.numel()
    if mask_BT is None:
        mask_BT = torch.ones_like(entropy_BT, dtype=torch.bool)
    total = (entropy_BT * mask_BT).sum()
    if form == "google":
        return total / steps / (steps * step_tokens)
    return total / mask_BT.sum().clamp(min=1)


def spread_targets(token_BTA: Tensor, spread_A: Tensor, *, bins: int) -> Tensor:
    """Return target probabilities (B, T, A, V): a Gaussian around each token, one-hot where the spread is 0."""
    distance_BTAV = torch.arange(bins, device=token_BTA.device) - token_BTA[..., None]
    spread_A1 = spread_A.clamp(min=1e-3)[..., None]  # a thousandth of a bin leaves nothing for the neighbours
    weight_BTAV = torch.exp(-0.5 * (distance_BTAV / spread_A1) ** 2)
    return weight_BTAV / weight_BTAV.sum(-1, keepdim=True)
