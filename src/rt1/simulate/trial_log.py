"""The log of finished trials, from which an interrupted evaluation resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rt1.common.border import reading
from rt1.common.files import write_text
from rt1.common.folders import locked
from rt1.common.json_config import first_difference, from_json, to_json
from rt1.common.json_files import parse
from rt1.errors import SaveError
from rt1.simulate.rollout import Rollout
from rt1.simulate.trials import TrialPlan, TrialResult


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One trial as the log stores it. The actions bring back the images."""

    success: bool
    steps: int
    clipped: int
    total_reward: float
    actions: tuple[tuple[float, ...], ...]  # empty where no images were kept


@dataclass(frozen=True, kw_only=True)
class _Line:
    """The finished trials of a plan."""

    plan: TrialPlan
    trials: tuple[_Trial, ...]


class TrialLog:
    """A file of JSON lines: what the trials belong to, then the trials of each finished plan."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read the log of an interrupted evaluation, or begin one.

        Args:
            path: the file. Its last line may be torn.
            about: what determines the trials, as plain JSON.

        Raises:
            ValueError: the log belongs to other trials. The message names the first setting that differs.
            DataError: a line is damaged.
        """
        self._path, self._about, self._is_whole = path, json.loads(json.dumps(about)), False
        self._trials: dict[TrialPlan, tuple[_Trial, ...]] = {}
        if path.is_file():
            self._read()

    def results(self, plans: Sequence[TrialPlan], max_return: float | None) -> list[TrialResult]:
        """Return the trials of those plans that are finished. They have no images."""
        return [
            TrialResult(plan=plan, trial=number, rollout=_rollout(trial), max_return=max_return)
            for plan in plans
            for number, trial in zip(plan.trials, self._trials.get(plan, ()), strict=False)
        ]

    def add(self, results: Sequence[TrialResult]) -> None:
        """Append the trials of a plan. They are on the disk when this returns.

        Raises:
            SaveError: they cannot be written.
        """
        trials = tuple(_logged(result.rollout) for result in results)
        self._begin()
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(to_json(_Line(plan=results[0].plan, trials=trials))) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SaveError(f"could not save {self._path}: {error.strerror}. Free space, then run it again") from error

    def _begin(self) -> None:
        """Write the first line and the trials that were read, without a torn line, which would be appended to."""
        if not self._is_whole:
            lines = [self._about, *(to_json(_Line(plan=plan, trials=trials)) for plan, trials in self._trials.items())]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))
            self._is_whole = True

    def _read(self) -> None:
        cure = "remove it to run its trials again"
        with reading(self._path, cure=cure):
            whole, _, _torn = self._path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
            first, *lines = (parse(line, name=str(self._path), cure=cure) for line in whole.splitlines())
            difference = first_difference(first, self._about)
            logged = [] if difference else [from_json(_Line, line) for line in lines]
        if difference is not None:
            name, old, new = difference
            raise ValueError(
                f"{name.rpartition('.')[2]} was {old!r:.80} in the interrupted evaluation, now it is {new!r:.80}. Use "
                f"the old setting or another --out, or remove {self._path}"
            )
        self._trials = {line.plan: line.trials for line in logged}


@contextmanager
def trial_log(path: Path | None, about: Mapping[str, Any]) -> Iterator[TrialLog | None]:
    """Open a log while the block runs, and keep other processes out of it. Without a path there is none.

    The errors are those of :class:`TrialLog`.

    Raises:
        LockedError: another process runs the same trials.
    """
    if path is None:
        yield None
        return
    with locked(path, path.with_name(f"{path.name}.lock")):
        yield TrialLog(path, about)


def _logged(rollout: Rollout) -> _Trial:
    return _Trial(
        success=rollout.success,
        steps=rollout.steps,
        clipped=rollout.clipped,
        total_reward=rollout.total_reward,
        actions=tuple(map(tuple, rollout.actions.tolist())) if rollout.images else (),
    )


def _rollout(trial: _Trial) -> Rollout:
    return Rollout(
        success=trial.success,
        steps=trial.steps,
        actions=np.array(trial.actions, np.float32),
        clipped=trial.clipped,
        rewards=np.array([trial.total_reward]),  # their sum
    )
