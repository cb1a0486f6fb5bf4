"""The check of a policy passes what keeps its promises and names what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, Discrete, FloatArray
from rt1.policy.base import BasePolicy, Instruction
from rt1.policy.policy import Policy
from rt1.testing import check_policy

SPEC = ActionSpec(
    parts=(Continuous(name="move", low=(-1.0,), high=(1.0,)), Discrete(name="terminate", choices=3)), bins=16
)


class Brightness(BasePolicy):
    """Acts on the mean of all images of its episode."""

    def __init__(self) -> None:
        self.action_spec = SPEC
        self.seen: list[float] | None = None

    def reset(self, instruction: Instruction) -> None:
        assert len(instruction)
        self.seen = []

    def logits(self, image: NDArray[Any]) -> FloatArray:
        if self.seen is None:
            raise RuntimeError("call reset() first")
        scale = 255 if image.dtype == np.uint8 else 1
        self.seen.append(float(image.mean()) / scale)
        return np.outer([1, 2], np.arange(16) - 16 * np.mean(self.seen)).astype(np.float32)


def test_a_policy_that_keeps_its_promises_passes() -> None:
    check_policy(Brightness())


def test_our_own_policy_passes(make_network: Callable[..., Any]) -> None:
    spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 3, high=(1.0,) * 3),), bins=16)
    check_policy(Policy(make_network(), spec), instruction=np.ones(8, np.float32))


def _changed(name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Change what a method returns."""

    def apply(policy: Any) -> None:
        method = getattr(policy, name)
        setattr(policy, name, lambda *words: change(method(*words)))

    return apply


def _remembers(policy: Any) -> None:
    policy.seen = []
    policy.reset = lambda _: None
    _needs_reset = policy.logits
    first = [True]

    def logits(image: Any) -> Any:
        if first.pop() if first else False:
            raise RuntimeError
        return _needs_reset(image)

    policy.logits = logits


def _scribbles(policy: Any) -> None:
    logits = policy.logits

    def scribble(image: Any) -> Any:
        result = logits(image)
        image[0, 0] = 0
        return result

    policy.logits = scribble


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: setattr(p, "action_spec", None), "action_spec is None"),
        (lambda p: setattr(p, "reset", None), "reset is None"),
        (lambda p: p.reset("go"), "first reset"),
        (_changed("logits", lambda logits: logits.astype(np.float64)), "float64"),
        (_changed("logits", lambda logits: logits[:, :8]), r"\(2, 8\).*\(2, 16\)"),
        (_changed("logits", lambda logits: logits * np.float32(np.inf)), "not all finite"),
        (_scribbles, "changed the image"),
        (_remembers, "forget"),
        (_changed("act_vector", lambda action: action + 5), "act_vector.*bounds"),
        (_changed("act", lambda action: {"move": action["move"]}), "move, terminate"),
    ],
)
def test_a_policy_that_breaks_a_promise_is_refused(change: Callable[[Any], None], message: str) -> None:
    policy = Brightness()
    change(policy)
    with pytest.raises(ValueError, match=message) as refusal:
        check_policy(policy)
    assert "\n" not in str(refusal.value)
