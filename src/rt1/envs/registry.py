"""An environment by name, as commands give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rt1.common import json_config
from rt1.common.suggest import lookup
from rt1.envs import metaworld
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldEnv
from rt1.envs.metaworld_tasks import INSTRUCTIONS, SHARED_SCENES


@dataclass(frozen=True, kw_only=True)
class EnvSettings:
    """Which environment, and how it is shown and driven."""

    env: str = "metaworld"
    """Environment name."""
    metaworld: MetaWorldConfig = field(default_factory=MetaWorldConfig)
    """Settings of Meta-World."""

    def __post_init__(self) -> None:
        lookup("environment", self.env, {"metaworld": None})

    @staticmethod
    def from_provenance(provenance: Mapping[str, Any]) -> EnvSettings:
        """Return the environment of a checkpoint's recordings, as its provenance states it, or else the default."""
        return json_config.from_json(EnvSettings, provenance.get("env") or {})

    def open(self, task: str, *, render: bool = True) -> MetaWorldEnv:
        """Open a task's environment.

        One environment with a renderer may be open in a process at a time: a second one, or one that was not closed,
        disturbs the GL context of the first.
        """
        return MetaWorldEnv(task=task, config=self.metaworld, render=render)

    def check_task(self, task: str) -> str:
        """Return the task's full name; an unknown one raises ``ValueError`` with a suggestion."""
        return metaworld.check_task(task)

    def check_tasks(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks' full names; none at all, an unknown one, or one twice raises ``ValueError``."""
        names = tuple(self.check_task(task) for task in tasks)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"tasks are {list(names)}; give at least one and none twice")
        return names

    def sentences(self, task: str) -> tuple[str, ...]:
        """Return the task's instruction and its paraphrases."""
        return INSTRUCTIONS[self.check_task(task).removesuffix("-v3")]

    def recorded_sentences(self, task: str) -> tuple[str, ...]:
        """Return the sentences that recordings use: all but the last paraphrase, which stays unread."""
        sentences = self.sentences(task)
        return sentences[:-1] if len(sentences) > 1 else sentences

    def twin(self, task: str) -> str | None:
        """Return the task that shares this one's scene and differs in the instruction only, or None."""
        twin = SHARED_SCENES.get(self.check_task(task).removesuffix("-v3"))
        return None if twin is None else self.check_task(twin)
