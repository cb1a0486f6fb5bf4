"""Noise that drifts."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.simulate.noise import SECONDS, OrnsteinUhlenbeckNoise

SPEC = ActionSpec(
    parts=(
        Continuous(name="move", low=(-2.0,), high=(2.0,)),
        Discrete(name="mode", choices=3),
        Continuous(name="gripper_closedness", low=(-2.0,), high=(2.0,)),
    ),
    bins=16,
)


def _noise(seed: int, *, noise: float = 0.4, steps: int = 4000) -> np.ndarray:
    drift = OrnsteinUhlenbeckNoise(SPEC, control_rate=20.0, noise=noise, seed=seed)
    return np.stack([drift.apply(np.zeros(3, np.float32)) for _ in range(steps)])


def test_the_same_seed_gives_the_same_noise() -> None:
    assert np.array_equal(_noise(1, steps=9), _noise(1, steps=9))
    assert not np.array_equal(_noise(1, steps=9), _noise(2, steps=9))


def test_it_is_as_strong_and_as_slow_as_it_says_and_spares_gripper_and_choice() -> None:
    for seed in range(3):
        noise = _noise(seed)
        assert not noise[:, 1:].any()
        assert 0 < noise[:, 0].std() <= 0.4 * 2.0 * 1.1
        later = np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]
        assert later == pytest.approx(np.exp(-1 / (20.0 * SECONDS)), abs=0.05)


def test_what_is_executed_stays_within_the_bounds() -> None:
    drift = OrnsteinUhlenbeckNoise(SPEC, control_rate=20.0, noise=2.0, seed=0)
    executed = np.stack([drift.apply(np.array([2.0, 1.0, 2.0], np.float32)) for _ in range(200)])
    assert executed.min() >= -2.0
    assert executed.max() <= 2.0
    assert executed.dtype == np.float32


def test_no_noise_changes_nothing() -> None:
    assert not _noise(0, noise=0.0, steps=5).any()
