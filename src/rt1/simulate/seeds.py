"""Seeds of episodes: recordings take even ones, trials odd ones, so that no trial was ever recorded."""

from __future__ import annotations

import numpy as np

_PER_SEED = 1_000_000
_ATTEMPTS = 100


def recording_seed(seed: int, episode: int, attempt: int) -> int:
    """Return the environment seed of one attempt at an episode of a recording made with ``seed``."""
    if not (0 <= attempt < _ATTEMPTS and 0 <= episode < _PER_SEED // _ATTEMPTS and seed >= 0):
        raise ValueError(
            f"seed {seed}, episode {episode}, attempt {attempt}: the seed must be 0 or more, the episode of a task "
            f"below {_PER_SEED // _ATTEMPTS}, the attempt below {_ATTEMPTS}"
        )
    return 2 * (seed * _PER_SEED + episode * _ATTEMPTS + attempt)


def trial_seed(seed: int, trial: int) -> int:
    """Return the environment seed of a trial of an evaluation made with ``seed``."""
    if not (0 <= trial < _PER_SEED and seed >= 0):
        raise ValueError(f"seed {seed}, trial {trial}: both must be 0 or more, the trial below {_PER_SEED}")
    return 2 * (seed * _PER_SEED + trial) + 1


def collection_seed(seed: int, round_number: int, attempt: int) -> int:
    """Return the environment seed of a policy's attempt at an episode to learn from: even, spread over 32 bits.

    It is never that of a trial, and that of a recording with a chance of one in many millions.
    """
    if min(seed, round_number, attempt) < 0:
        raise ValueError(f"seed {seed}, round {round_number}, attempt {attempt}: all must be 0 or more")
    return int(np.random.SeedSequence((seed, round_number, attempt)).generate_state(1)[0]) & ~1
