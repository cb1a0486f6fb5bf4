"""A few episodes of an environment in memory, to be compared with a data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.data.sources.base import EpisodeSource, check_steps
from rt1.data.sources.images import encode_png
from rt1.envs.base import Image, TaskSuite
from rt1.simulate.rollout import Expert, RandomActions, rollout
from rt1.simulate.seeds import recording_seed
from rt1.text.pieces import normalized

_EPISODES, _TASKS = 8, 4
_MOST_STEPS = 200


def sample_tasks(suite: TaskSuite, source: EpisodeSource) -> tuple[str, ...]:
    """Return tasks of a suite to sample: those of a data set by name or instruction, else the first ones."""
    episodes = range(len(source.lengths))
    names = {source.task(episode) for episode in episodes}
    sentences = {normalized(source.instruction(episode)) for episode in episodes}
    common = [
        task for task in suite.tasks if task in names or sentences & {normalized(s) for s in suite.sentences(task)}
    ]
    return tuple((common or list(suite.tasks))[:_TASKS])


class SampledEpisodes:
    """Episodes in memory, an :class:`~rt1.data.sources.base.EpisodeSource`."""

    def __init__(self, suite: TaskSuite, tasks: Sequence[str]) -> None:
        """Run experts, or random actions where a task has none. Each of ``tasks`` is opened once, in turn."""
        self.name = suite.name
        self.has_experts = all(suite.expert(task) is not None for task in tasks)
        """Whether the actions are those of experts."""
        self._episodes: list[tuple[str, str, FloatArray, tuple[Image, ...]]] = []
        for number, task in enumerate(tasks):
            with closing(suite.open(task)) as env:
                self.action_spec: ActionSpec = env.action_spec
                expert = suite.expert(task)
                for episode in range(number, _EPISODES, len(tasks)):
                    seed = recording_seed(0, episode, 0)
                    controller = (
                        RandomActions(env.action_spec, seed) if expert is None else Expert(partial(expert, env))
                    )
                    trial = rollout(env, controller, seed=seed, keep_images=True, max_steps=_MOST_STEPS)
                    self._episodes.append((task, env.instruction, trial.actions, trial.images[: trial.steps]))
        self.lengths: NDArray[np.int64] = np.array([len(actions) for *_, actions, _ in self._episodes], np.int64)

    def instruction(self, episode: int) -> str:
        return self._episodes[episode][1]

    def text_embedding(self, episode: int) -> FloatArray | None:  # noqa: ARG002
        return None

    def task(self, episode: int) -> str:
        return self._episodes[episode][0]

    def encoded_images(self, episode: int, start: int, stop: int) -> list[bytes]:
        return [encode_png(image) for image in self.images(episode, start, stop)]

    def images(self, episode: int, start: int, stop: int) -> list[Image]:
        check_steps(self, episode, start, stop)
        return list(self._episodes[episode][3][start:stop])

    def actions(self, episode: int, start: int, stop: int) -> FloatArray:
        check_steps(self, episode, start, stop)
        return self._episodes[episode][2][start:stop].astype(np.float32)
