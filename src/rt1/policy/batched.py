"""Several robots that one network steps as a batch, each with its own episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import FloatArray
from rt1.policy.base import Instruction
from rt1.policy.policy import Policy
from rt1.policy.stepper import EpisodeState


class BatchedPolicy:
    """A policy for a fixed number of robots, such as the environments of a vector environment. Not thread-safe."""

    def __init__(self, policy: Policy) -> None:
        """Use the network, action spec and text encoder of a policy. Its own episode stays as it is."""
        self.policy = policy
        self._states: list[EpisodeState] = []
        self._instructions: list[Instruction] = []

    def reset(self) -> None:
        """Forget all episodes. The next call may have another number of robots."""
        self._states, self._instructions = [], []

    def act(self, images: Sequence[NDArray[Any]], instructions: Sequence[Instruction]) -> dict[str, NDArray[Any]]:
        """Return the actions of all robots by part name, (S, n) each, as :meth:`Policy.act` does for one robot."""
        return self.policy.action_spec.to_dict(self.act_vectors(images, instructions))

    def act_vectors(self, images: Sequence[NDArray[Any]], instructions: Sequence[Instruction]) -> FloatArray:
        """Return the actions of all robots.

        Args:
            images: S new images, as for :meth:`Policy.act`, one per robot in the same order at each step.
            instructions: S sentences or text embeddings. A robot whose instruction changes starts a new episode.

        Returns:
            float32 (S, A), physical units.

        Raises:
            ValueError: another number of robots than in the step before, or invalid images or instructions.
            PolicyError: a logit is not finite.
        """
        if len(images) != len(instructions) or (self._states and len(images) != len(self._states)):
            raise ValueError(
                f"{len(images)} images and {len(instructions)} instructions for {len(self._states) or 'new'} robots. "
                "Give one of each per robot, and call reset() before their number changes"
            )
        states = [
            self._states[robot]
            if self._states and np.array_equal(instruction, self._instructions[robot])
            else self.policy.start(instruction)
            for robot, instruction in enumerate(instructions)
        ]
        logits_SAV = self.policy.step(states, images)
        self._states, self._instructions = states, list(instructions)
        return self.policy.action_spec.decode_logits(logits_SAV)[1]
