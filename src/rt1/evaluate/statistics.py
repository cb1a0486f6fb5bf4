"""How sure a counted success rate is: the Wilson score interval."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval that holds the true success rate with the given confidence.

    Args:
        successes: trials that reached the goal, ``0..trials``.
        trials: independent trials, at least 1.
        confidence: probability in (0, 1).

    Returns:
        Lower and upper end, ``0 <= low <= successes / trials <= high <= 1``.

    Raises:
        ValueError: a number outside its range.

    >>> low, high = wilson_interval(19, 20)
    >>> f"{low:.4f} {high:.4f}"
    '0.7639 0.9911'
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"{successes} successes in {trials} trials; there must be at least 1 trial and 0..trials "
            "successes; count every trial once"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1; use 0.95 for 95 %")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At 0 and at all successes one end is the rate itself; rounding must not move it past.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
