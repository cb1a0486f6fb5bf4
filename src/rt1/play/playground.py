"""A policy in an environment, as the page drives it: the page's commands and the state that it shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rt1.actions import FloatArray, TokenArray
from rt1.common.suggest import unknown_name
from rt1.envs.base import Env, Image, TaskSuite, check_tasks, picture_of, snapshot_of
from rt1.policy.base import LONGEST_INSTRUCTION
from rt1.policy.policy import Policy
from rt1.simulate.rollout import check_actions_fit, within_bounds
from rt1.simulate.seeds import trial_seed

Phase = Literal["opening", "stopped", "running", "over", "failed"]
_LATENCIES = 200


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The policy's output for one image."""

    image: Image
    """uint8 RGB (H, W, 3), the policy's input."""
    action: FloatArray
    """(A,) physical units."""
    bins: TokenArray
    """(A,) the chosen bins."""
    probabilities: FloatArray
    """(A, V) over the bins. Each row sums to 1."""
    attention: FloatArray
    """(K, rows, columns) TokenLearner's weights on the image. Each map sums to 1."""


@dataclass(kw_only=True)
class View:
    """Everything the page shows at one moment."""

    task: str
    instruction: str | None = None
    """The policy's instruction. None until it has accepted one."""
    phase: Phase = "opening"
    """Opening an environment, stopped, running, episode over, or failed (Reset then opens the environment again)."""
    error: str | None = None
    """The last error in one line. None after a success."""
    start: int = 0
    """Number of the episode's start."""
    step: int = 0
    """Actions taken since the scene was reset."""
    max_steps: int = 0
    """Steps after which the episode ends by itself."""
    control_rate: float = 1.0
    """Steps per second of the robot, Hz."""
    speed: float = 1.0
    """How much faster than the robot the page runs."""
    success: bool = False
    remembered: int = 0
    """Images that the policy remembers."""
    latencies: tuple[float, ...] = ()
    """The last steps' times from image to action, ms, oldest first."""
    image: Image | None = None
    """uint8 RGB (H, W, 3), the newest observation. None where there is no environment."""
    picture: Image | None = None
    """uint8 RGB (H, W, 3), the same scene drawn for people. None where the environment does not offer it."""
    decision: Decision | None = None
    """The last decision. None before the first one under this instruction."""


class Playground:
    """One environment, one policy, and the state of the page. Not thread-safe. One thread must make all calls.

    A request that is refused raises ``ValueError`` and changes nothing. A failure of the environment or the policy
    closes the environment. The next reset opens it again.
    """

    def __init__(self, policy: Policy, suite: TaskSuite, tasks: Sequence[str], *, seed: int = 0) -> None:
        """Store the policy, whose own episode is used, and the tasks that the page offers. Nothing opens yet.

        The initial states are those of an evaluation with this ``seed``. Unknown tasks and a seed below 0 raise
        ``ValueError``.
        """
        trial_seed(seed, 0)
        self.policy, self.suite, self.tasks = policy, suite, check_tasks(suite, tasks)
        self.view = View(task=self.tasks[0])
        """What the page shows now."""
        self.on_opening: Callable[[], None] = lambda: None
        """Called before an environment opens, which takes seconds."""
        self.on_step: Callable[[View], None] = lambda _: None
        """Called with the view after each step: its decision and the latency are those of the step."""
        self._seed = seed
        self._env: Env | None = None
        self._native = ""  # the environment's own instruction

    @property
    def period(self) -> float:
        """Seconds from one step to the next, at the chosen speed."""
        return 1.0 / (self.view.control_rate * self.view.speed)

    def choose_task(self, task: str) -> None:
        """Replace the environment by another task's, at its first start and with its own instruction."""
        if task not in self.tasks:
            raise ValueError(unknown_name("task", task, self.tasks))
        self.view.task, self.view.instruction = task, None
        self.close()
        self.reset(0)

    def reset(self, start: int) -> None:
        """Reset the scene to a start and stop. The policy forgets its images."""
        seed = trial_seed(self._seed, start)
        view = self.view
        with self._closed_if_it_fails():
            env = self._opened()
            view.image = env.reset(seed).image
            view.picture = picture_of(env, snapshot_of(env))
        previous, self._native = self._native, env.instruction
        view.phase, view.start, view.step, view.success = "stopped", start, 0, False
        if view.instruction and view.instruction != previous:  # the user's own
            self.set_instruction(view.instruction)
        else:
            self.set_instruction(next(iter(self.suite.sentences(view.task)), self._native))

    def set_instruction(self, sentence: str) -> None:
        """Set the policy's instruction. The policy forgets its images, the scene does not change."""
        sentence = sentence.strip()
        if not 0 < len(sentence) <= LONGEST_INSTRUCTION:
            raise ValueError(
                f"the instruction has {len(sentence)} characters. Type a sentence of 1..{LONGEST_INSTRUCTION}"
            )
        self.policy.reset(sentence)
        self.view.instruction, self.view.decision, self.view.remembered = sentence, None, 0

    def run(self) -> None:
        """Start or resume. After the end of an episode, begin the next start."""
        if self._env is None:
            raise ValueError("there is no environment. Press Reset to open it again")
        if self.view.instruction is None:
            raise ValueError("the policy has no instruction yet. Type one first")
        if self.view.phase == "over":
            self.reset(self.view.start + 1)
        self.view.phase = "running"

    def stop(self) -> None:
        """Pause until :meth:`run`."""
        if self.view.phase == "running":
            self.view.phase = "stopped"

    def set_speed(self, speed: float) -> None:
        if not 0.05 <= speed <= 20:
            raise ValueError(f"speed is {speed:g}, must lie in 0.05..20")
        self.view.speed = speed

    def step(self) -> None:
        view = self.view
        with self._closed_if_it_fails():
            env = self._opened()
            assert view.image is not None
            decision = self._decide(view.image)
            result = env.step(within_bounds(env.action_spec, decision.action))
            view.picture = picture_of(env, snapshot_of(env))
        view.decision, view.image = decision, result.observation.image
        view.step, view.success = view.step + 1, result.success
        self.on_step(view)
        if result.done:
            view.phase = "over"
        elif env.instruction != self._native:  # a chain of tasks: the policy follows, unless the user set another one
            previous, self._native = self._native, env.instruction
            if view.instruction == previous:
                self.set_instruction(self._native)

    def close(self) -> None:
        env, self._env = self._env, None
        self.view.image = self.view.picture = self.view.decision = None
        if env is not None:
            env.close()

    def _opened(self) -> Env:
        if self._env is None:
            self.view.phase = "opening"
            self.on_opening()
            env = self._env = self.suite.open(self.view.task)  # stored before the check, so that a failure closes it
            check_actions_fit(self.policy.action_spec, env.action_spec)
            self.view.control_rate, self.view.max_steps = env.control_rate, env.max_steps
        return self._env

    def _decide(self, image: Image) -> Decision:
        begin = time.perf_counter()
        logits = self.policy.logits(image)
        self.view.remembered = self.policy.state.images
        bins, action = self.policy.action_spec.decode_logits(logits)
        self.view.latencies = (*self.view.latencies, 1e3 * (time.perf_counter() - begin))[-_LATENCIES:]
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return Decision(
            image=image,
            action=action,
            bins=bins,
            probabilities=weights / weights.sum(axis=-1, keepdims=True),
            attention=self.policy.attention_maps(),
        )

    @contextmanager
    def _closed_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.view.phase = "failed"
            with suppress(Exception):  # the user must read the first failure
                self.close()
            raise
