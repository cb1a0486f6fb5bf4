"""The loss: cross-entropy of action tokens, one-hot as Google's, or spread over neighboring bins.

Shape letters: B batch, T window, A action dimensions, V bins.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rt1.model.transformer import at_least_float32

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
    """Return the scalar cross-entropy of action tokens (docs/network.md).

    Args:
        logits_BTAV: float (B, T, A, V).
        token_BTA: integers (B, T, A), -1 in dimensions that the sample's action does not have: a step's loss is the
            mean over those it has.
        mask_BT: bool (B, T), False for steps that count nothing (padding, terminal steps). None counts all.
        form: ``mean`` averages over the counted steps. ``google`` divides by B*T and again by B*T*step_tokens, as
            the official code does. With Adam its eps of 1e-7 is then no longer negligible.
        step_tokens: K + A, for the ``google`` form.
        spread_A: float (A,), or (B, 1, A) where samples differ, standard deviation in bins of the Gaussian that spreads
            a target over the neighbouring bins, 0 for one-hot as in Google's code. None means 0 everywhere. It tells
            the network that bins are ordered, which it must otherwise learn from data.
        smoothing: share of the target, in [0, 1), that goes to all V bins alike (label smoothing), after the spread, 0
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
    if mask_BT is None:
        mask_BT = torch.ones_like(entropy_BT, dtype=torch.bool)
    total = (entropy_BT * mask_BT).sum()
    if form == "google":
        steps = entropy_BT.numel()
        return total / steps / (steps * step_tokens)
    return total / mask_BT.sum().clamp(min=1)


def spread_targets(token_BTA: Tensor, spread_A: Tensor, *, bins: int) -> Tensor:
    """Return target probabilities (B, T, A, V): a Gaussian around each token, one-hot where the spread is 0."""
    distance_BTAV = torch.arange(bins, device=token_BTA.device) - token_BTA[..., None]
    spread_A1 = spread_A.clamp(min=1e-3)[..., None]  # a thousandth of a bin leaves nothing for the neighbours
    weight_BTAV = torch.exp(-0.5 * (distance_BTAV / spread_A1) ** 2)
    return weight_BTAV / weight_BTAV.sum(-1, keepdim=True)
