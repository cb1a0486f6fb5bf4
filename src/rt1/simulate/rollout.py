"""The closed loop: one controller in one environment for one episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rt1.actions import ActionSpec, FloatArray
from rt1.common.progress import count_step
from rt1.envs.base import Env, Image, Observation


class Controller(Protocol):
    """Anything that acts from observations: a policy, open-loop replay, random actions."""

    def reset(self, instruction: str) -> None:
        """Forget the last episode and take the instruction of the next."""
        ...

    def act(self, observation: Observation) -> FloatArray:
        """Return the action for this observation, float32 (A,) in physical units."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One finished trial."""

    success: bool
    steps: int
    actions: FloatArray  # (S, A) actions as executed
    clipped: int  # action values outside the bounds, which were clipped
    total_reward: float = 0.0  # the return
    images: tuple[Image, ...] = field(default=(), repr=False)
    """The S+1 images seen, first to last, when they were asked for."""


def rollout(
    env: Env,
    controller: Controller,
    *,
    seed: int,
    instruction: str | None = None,
    keep_images: bool = False,
    max_steps: int | None = None,
) -> Rollout:
    """Run one controller in one environment for one episode.

    A NaN action raises ``ValueError``; values outside the bounds are clipped and counted. If the environment changes
    its instruction within the episode, the controller starts a new episode of its own with the new one.

    Args:
        env: where to act.
        controller: gets the image and the instruction only.
        seed: of the initial state.
        instruction: for the controller, instead of the environment's own; None and "" take that.
        keep_images: keep every image, for a video.
        max_steps: step limit, besides the environment's own.
    """
    observation = env.reset(seed)
    current = instruction or env.instruction
    controller.reset(current)
    images = [observation.image] if keep_images else []
    actions: list[FloatArray] = []
    clipped, total_reward = 0, 0.0
    while True:
        raw_action = controller.act(observation)
        clipped += int(env.action_spec.out_of_bounds(raw_action).sum())
        action = within_bounds(env.action_spec, raw_action)
        result = env.step(action)
        count_step(env.max_steps)
        observation, total_reward = result.observation, total_reward + result.reward
        actions.append(action)
        if keep_images:
            images.append(observation.image)
        if result.done or len(actions) == max_steps:
            break
        if not instruction and env.instruction != current:
            current = env.instruction
            controller.reset(current)
    return Rollout(
        success=result.success,
        steps=len(actions),
        actions=np.stack(actions),
        clipped=clipped,
        total_reward=total_reward,
        images=tuple(images),
    )


def within_bounds(spec: ActionSpec, action: FloatArray) -> FloatArray:
    """Return an action (A,) clipped to an environment's bounds, float32."""
    return np.clip(action, spec.low, spec.high).astype(np.float32)


def check_actions_fit(policy: ActionSpec, env: ActionSpec) -> None:
    """Raise ``ValueError`` unless a policy's action has the dimensions of the environment's."""
    if policy.dimension_names != env.dimension_names:
        raise ValueError(
            f"the policy acts in {', '.join(policy.dimension_names)}, the environment takes "
            f"{', '.join(env.dimension_names)}; use the environment it was trained for"
        )
