"""Which token was predicted where which was recorded, and how sure the network was: counts that do not grow.

Shape letters: N steps, A action dimensions, V bins, R confidence bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray, TokenArray

CONFIDENCE_BINS = 20
"""R: equal bins of confidence between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Predictions grouped by confidence, the probability that the softmax gave the predicted token."""

    count: NDArray[np.float64]
    """(R,) predictions in each bin."""
    confidence: NDArray[np.float64]
    """(R,) their mean confidence; NaN where there is none."""
    accuracy: NDArray[np.float64]
    """(R,) share of them that are right; NaN where there is none."""

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1: the mean over the predictions of |accuracy - confidence| of their bin."""
        filled = self.count > 0
        gap = np.abs(self.accuracy - self.confidence)[filled]
        return float((self.count[filled] * gap).sum() / self.count.sum())


class TokenCounts:
    """Counts of predicted against recorded tokens, and of confidences; their size depends on the action spec only."""

    def __init__(self, action_spec: ActionSpec) -> None:
        self.action_spec = action_spec
        dimensions, bins = action_spec.size, action_spec.bins
        self.confusion_AVV: NDArray[np.int64] = np.zeros((dimensions, bins, bins), dtype=np.int64)
        """How often, per dimension, a recorded token (first V) was predicted as which (second V)."""
        self._sums_3AR = np.zeros((3, dimensions, CONFIDENCE_BINS))  # predictions, their confidence, those right

    def add(self, logits_NAV: FloatArray, token_NA: TokenArray) -> None:
        """Count steps: float32 logits (N, A, V) and the recorded tokens, integers (N, A)."""
        predicted_NA, _ = self.action_spec.decode_logits(logits_NAV)
        # Probability of the likeliest token: exp(0) over the sum, with the largest logit taken off.
        shifted_NAV = logits_NAV.astype(np.float64) - logits_NAV.max(axis=-1, keepdims=True)
        confidence_NA = 1.0 / np.exp(shifted_NAV).sum(axis=-1)
        bins = self.action_spec.bins
        first_A = np.arange(self.action_spec.size)
        np.add.at(self.confusion_AVV.reshape(-1), ((first_A * bins + token_NA) * bins + predicted_NA).ravel(), 1)
        place_NA = np.minimum((confidence_NA * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
        flat = (first_A * CONFIDENCE_BINS + place_NA).ravel()
        right_NA = (predicted_NA == token_NA).astype(np.float64)
        for sums_AR, value_NA in zip(self._sums_3AR, (np.ones_like(right_NA), confidence_NA, right_NA), strict=True):
            np.add.at(sums_AR.reshape(-1), flat, value_NA.ravel())

    def reliability(self, dimension: int | None = None) -> Reliability:
        """Return the reliability of one dimension, or of all tokens together."""
        count, confidence, right = self._sums_3AR.sum(axis=1) if dimension is None else self._sums_3AR[:, dimension]
        some = np.where(count > 0, count, np.nan)
        return Reliability(count=count, confidence=confidence / some, accuracy=right / some)

    def differences(self, dimension: int) -> NDArray[np.int64]:
        """Return how often predicted less recorded token is -(V - 1) .. V - 1, (2 V - 1,)."""
        confusion_VV, bins = self.confusion_AVV[dimension], self.action_spec.bins
        return np.array([np.trace(confusion_VV, offset) for offset in range(1 - bins, bins)])

    def most_frequent(self) -> NDArray[np.float64]:
        """Return the share of the recorded tokens that are the most frequent one of their dimension, (A,).

        This is the accuracy of a prediction that never looks.
        """
        recorded_AV = self.confusion_AVV.sum(axis=2)
        return recorded_AV.max(axis=1) / recorded_AV.sum(axis=1)
