"""Scores of predicted action tokens against the recorded ones.

Every number is a mean over the counted steps (mask True), per dimension (``accuracy/x``) or over the dimensions too
(``accuracy``):

- ``loss``, ``loss/NAME``: cross-entropy of the recorded token, nats per token, with one-hot targets.
- ``accuracy``, ``accuracy/NAME``: share of tokens predicted exactly, 0..1.
- ``within_1_bin``, ``within_5_bins/NAME``, ...: share of tokens at most so many bins off, 0..1. The choices of a
  discrete dimension have no neighbours: there only the exact choice counts.
- ``l1/NAME``, continuous dimensions: absolute difference in physical units between what the most likely token decodes
  to and the recorded action as it was recorded, not clipped to the bounds.
- ``l1_of_range``: the same as a share of the dimension's range (upper less lower bound), mean over the continuous
  dimensions, one number for a mixed action.
- ``wrong_choice/NAME``, discrete dimensions: share of steps whose decoded choice is not the recorded one, 0..1.

The most likely token is the one a policy acts on. A perfect prediction still has an ``l1`` of up to one bin width,
half of one on average, where the recorded actions are given: the encoder truncates to the bin's lower edge, which is
what a token decodes to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rt1.actions import ActionSpec, FloatArray, TokenArray

_ROWS = ("loss", "accuracy", "error")


class ActionScores:
    """Sums over steps of the scores of predictions, which add up over batches and processes.

    The sums are one float64 vector, whose order is fixed by the action spec and ``within``:
    ``torch.distributed.all_reduce(scores.sums)`` makes them those of all ranks.
    """

    def __init__(
        self, action_spec: ActionSpec, *, within: Sequence[int] = (1, 5), device: torch.device | str = "cpu"
    ) -> None:
        """Start at zero, on ``device``, with the distances in bins, at least 1, of the ``within_N_bins`` scores.

        A device without float64 leaves the sums and their terms to the CPU.
        """
        if any(bins < 1 for bins in within) or len(set(within)) != len(within):
            raise ValueError(f"within is {tuple(within)}, must hold distances of at least 1 bin, none twice")
        self.action_spec, self.within = action_spec, tuple(within)
        rows = len(_ROWS) + len(self.within)
        device = device if has_float64(device) else "cpu"
        self.sums = torch.zeros(1 + rows * action_spec.size, dtype=torch.float64, device=device)
        """The number of counted steps, then a row of one sum per dimension for each kind of number."""

    @property
    def steps(self) -> int:
        """Steps counted so far."""
        return int(self.sums[0])

    def add(self, logits_BTAV: Tensor, token_BTA: Tensor, mask_BT: Tensor, action_BTA: Tensor | None = None) -> None:
        """Count the steps of a batch, whose tensors are on one device.

        Args:
            logits_BTAV: float (B, T, A, V), of the network.
            token_BTA: integers (B, T, A), the recorded tokens, 0..V-1.
            mask_BT: bool (B, T), True for the steps that count.
            action_BTA: float (B, T, A), the recorded actions in physical units. None decodes the recorded tokens, and
                errors are whole numbers of bin widths.

        Raises:
            ValueError: shapes that do not fit each other or the action spec.
        """
        self._check(logits_BTAV, token_BTA, mask_BT, action_BTA)
        device = logits_BTAV.device if has_float64(logits_BTAV.device) else torch.device("cpu")
        logits_NAV, token_NA = logits_BTAV[mask_BT].float().to(device), token_BTA[mask_BT].long().to(device)
        predicted_NA = logits_NAV.argmax(dim=-1)
        action_NA = self._decode(token_NA) if action_BTA is None else action_BTA[mask_BT].to(device).double()
        error_NA = (self._decode(predicted_NA) - action_NA).abs()
        is_discrete_A = torch.from_numpy(self.action_spec.discrete_choices > 0).to(error_NA.device)
        distance_NA = (predicted_NA - token_NA).abs()
        loss_NA = F.cross_entropy(logits_NAV.flatten(0, 1), token_NA.flatten(), reduction="none").view_as(token_NA)
        close = [torch.where(is_discrete_A, distance_NA == 0, distance_NA <= bins) for bins in self.within]
        rows = (loss_NA, distance_NA == 0, torch.where(is_discrete_A, error_NA > 0, error_NA), *close)
        sums = torch.cat([row.double().sum(dim=0) for row in rows])
        self.sums[0] += len(token_NA)
        self.sums[1:] += sums.to(self.sums.device)

    def load_sums(self, sums: Tensor) -> None:
        """Copy the sums of another :class:`ActionScores` with the same action spec and ``within``."""
        if sums.shape != self.sums.shape:
            raise ValueError(
                f"the sums have shape {tuple(sums.shape)}, these scores {tuple(self.sums.shape)}. "
                "Use one action spec and one choice of within"
            )
        self.sums.copy_(sums)

    def values(self) -> dict[str, float]:
        """Return every number by name, in the units that this module lists. Empty where no step was counted."""
        if self.steps == 0:
            return {}
        sums = self.sums.cpu().numpy()
        means = sums[1:].reshape(-1, self.action_spec.size) / sums[0]
        names = [*_ROWS, *(_within_name(bins) for bins in self.within)]
        rows = dict(zip(names, means, strict=True))
        error = rows.pop("error")
        values = {name: float(row.mean()) for name, row in rows.items()}
        is_discrete = self.action_spec.discrete_choices > 0
        if not is_discrete.all():
            span = self.action_spec.high.astype(np.float64) - self.action_spec.low
            values["l1_of_range"] = float((error / span)[~is_discrete].mean())
        for index, dimension in enumerate(self.action_spec.dimension_names):
            values |= {f"{name}/{dimension}": float(row[index]) for name, row in rows.items()}
            values[f"{'wrong_choice' if is_discrete[index] else 'l1'}/{dimension}"] = float(error[index])
        return values

    def _decode(self, token_NA: Tensor) -> Tensor:
        return torch.from_numpy(self.action_spec.decode(token_NA.cpu().numpy())).to(token_NA.device).double()

    def _check(self, logits_BTAV: Tensor, token_BTA: Tensor, mask_BT: Tensor, action_BTA: Tensor | None) -> None:
        shape = (*mask_BT.shape, self.action_spec.size)
        expected = {"logits": (logits_BTAV, (*shape, self.action_spec.bins)), "tokens": (token_BTA, shape)}
        if action_BTA is not None:
            expected["actions"] = (action_BTA, shape)
        for name, (tensor, expected_shape) in expected.items():
            if tensor.shape != expected_shape:
                raise ValueError(
                    f"the {name} have shape {tuple(tensor.shape)}, the mask and the action spec ask for "
                    f"{expected_shape}. Give those of the same steps and the network's own action spec"
                )


@cache
def has_float64(device: torch.device | str) -> bool:
    """Return whether a device can hold float64. Apple's GPUs (mps) cannot."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def values_of_all(scores: Mapping[str, ActionScores]) -> dict[str, float]:
    """Return the numbers of several embodiments' scores, or those of the one there is under their plain names.

    ``accuracy/EMBODIMENT`` and ``accuracy/EMBODIMENT/DIMENSION`` are an embodiment's, ``accuracy`` is the mean over all
    steps, so that an embodiment counts by its steps. One without steps has no numbers.
    """
    if len(scores) == 1:
        return next(iter(scores.values())).values()
    values_by_name = {name: embodiment_scores.values() for name, embodiment_scores in scores.items()}
    plain = dict.fromkeys(key for values in values_by_name.values() for key in values if "/" not in key)
    overall = {}
    for key in plain:
        steps = {name: scores[name].steps for name, values in values_by_name.items() if key in values}
        overall[key] = sum(values_by_name[name][key] * count for name, count in steps.items()) / sum(steps.values())
    for name, values in values_by_name.items():
        for key, value in values.items():
            kind, slash, dimension = key.partition("/")
            overall[f"{kind}/{name}{slash}{dimension}"] = value
    return overall


def _within_name(bins: int) -> str:
    return f"within_{bins}_bin" if bins == 1 else f"within_{bins}_bins"


CONFIDENCE_BINS = 20
"""R: equal bins of confidence between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Predictions grouped by confidence, the probability that the softmax gave the predicted token."""

    count: NDArray[np.float64]  # (R,) predictions in each bin
    confidence: NDArray[np.float64]  # (R,) their mean confidence, NaN where there is none
    accuracy: NDArray[np.float64]  # (R,) share of them that are right, NaN where there is none

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1: the mean over the predictions of |accuracy - confidence| of their bin."""
        filled = self.count > 0
        gap = np.abs(self.accuracy - self.confidence)[filled]
        return float((self.count[filled] * gap).sum() / self.count.sum())


class TokenCounts:
    """Counts of predicted against recorded tokens, and of confidences."""

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
        divisor = np.where(count > 0, count, np.nan)
        return Reliability(count=count, confidence=confidence / divisor, accuracy=right / divisor)

    def differences(self, dimension: int) -> NDArray[np.int64]:
        """Return how often predicted less recorded token is -(V - 1) .. V - 1, (2 V - 1,)."""
        confusion_VV, bins = self.confusion_AVV[dimension], self.action_spec.bins
        return np.array([np.trace(confusion_VV, offset) for offset in range(1 - bins, bins)])

    def most_frequent(self) -> NDArray[np.float64]:
        """Return the share of each dimension's most frequent recorded token, (A,): the accuracy without any input."""
        recorded_AV = self.confusion_AVV.sum(axis=2)
        return recorded_AV.max(axis=1) / recorded_AV.sum(axis=1)
