"""How far two streams of logits agree, for instance those of a network and of its export. Numpy only.

Shape letters: N steps, A action dimensions, V bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rt1.actions import FloatArray

CLEAR_GAP = 0.05
"""A token is clear where its logit is above the next one by more than this. Below it, rounding may decide."""
LEAST_AGREEMENT = 0.99
"""Share of the clear tokens that must be equal for two streams to act alike."""
ROUNDING = 1e-4
"""Largest difference of logits that is float32 rounding, as a share of the largest logit."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the logits of the same steps differ from reference logits. Agreements of different steps add up."""

    steps: int
    """Steps compared."""
    tokens: int
    """Action tokens compared."""
    tokens_agreeing: int
    """Action tokens that are equal."""
    clear_tokens: int
    """Action tokens whose first and second reference logit are more than ``CLEAR_GAP`` apart."""
    clear_tokens_agreeing: int
    """Clear tokens that are equal."""
    logit_difference: float
    """Largest absolute difference of a logit. NaN where a logit is NaN."""
    largest_logit: float
    """Largest absolute reference logit."""

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            steps=self.steps + other.steps,
            tokens=self.tokens + other.tokens,
            tokens_agreeing=self.tokens_agreeing + other.tokens_agreeing,
            clear_tokens=self.clear_tokens + other.clear_tokens,
            clear_tokens_agreeing=self.clear_tokens_agreeing + other.clear_tokens_agreeing,
            # np.maximum keeps a NaN, which max() may lose.
            logit_difference=float(np.maximum(self.logit_difference, other.logit_difference)),
            largest_logit=float(np.maximum(self.largest_logit, other.largest_logit)),
        )

    @property
    def other_tokens(self) -> int:
        """Action tokens that differ. Rounding may decide a tie."""
        return self.tokens - self.tokens_agreeing

    @property
    def clear_agreement(self) -> float:
        """Share of the clear tokens that agree, 1 where there are none."""
        return self.clear_tokens_agreeing / self.clear_tokens if self.clear_tokens else 1.0

    @property
    def holds(self) -> bool:
        """True where the largest difference is at most ``ROUNDING`` of the largest logit, or of 1 if that is more."""
        return self.logit_difference <= ROUNDING * max(1.0, self.largest_logit)  # False for NaN


def compare_logits(reference_NAV: FloatArray, logits_NAV: FloatArray, *, gap: float = CLEAR_GAP) -> Agreement:
    """Compare the logits of N steps with reference logits of the same steps.

    A token with a logit that is not finite never agrees. ``gap`` decides which tokens are clear.
    """
    second_NA, first_NA = np.moveaxis(np.partition(reference_NAV, -2, axis=-1)[..., -2:], -1, 0)
    clear_NA = first_NA - second_NA > gap
    agrees_NA = (reference_NAV.argmax(-1) == logits_NAV.argmax(-1)) & np.isfinite(logits_NAV).all(-1)
    return Agreement(
        steps=len(reference_NAV),
        tokens=agrees_NA.size,
        tokens_agreeing=int(agrees_NA.sum()),
        clear_tokens=int(clear_NA.sum()),
        clear_tokens_agreeing=int((clear_NA & agrees_NA).sum()),
        logit_difference=float(np.abs(reference_NAV - logits_NAV).max(initial=0.0)),
        largest_logit=float(np.abs(reference_NAV).max(initial=0.0)),
    )


NOTHING_COMPARED = compare_logits(np.zeros((0, 1, 2), np.float32), np.zeros((0, 1, 2), np.float32))
