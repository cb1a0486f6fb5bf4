"""Several robots in one call: each acts as it would alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1 import BatchedPolicy, Policy
from rt1.actions import ActionSpec, Continuous
from rt1.model.rt1 import RT1

SPEC = ActionSpec(bins=16, parts=(Continuous(name="hand", low=(-1.0,) * 3, high=(1.0,) * 3),))
OPEN, CLOSE = np.random.default_rng(3).normal(size=(2, 8)).astype(np.float32)


@pytest.fixture
def policy(make_network: Callable[..., RT1]) -> Policy:
    return Policy(make_network(), SPEC, encode_text=lambda text: OPEN if text == "open" else CLOSE)


def _images(count: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(2).integers(0, 256, (count, 40, 56, 3), dtype=np.uint8))


def _alone(policy: Policy, images: list[NDArray[np.uint8]], instruction: str) -> NDArray[np.float32]:
    session = policy.new_session()
    session.reset(instruction)
    return np.stack([session.act_vector(image) for image in images])


def test_each_robot_of_a_batch_gets_the_action_it_gets_alone(policy: Policy) -> None:
    first, second = _images(8)[:4], _images(8)[4:]
    batched = BatchedPolicy(policy)
    pairs = zip(first, second, strict=True)
    together = np.stack([batched.act_vectors([*pair], ["open", "close"]) for pair in pairs], axis=1)
    np.testing.assert_array_equal(together, [_alone(policy, first, "open"), _alone(policy, second, "close")])


def test_a_robot_with_a_new_instruction_starts_a_new_episode(policy: Policy) -> None:
    images = _images(4)
    batched = BatchedPolicy(policy)
    actions = [
        batched.act_vectors([image], [text]) for image, text in zip(images, ("open",) * 2 + ("close",) * 2, strict=True)
    ]
    np.testing.assert_array_equal(actions[2:], _alone(policy, images[2:], "close")[:, None])


def test_reset_forgets_the_episodes_and_their_number(policy: Policy) -> None:
    images = _images(3)
    batched = BatchedPolicy(policy)
    first = batched.act(images, ["open"] * 3)
    assert first["hand"].shape == (3, 3)
    batched.reset()
    np.testing.assert_array_equal(batched.act(images[:1], ["open"])["hand"], first["hand"][:1])


def test_another_number_of_robots_is_refused_and_changes_nothing(policy: Policy) -> None:
    images = _images(3)
    batched = BatchedPolicy(policy)
    batched.act_vectors(images[:2], ["open"] * 2)
    with pytest.raises(ValueError, match=r"3 images .* 2 robots.*reset"):
        batched.act_vectors(images, ["open"] * 3)
    with pytest.raises(ValueError, match="2 images and 1 instructions"):
        batched.act_vectors(images[:2], ["open"])
