"""The closed loop: one controller (a policy, or a baseline that a policy must beat) in one environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.common.progress import count_step
from rt1.envs.base import Env, Image, Observation, snapshot_of
from rt1.policy.base import BasePolicy
from rt1.simulate.noise import OrnsteinUhlenbeckNoise


class Controller(Protocol):
    """Anything that acts from observations."""

    def reset(self, instruction: str) -> None:  # noqa: ARG002 (a baseline has nothing to forget)
        """Forget the last episode and take the instruction of the next."""
        return

    def act(self, observation: Observation) -> FloatArray:
        """Return the action for this observation, float32 (A,) in physical units."""
        ...


class PolicyController(Controller):
    """A policy. It gets the image and the instruction."""

    def __init__(self, policy: BasePolicy) -> None:
        self.policy = policy
        self.batched_action: FloatArray | None = None
        """The next action, where a batched step of several episodes has computed it."""

    def reset(self, instruction: str) -> None:
        self.policy.reset(instruction)

    @property
    def acting_policy(self) -> PolicyController:
        """This controller. A controller that lets a policy act has this member, too. It may be None."""
        return self

    def act(self, observation: Observation) -> FloatArray:
        action, self.batched_action = self.batched_action, None
        return self.policy.act_vector(observation.image) if action is None else action


class Replay(Controller):
    """Open-loop replay of another episode's actions. The last action is held when they run out."""

    def __init__(self, actions: FloatArray) -> None:
        self._actions, self._step = actions, 0

    def reset(self, instruction: str) -> None:  # noqa: ARG002 (open loop: it ignores the instruction, too)
        self._step = 0

    def act(self, observation: Observation) -> FloatArray:  # noqa: ARG002
        action = self._actions[min(self._step, len(self._actions) - 1)]
        self._step += 1
        return action


class RandomActions(Controller):
    """Actions drawn uniformly within the bounds."""

    def __init__(self, spec: ActionSpec, seed: int) -> None:
        self._spec, self._random = spec, np.random.default_rng((seed, 4))

    def act(self, observation: Observation) -> FloatArray:  # noqa: ARG002
        return self._random.uniform(self._spec.low, self._spec.high).astype(np.float32)


class Expert(Controller):
    """The environment's scripted expert, which reads the simulator's state: the upper bound."""

    def __init__(self, expert_action: Callable[[], FloatArray]) -> None:
        self._expert_action = expert_action

    def act(self, observation: Observation) -> FloatArray:  # noqa: ARG002
        return self._expert_action()


class PolicyThenExpert(Controller):
    """A policy that hands over to the expert after some steps. The expert labels the steps of both."""

    def __init__(self, policy: PolicyController, expert: Expert, steps: int) -> None:
        self._policy, self._expert, self._steps = policy, expert, steps
        self.labels: list[FloatArray] = []
        """The expert's action at each step."""

    def reset(self, instruction: str) -> None:
        self._policy.reset(instruction)

    @property
    def acting_policy(self) -> PolicyController | None:
        """The policy, until it hands over."""
        return self._policy if len(self.labels) < self._steps else None

    def act(self, observation: Observation) -> FloatArray:
        policy = self.acting_policy
        self.labels.append(self._expert.act(observation))
        return self.labels[-1] if policy is None else policy.act(observation)


class Disturbed(Controller):
    """A controller whose actions get noise before they are executed. It keeps what a recording needs."""

    def __init__(self, controller: Controller, drift: OrnsteinUhlenbeckNoise) -> None:
        self._controller, self._drift = controller, drift
        self.observations: list[Observation] = []
        """The observation of each step."""
        self.intended: list[FloatArray] = []
        """The controller's own action at each step, without the noise."""
        self.instruction = ""
        """The instruction of the episode."""

    def reset(self, instruction: str) -> None:
        if self.observations:
            raise ValueError(
                f"step {len(self.observations)} changed the instruction from {self.instruction!r} to {instruction!r}. "
                "A recorded episode has one. End the episode there"
            )
        self.instruction = instruction
        self._controller.reset(instruction)

    @property
    def acting_policy(self) -> PolicyController | None:
        """The policy that acts next, or None."""
        return acting_policy(self._controller)

    def act(self, observation: Observation) -> FloatArray:
        self.observations.append(observation)
        self.intended.append(within_bounds(self._drift.spec, self._controller.act(observation)))
        return self._drift.apply(self.intended[-1])


def acting_policy(controller: Controller) -> PolicyController | None:
    """Return a controller's optional member ``acting_policy``: the policy that acts next, or None."""
    policy: PolicyController | None = getattr(controller, "acting_policy", None)
    return policy


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One finished trial."""

    success: bool
    steps: int
    actions: FloatArray  # (S, A) actions as executed
    clipped: int  # action values outside the bounds, which were clipped
    rewards: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # (S,)
    images: tuple[Image, ...] = field(default=(), repr=False)
    """The S+1 images seen, first to last, when they were asked for."""
    snapshots: tuple[Any, ...] = field(default=(), repr=False)
    """Snapshots of the same scenes, to be drawn for people, when they were asked for."""

    @property
    def total_reward(self) -> float:
        """The return."""
        return float(self.rewards.sum())


class Episode:
    """One episode of a controller in an environment, step by step. :func:`rollout` runs a whole one."""

    def __init__(
        self,
        env: Env,
        controller: Controller,
        *,
        seed: int,
        instruction: str | None = None,
        keep_images: bool = False,
        keep_snapshots: bool = False,
        max_steps: int | None = None,
    ) -> None:
        """Reset environment and controller. The arguments are those of :func:`rollout`.

        ``keep_snapshots`` also keeps what :class:`rt1.envs.base.PicturedEnv` draws for people.
        """
        self._env, self.controller, self._instruction = env, controller, instruction
        self.observation = env.reset(seed)
        """What the controller acts on next."""
        self.done = False
        self._current = instruction or env.instruction
        controller.reset(self._current)
        self._images: list[Image] | None = [] if keep_images else None
        self._snapshots: list[Any] | None = [] if keep_snapshots else None
        self._look()
        self._actions: list[FloatArray] = []
        self._rewards: list[float] = []
        self._max_steps = max_steps
        self._clipped, self._success = 0, False

    def step(self, raw_action: FloatArray) -> None:
        """Apply the controller's action for :attr:`observation`."""
        env = self._env
        self._clipped += int(env.action_spec.out_of_bounds(raw_action).sum())
        self._actions.append(within_bounds(env.action_spec, raw_action))
        result = env.step(self._actions[-1])
        count_step(env.max_steps)
        self.observation, self._success = result.observation, result.success
        self._rewards.append(result.reward)
        self._look()
        self.done = result.done or len(self._actions) == self._max_steps
        if not self.done and not self._instruction and env.instruction != self._current:
            self._current = env.instruction
            self.controller.reset(self._current)

    def _look(self) -> None:
        if self._images is not None:
            self._images.append(self.observation.image)
        if self._snapshots is not None:
            self._snapshots.append(snapshot_of(self._env))

    def result(self) -> Rollout:
        """Return the finished episode."""
        return Rollout(
            success=self._success,
            steps=len(self._actions),
            actions=np.stack(self._actions),
            clipped=self._clipped,
            rewards=np.array(self._rewards),
            images=tuple(self._images or ()),
            snapshots=tuple(self._snapshots or ()),
        )


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

    A NaN action raises ``ValueError``. Values outside the bounds are clipped and counted. If the environment changes
    its instruction within the episode, the controller starts a new episode of its own with the new one.

    Args:
        env: where to act.
        controller: gets the image and the instruction only.
        seed: of the initial state.
        instruction: for the controller, instead of the environment's own. None and "" take that.
        keep_images: keep every image, for a video.
        max_steps: step limit, besides the environment's own.
    """
    episode = Episode(env, controller, seed=seed, instruction=instruction, keep_images=keep_images, max_steps=max_steps)
    while not episode.done:
        episode.step(controller.act(episode.observation))
    return episode.result()


def within_bounds(spec: ActionSpec, action: FloatArray) -> FloatArray:
    """Return an action (A,) clipped to an environment's bounds, float32."""
    return np.clip(action, spec.low, spec.high).astype(np.float32)


def check_actions_fit(policy: ActionSpec, env: ActionSpec) -> None:
    """Raise ``ValueError`` unless a policy's action has the dimensions of the environment's."""
    if policy.dimension_names != env.dimension_names:
        raise ValueError(
            f"the policy acts in {', '.join(policy.dimension_names)}, the environment takes "
            f"{', '.join(env.dimension_names)}. Use the environment it was trained for"
        )
