"""Checks of a policy against its base class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.policy.base import BasePolicy, Instruction
from rt1.testing.common import check_members, check_spec, is_floats, plain, refuse, words

_STEPS = 4
_SIZES = ((64, 64), (48, 80))


def check_policy(policy: BasePolicy, *, instruction: Instruction = "pick up the block", seed: int = 0) -> None:
    """Check a policy against :class:`rt1.policy.base.BasePolicy`.

    Checked are the members, a step before the first reset, the logits (finite float32 (A, V)) and actions for images of
    several sizes and both types, that images stay unchanged, and that an episode depends on its own images alone.

    Args:
        policy: the policy. Its episode is lost.
        instruction: a sentence or a text embedding that it takes.
        seed: seed of the images.

    Raises:
        ValueError: a promise is broken. One line with what was found and what is required.
    """
    check_members(policy, "BasePolicy", ("action_spec",), ("reset", "logits", "act", "act_vector"))
    check_spec(policy.action_spec)
    random = np.random.default_rng(seed)
    images = [random.integers(0, 256, (*_SIZES[0], 3), dtype=np.uint8) for _ in range(_STEPS)]
    _check_step_before_reset(policy, images[0])
    policy.reset(instruction)
    first = [_checked_logits(policy, image) for image in images]
    policy.reset(instruction)
    again = [_checked_logits(policy, image) for image in images]
    if not all(np.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in zip(first, again, strict=True)):
        refuse("after a reset the same images give other logits. reset() must forget the episode before it")
    policy.reset(instruction)
    _checked_logits(policy, images[0].astype(np.float32) / 255)
    _checked_logits(policy, np.zeros((*_SIZES[1], 3), np.uint8))
    _check_actions(policy, images[0])


def _check_step_before_reset(policy: BasePolicy, image: NDArray[np.uint8]) -> None:
    try:
        policy.logits(image)
    except (RuntimeError, ValueError):
        return
    refuse("logits() before the first reset() went through, must raise a RuntimeError that says to call reset()")


def _checked_logits(policy: BasePolicy, image: NDArray[np.generic]) -> FloatArray:
    before, spec = image.copy(), policy.action_spec
    logits_AV = policy.logits(image)
    if not is_floats(logits_AV, 2) or logits_AV.shape != (spec.size, spec.bins):
        refuse(f"the logits are {words(logits_AV)}, must be finite float32 ({spec.size}, {spec.bins})")
    if not np.array_equal(image, before):
        refuse("logits() changed the image. It must leave it as it is")
    return logits_AV.copy()


def _check_actions(policy: BasePolicy, image: NDArray[np.uint8]) -> None:
    spec = policy.action_spec
    vector, action = policy.act_vector(image), plain(policy.act(image))
    if not is_floats(vector, 1) or len(vector) != spec.size or spec.out_of_bounds(vector).any():
        refuse(f"act_vector() returned {words(vector)}, must be float32 ({spec.size},) within the bounds")
    parts = [part.name for part in spec.parts]
    if not isinstance(action, dict) or list(action) != parts:
        refuse(f"act() returned {action!r:.200}, must be a dict with the parts {', '.join(parts)}")
