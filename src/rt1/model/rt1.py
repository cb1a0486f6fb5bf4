"""RT-1, the whole network in one forward: images and an instruction to action-token logits.

    image (B, T, H, W, 3) --preprocess--> (X, 3, 300, 300) --FiLM-EfficientNet(text)--> 81 positions
    --TokenLearner--> 8 image tokens per step. Per step [8 image tokens | A empty action tokens] --> one
    sequence --causal transformer--> at the place before each action token: logits over 256 bins.

Shape letters: B batch, T window, X = B*T, C channels, H height, W width, P positions, K tokens per image,
A action dimensions, L = T*(K+A) sequence, E text or token width, D transformer width, V bins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rt1.common.json_config import MOST_WEIGHTS, WIDEST, check_at_least, check_between, check_total
from rt1.common.suggest import unknown_name
from rt1.model.conditioning import Conditioning, TextConfig, TextInput
from rt1.model.efficientnet import EfficientNetConfig, FiLMEfficientNet
from rt1.model.maxvit import MaxViT, MaxViTConfig
from rt1.model.readout import StepReadout
from rt1.model.timm import TIMM, Backbone, TimmBackbone, timm_grid
from rt1.model.token_learner import TokenLearner, Weights
from rt1.model.transformer import MaskKind, Transformer, TransformerConfig, at_least_float32, attention_mask
from rt1.preprocess import resize, to_float

Readout = Literal["action_tokens", "last_token", "mean_token"]

LONGEST = 8192
"""Most tokens of a window: one layer's attention takes 2 GB for each sample with 8 heads."""
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class RT1Config:
    """Every size and quirk of the network. The defaults are Google's rt1main (35 M parameters)."""

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
    """A: dimensions of an action, of the longest one where there are several embodiments."""
    embodiments: tuple[int, ...] = ()
    """Several embodiments on one trunk: the action dimensions of each. Each has its own output layer. Empty: one
    embodiment, with ``action_tokens`` dimensions."""
    bins: int = 256
    """V: bins per action dimension."""
    position_weights: Weights = "softmax"
    """How TokenLearner turns its maps into weights over the positions."""
    mask: MaskKind = "rt1"
    """Attention mask: Google's TensorFlow code, RT-1-X, or all tokens of one step seeing each other."""
    readout: Readout = "action_tokens"
    """Where an action is read. ``action_tokens``: as in RT-1, each dimension at the place before its empty action
    token. ``last_token``, ``mean_token``: all dimensions at the step's last image token, or at the mean of its image
    tokens. There are no action tokens then."""
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
        outputs = self.transformer.width * self.bins * (sum(self.embodiments) or self.action_tokens)
        check_total(self, outputs, MOST_WEIGHTS, "weights", "bins", "action_tokens")
        if self.embodiments and (min(self.embodiments) < 1 or max(self.embodiments) != self.action_tokens):
            raise ValueError(
                f"embodiments is {self.embodiments}, action_tokens {self.action_tokens}. Each has at least 1 "
                "dimension, and action_tokens must be the largest"
            )
        if min(self.grid) < 1:
            raise ValueError(f"image_size {self.image_size} shrinks to nothing in the backbone. Use a larger image")
        if self.transformer.condition not in (None, self.conditioning):
            raise ValueError(
                f"transformer.condition is {self.transformer.condition}, conditioning {self.conditioning}. The "
                "transformer's layers are conditioned as the backbone is, or not at all"
            )
        self.text.width(self.text_width)

    @property
    def step_tokens(self) -> int:
        """K + A: tokens of one step, or K where the readout needs no action tokens."""
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


class SharedImages(NamedTuple):
    """How windows are made of images that several of them share."""

    sample_X: Tensor
    """Integers (X,): the sample of each image."""
    image_WT: Tensor
    """Integers (W, T): the image at each step of each window."""
    sample_W: Tensor
    """Integers (W,): the sample of each window."""


class RT1(nn.Module):
    """The Robotics Transformer. Stateless: :class:`rt1.policy.policy.Policy` keeps the memory."""

    pixel_mean: Tensor
    pixel_std: Tensor
    mask_LL: Tensor
    size_M: Tensor

    def __init__(self, config: RT1Config) -> None:
        super().__init__()
        self.config = config
        self.text = TextInput(
            config.text, text_width=config.text_width, as_tokens=config.conditioning == "cross_attention"
        )
        self.backbone: Any = _make_backbone(config)  # a Backbone, of which converters read the parts
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
        self.step_readout = StepReadout(
            mask,
            image_tokens=config.image_tokens,
            step_tokens=config.step_tokens,
            attends_actions=config.readout == "action_tokens" and config.mask != "rt1x",
            reads_mean=config.readout == "mean_token",
        )
        if config.embodiments:
            self.register_buffer("size_M", torch.tensor(config.embodiments), persistent=False)

    def forward(
        self,
        image_BTCHW: Tensor,
        condition_B: Tensor,
        *,
        shared: SharedImages | None = None,
        valid_BT: Tensor | None = None,
        embodiment_B: Tensor | None = None,
    ) -> Tensor:
        """Predict the action of every step of a window.

        Args:
            image_BTCHW: RGB as :meth:`prepare` gives it, float (B, T, 3, *image_size) in [0, 1]. T may be shorter than
                the configured window.
            condition_B: what :attr:`text` makes of the text embeddings, (B, E) or (B, S, E).
            shared: how windows are made of shared images. The images are then (X, 3, *image_size), and the rows of
                ``valid_BT``, ``embodiment_B`` and the logits are the W windows.
            valid_BT: bool (B, T), False for padding, which nothing attends to. None means all are real.
            embodiment_B: integers (B,), the embodiment of each sample, for a network with several. None for others.

        Returns:
            float32 logits (B, T, A, V), 0 in dimensions that a sample's embodiment does not have.
        """
        if shared is None:
            if image_BTCHW.ndim != 5:
                raise ValueError(f"images have shape {tuple(image_BTCHW.shape)}, must be (B, T, 3, H, W)")
            batch, window = image_BTCHW.shape[:2]
            token_XKE = self.encode(image_BTCHW.flatten(0, 1), condition_B.repeat_interleave(window, dim=0))
            token_BTKE = token_XKE.unflatten(0, (batch, window))
        else:
            token_XKE = self.encode(image_BTCHW, condition_B.index_select(0, shared.sample_X))
            token_BTKE = token_XKE.index_select(0, shared.image_WT.flatten()).unflatten(0, shared.image_WT.shape)
            condition_B = condition_B.index_select(0, shared.sample_W)
        return self.decode(token_BTKE, condition_B, valid_BT=valid_BT, embodiment_B=embodiment_B)

    def predict(
        self,
        image_BTHWC: Tensor,
        text: Tensor,
        *,
        valid_BT: Tensor | None = None,
        embodiment_B: Tensor | None = None,
    ) -> Tensor:
        """Predict the action of every step of a window from images and text embeddings as they are.

        Args:
            image_BTHWC: RGB (B, T, H, W, 3), uint8 in [0, 255] or float in [0, 1], any height and width. T may be
                shorter than the configured window.
            text: text embeddings, float (B, E), or (B, T, E) with one for each step.
            valid_BT: see :meth:`forward`.
            embodiment_B: see :meth:`forward`.

        Returns:
            float32 logits (B, T, A, V).
        """
        if image_BTHWC.ndim != 5:
            raise ValueError(f"images have shape {tuple(image_BTHWC.shape)}, must be (B, T, H, W, 3)")
        (batch, window), width = image_BTHWC.shape[:2], self.config.text_width
        if tuple(text.shape) not in ((batch, width), (batch, window, width)):
            raise ValueError(
                f"the text embedding has shape {tuple(text.shape)}, must be ({batch}, {width}) or "
                f"({batch}, {window}, {width}) for these images and this network"
            )
        images, shared = self.prepare(image_BTHWC), None
        if text.ndim == 3:  # every step is a sample of its own
            images, text = images.flatten(0, 1), text.flatten(0, 1)
            step_BT = torch.arange(batch * window, device=text.device).view(batch, window)
            shared = SharedImages(sample_X=step_BT.flatten(), image_WT=step_BT, sample_W=step_BT[:, -1])
        return self(images, self.text(text), shared=shared, valid_BT=valid_BT, embodiment_B=embodiment_B)

    def prepare(self, image: Tensor) -> Tensor:
        """Bring images (..., H, W, 3), uint8 or float in [0, 1], to float (..., 3, *image_size) in [0, 1]."""
        prepared_XCHW = resize(to_float(image.reshape(-1, *image.shape[-3:])), self.config.image_size)
        return prepared_XCHW.unflatten(0, image.shape[:-3])

    def encode(self, image_XCHW: Tensor, condition_X: Tensor) -> Tensor:
        """Turn prepared images (X, 3, H, W) in [0, 1] into image tokens (X, K, E)."""
        return self.token_learner(self.positions(image_XCHW, condition_X))

    def positions(self, image_XCHW: Tensor, condition_X: Tensor) -> Tensor:
        """Turn prepared images into the grid (X, P, E) that TokenLearner pools."""
        mean, std = (v[:, None, None] for v in (self.pixel_mean, self.pixel_std))
        return self.backbone((image_XCHW - mean) / std, condition_X)

    def decode(
        self,
        token_BTKE: Tensor,
        condition_B: Tensor | None = None,
        *,
        valid_BT: Tensor | None = None,
        embodiment_B: Tensor | None = None,
        step_B: Tensor | None = None,
    ) -> Tensor:
        """Turn image tokens (B, T, K, E) into float32 logits (B, T, A, V).

        The condition is needed where the transformer's layers are conditioned on the text, too. With ``step_B``,
        integers in 0..T-1, the logits are those of one step of each sample, (B, A, V), and only the rows that these
        depend on are computed. That is for a network of one embodiment, in evaluation mode.
        """
        if step_B is not None:
            return self._logits(self.step_readout(self.transformer, token_BTKE, step_B, condition_B))
        hidden_BLD = self.hidden(token_BTKE, condition_B, valid_BT=valid_BT, embodiment_B=embodiment_B)
        hidden_BTSD = hidden_BLD.unflatten(1, (token_BTKE.shape[1], self.config.step_tokens))
        # One place early: the last image token predicts dimension 0, action token k predicts k + 1.
        tokens, actions = self.config.image_tokens, self.config.action_tokens
        rows = {
            "action_tokens": slice(tokens - 1, tokens - 1 + actions),
            "last_token": slice(tokens - 1, tokens),
            "mean_token": slice(tokens),
        }
        return self._logits(hidden_BTSD[..., rows[self.config.readout], :], embodiment_B)

    def hidden(
        self,
        token_BTKE: Tensor,
        condition_B: Tensor | None = None,
        *,
        valid_BT: Tensor | None = None,
        embodiment_B: Tensor | None = None,
    ) -> Tensor:
        """Return the transformer's stream (B, L, D) for image tokens (B, T, K, E)."""
        if bool(self.config.embodiments) == (embodiment_B is None):
            raise ValueError(
                "this network has one embodiment. Leave embodiment_B out"
                if embodiment_B is not None
                else f"this network has {len(self.config.embodiments)} embodiments. Give embodiment_B, or take the "
                "network of one with rt1.model.heads.single_embodiment"
            )
        batch, window = token_BTKE.shape[:2]
        if window > self.config.window:
            raise ValueError(f"{window} steps were given. This network has a window of {self.config.window}")
        if self.config.transformer.condition is not None and condition_B is None:
            raise ValueError("this network's transformer is conditioned on the text. Give decode() the condition")
        # Action tokens are zero vectors in training and inference: RT-1 has no action history (docs/network.md).
        empty = self.config.step_tokens - self.config.image_tokens
        action = token_BTKE.new_zeros(batch, window, empty, self.config.token_width)
        sequence_BLE = torch.cat([token_BTKE, action], dim=2).flatten(1, 2)
        mask = self._mask(sequence_BLE.shape[1], valid_BT, embodiment_B)
        return self.transformer.hidden(sequence_BLE, mask, condition_B)

    def used(self, embodiment_B: Tensor) -> Tensor:
        """Return bool (B, A): True for the dimensions that each sample's embodiment has."""
        return torch.arange(self.config.action_tokens, device=embodiment_B.device) < self.size_M[embodiment_B][:, None]

    def _mask(self, length: int, valid_BT: Tensor | None, embodiment_B: Tensor | None) -> Tensor:
        """Return who sees whom, bool (L, L) or (B, 1, L, L).

        Nothing sees the action tokens of dimensions that a sample's embodiment does not have. So an embodiment acts
        as in a network of its own, see :func:`rt1.model.heads.single_embodiment`.
        """
        mask = self.mask_LL[:length, :length]
        real_BL = None
        if valid_BT is not None:
            real_BL = valid_BT.repeat_interleave(self.config.step_tokens, dim=1)
        if (
            embodiment_B is not None
            and self.config.readout == "action_tokens"
            and len(set(self.config.embodiments)) > 1
        ):
            used_BS = F.pad(self.used(embodiment_B), (self.config.image_tokens, 0), value=True)
            used_BL = used_BS.repeat(1, length // self.config.step_tokens)
            real_BL = used_BL if real_BL is None else used_BL & real_BL
        if real_BL is None:
            return mask
        # A padded row still sees itself: a fully masked row would be NaN, and nothing reads it.
        itself = torch.eye(length, dtype=torch.bool, device=mask.device)[None, None]
        return (mask & real_BL[:, None, None, :]) | itself & ~real_BL[:, None, :, None]

    def _logits(self, read: Tensor, embodiment_B: Tensor | None = None) -> Tensor:
        """Return float32 logits (..., A, V) from the stream at the rows that are read, (..., R, D)."""
        heads = () if embodiment_B is None else (embodiment_B,)
        if self.config.readout == "action_tokens":
            logits_BTAV = at_least_float32(self.transformer.output(read, *heads))
            return (
                logits_BTAV
                if embodiment_B is None
                else logits_BTAV.masked_fill(~self.used(embodiment_B)[:, None, :, None], 0.0)
            )
        logits = at_least_float32(self.transformer.output(read.mean(-2), *heads))
        return logits.unflatten(-1, (self.config.action_tokens, self.config.bins))


def _vocabulary(config: RT1Config) -> int | list[int]:
    """Return how many logits the output layer gives at a place that is read, or each head's."""
    sizes = config.embodiments or (config.action_tokens,)
    vocabularies = [config.bins if config.readout == "action_tokens" else config.bins * size for size in sizes]
    return vocabularies if config.embodiments else vocabularies[0]


def _make_backbone(config: RT1Config) -> Backbone:
    widths = {"text_width": config.text.width(config.text_width), "output_width": config.token_width}
    if config.backbone == "efficientnet":
        return FiLMEfficientNet(config.efficientnet, **widths, conditioning=config.conditioning)
    if config.backbone == "maxvit":
        return MaxViT(config.maxvit, **widths, conditioning=config.conditioning)
    return TimmBackbone(config.backbone, config.image_size, **widths, conditioning=config.conditioning)
