"""Rounds of collecting, training and trials against a baseline policy.

A policy learns from its own successes (self-improvement, RoboCat) or from an expert's corrections (DAgger).
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rt1.checkpoint import resolve
from rt1.common import json_config
from rt1.common.border import reading
from rt1.common.files import write_text
from rt1.common.folders import working_in
from rt1.common.json_config import MOST_EPISODES, MOST_PROCESSES, check_at_least, check_between
from rt1.common.json_files import read_object
from rt1.data.open_mixture import WeightedSource
from rt1.data.rlds.reader import RLDSSource
from rt1.data.sources.base import CORRECTED, EpisodeSource, optional_members
from rt1.envs.base import TaskSuite, action_spec_of, check_tasks
from rt1.envs.registry import suite_from_json
from rt1.errors import DataError
from rt1.evaluate.closed_loop import TrialSettings, evaluate_closed_loop
from rt1.evaluate.results import SuccessCount
from rt1.policy.policy import ActingSettings
from rt1.simulate.collect import Collection, CollectSettings, check_can_collect, collect
from rt1.simulate.rollout import check_actions_fit
from rt1.text.encoder import TextEncoder
from rt1.train.config import TrainConfig, differences
from rt1.train.loop import train
from rt1.train.run import init_of

STATE_FILE = "improve.json"
IMPROVE_FILES = (STATE_FILE, "start")
"""What makes a folder an improvement's. ``start`` is a policy of one embodiment to begin with."""
_LOG = "-trials.jsonl"


@dataclass(frozen=True, kw_only=True)
class ImproveSettings:
    """Settings of :func:`improve`."""

    tasks: tuple[str, ...] = ()
    """Tasks to get better at. Those of the recorded data if not given."""
    expert: bool = False
    """Learn from the scripted expert's corrections (DAgger) in place of own successes. The policy acts first, the
    expert takes over after a random number of steps. The expert's action is learned at every step."""
    rounds: int = 3
    """Rounds of collecting, training and trials."""
    attempts: int = 50
    """Initial states per task and round. Successful episodes are kept. With an expert it is the mean: tasks that failed
    more often in the last trials get more."""
    tries: int = 3
    """Tries from one initial state until one succeeds, each with other noise and another handover to the expert."""
    noise: float = 0.5
    """Largest noise on the executed actions while collecting, as a fraction of half the action range."""
    patience: float = 1.5
    """Step limit of a try, as a multiple of the longest recorded episode. With an expert it limits the policy's
    part, as a multiple of the longest one of the task, up to half of the environment's limit."""
    first_updates: int = 3000
    """Updates on the recorded data alone before the first round, where no checkpoint is given."""
    updates: int = 1000
    """Updates per round."""
    own_share: float = 0.5
    """Share of the samples from the collected episodes, of all rounds so far, 0..1."""
    trials: int = 50
    """Trials per task, after every round, from the same starts each time."""
    control: bool = True
    """Train a second policy for the same updates on the recorded data alone, to compare with."""
    seed: int = 0
    """Random seed."""
    cpu_minutes: float = 0.0
    """Budget: no further stage begins once so much CPU time is spent. A larger one resumes. 0 means none."""
    workers: int = 0
    """Processes. 0 means one per core."""
    engine: str | None = None
    """What runs the policy while it collects and in trials, as for rt1 evaluate. Default: torch."""

    def __post_init__(self) -> None:
        ActingSettings(engine=self.engine)  # refuses an unknown one
        check_between(self, 1, MOST_EPISODES, "rounds", "attempts", "tries", "trials")
        check_at_least(self, 1, "first_updates", "updates")
        check_between(self, 1, 1000, "patience")
        check_at_least(self, 0, "seed", "cpu_minutes")
        check_between(self, 0, 2, "noise")
        check_between(self, 0, MOST_PROCESSES, "workers")
        if not 0.0 < self.own_share < 1.0:
            raise ValueError(f"own_share is {self.own_share}, must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Round:
    """The result of one round. Round 0 is the start."""

    number: int  # 0 before anything was collected
    attempts: Mapping[str, int]  # task -> attempted initial states
    kept: Mapping[str, int]  # task -> successful episodes, used for training
    improved: tuple[SuccessCount, ...]  # trials of the policy that also trains on the collected episodes
    control: tuple[SuccessCount, ...]  # trials of the baseline policy; empty where there is none
    failures: Mapping[str, int] = field(default_factory=dict)  # task -> tries that failed, which were left out


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """All rounds so far."""

    folder: Path
    rounds: tuple[Round, ...]  # from round 0 on
    cpu_seconds: Mapping[str, float]  # stage -> CPU time
    finished: bool  # false if the budget ended it: a larger budget resumes it
    expert: bool = False  # the collected episodes are an expert's corrections

    @property
    def training(self) -> str:
        """What the policy is trained on besides the recorded episodes."""
        return CORRECTED if self.expert else "with its own episodes"


def success(trials: Sequence[SuccessCount]) -> float | None:
    """Return the mean success rate over tasks, 0..1. None where there were no trials."""
    return sum(c.success for c in trials) / len(trials) if trials else None


def improve(
    recorded: EpisodeSource,
    config: TrainConfig,
    folder: Path,
    *,
    wanted: ImproveSettings,
    encoder: TextEncoder,
    checkpoint: Path | None = None,
    after_round: Callable[[Improvement], object] | None = None,
) -> Improvement:
    """Improve a policy by training on its own successes, or on an expert's corrections. Run again to resume.

    Args:
        recorded: recorded episodes of an environment, as ``rt1 record`` writes them.
        config: network and training. ``updates`` and ``seed`` are those of ``wanted``.
        folder: output folder of all rounds.
        wanted: tasks, rounds, budget.
        encoder: the text encoder of the recorded data.
        checkpoint: initial policy. None trains one on the recorded data.
        after_round: called after each round with all rounds so far.

    Raises:
        ValueError: a folder with other settings, data without an environment, or a task without an expert.
        SaveError: the folder holds something else.
        LockedError: another process works in the folder.
    """
    details = optional_members(recorded).details
    if "env" not in details:
        raise DataError(f"{recorded.name} does not say its environment. Give a data set that rt1 record wrote")
    suite = suite_from_json(details["env"])
    tasks = check_tasks(suite, wanted.tasks or tuple(details.get("tasks", ())))
    check_can_collect(suite, tasks, expert=wanted.expert)
    # With images: what is missing for them should show before a long training.
    check_actions_fit(recorded.action_spec, action_spec_of(suite, tasks[0], render=True))
    loop = _Loop(
        recorded=recorded,
        config=replace(config, held_out=0.0),
        folder=folder,
        settings=replace(wanted, tasks=tasks),
        suite=suite,
        encoder=encoder,
        initial=checkpoint,
        after_round=after_round,
    )
    with working_in(folder, ours=IMPROVE_FILES):
        loop.begin()
        for _ in loop.stages():
            if loop.budget_is_spent:
                break
    return loop.result()


@dataclass(kw_only=True)
class _Loop:
    """The state of an improvement, which is stored in its folder."""

    recorded: EpisodeSource
    config: TrainConfig
    folder: Path
    settings: ImproveSettings
    suite: TaskSuite
    encoder: TextEncoder
    initial: Path | None  # policy to begin with
    after_round: Callable[[Improvement], object] | None = None
    rounds: list[Round] = field(default_factory=list)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # what must stay the same from call to call

    def begin(self) -> None:
        """Load the state of an earlier call. Refuse a folder with other settings."""
        self.about = {
            "settings": _fixed(self.settings),
            "config": json_config.to_json(self.config),
            "data": [self.recorded.name, int(self.recorded.lengths.sum())],
            "checkpoint": None if self.initial is None else str(resolve(self.initial)),
        }
        file = self.folder / STATE_FILE
        if file.is_file():
            with reading(file, cure="Restore it from a copy, or give another --out"):
                state = read_object(file)
                self.rounds = [json_config.from_json(Round, data, where="a round") for data in state["rounds"]]
                self.cpu_seconds = {str(kind): float(seconds) for kind, seconds in state["cpu_seconds"].items()}
                if not all(0 <= seconds < math.inf for seconds in self.cpu_seconds.values()):
                    raise ValueError(f"cpu_seconds are {self.cpu_seconds}, must be finite and not below 0")
                # A folder of an earlier version lacks newer settings, which had their defaults then.
                old = {**state, "settings": {**_fixed(ImproveSettings()), **state["settings"]}}
                changed = differences(_flat(old), _flat(self.about))
            if changed and (self.rounds or any(self.folder.glob("round-*"))):
                raise ValueError(
                    f"{self.folder} was begun with other settings ({'; '.join(changed)}). Give the old ones, or "
                    "another --out"
                )
            self._check_rounds(file)
        self._save()

    def _check_rounds(self, file: Path) -> None:
        for number, one in enumerate(self.rounds):
            if one.number != number or tuple(count.task for count in one.improved) != self.settings.tasks:
                raise DataError(f"{file}: its round {number} is another or of other tasks. Restore it from a copy")

    def result(self) -> Improvement:
        return Improvement(
            folder=self.folder,
            rounds=tuple(self.rounds),
            cpu_seconds=dict(self.cpu_seconds),
            finished=len(self.rounds) > self.settings.rounds,
            expert=self.settings.expert,
        )

    @property
    def budget_is_spent(self) -> bool:
        """Whether no further stage may begin."""
        return 0 < self.settings.cpu_minutes <= sum(self.cpu_seconds.values()) / 60

    def stages(self) -> Iterator[None]:
        """Do the rounds that are left. Yield before each stage: there the improvement can be stopped and resumed."""
        while (number := len(self.rounds)) <= self.settings.rounds:
            self.rounds.append((yield from self._round(number) if number else self._first_round()))
            self._save()
            for log in self.folder.glob(f"round-{number}/*{_LOG}"):
                log.unlink()
            if self.after_round is not None:
                self.after_round(self.result())

    def _first_round(self) -> Generator[None, None, Round]:
        """Train on the recorded data and count."""
        yield
        policy = self.initial or self._train("improved", 0, [])
        yield
        trials = self._try(policy)
        control = trials if self.settings.control else ()
        return Round(number=0, attempts={}, kept={}, improved=trials, control=control)

    def _round(self, number: int) -> Generator[None, None, Round]:
        yield
        collection = self._collect(number)
        successes = [*(earlier.kept for earlier in self.rounds), collection.successes]
        sources = [RLDSSource(self._own(n)) for n, counts in enumerate(successes) if sum(counts.values())]
        yield
        improved = self._train("improved", number, sources)
        baseline: Path | None = None
        if self.settings.control:
            yield
            baseline = self._train("control", number, [])
        yield
        return Round(
            number=number,
            attempts=collection.attempts,
            kept=collection.successes,
            failures=collection.failures,
            improved=self._try(improved),
            control=() if baseline is None else self._try(baseline),
        )

    def _policy(self, variant: str, number: int) -> Path:
        """Return the policy after a round. Both variants begin with the same one."""
        if number == 0:
            return self.initial or self.folder / "round-0" / "improved"
        return self.folder / f"round-{number}" / variant

    def _collect(self, number: int) -> Collection:
        """Collect the episodes of a round, or resume an interrupted collection."""
        longest = int(self.recorded.lengths.max())
        settings = CollectSettings(
            attempts=self._attempts(),
            handover=self._handover() if self.settings.expert else None,
            tries=self.settings.tries,
            noise=self.settings.noise,
            max_steps=None if self.settings.expert else math.ceil(self.settings.patience * longest),
            workers=self.settings.workers,
            engine=self.settings.engine,
        )
        with self._timed("collect"):
            return collect(
                self._own(number),
                resolve(self._policy("improved", number - 1)),
                suite=self.suite,
                settings=settings,
                encoder=self.encoder,
                seed=(self.settings.seed, number),
                # As recorded: the environment may have had fewer settings then.
                details={"round": number, "env": optional_members(self.recorded).details["env"]},
            )

    def _handover(self) -> dict[str, int]:
        """Return the most steps of the policy in each task. A task without recorded episodes gets those of all."""
        lengths: dict[str, list[int]] = {}
        for episode, steps in enumerate(self.recorded.lengths.tolist()):
            lengths.setdefault(self.recorded.task(episode), []).append(steps)
        every = self.recorded.lengths.tolist()
        return {task: math.ceil(self.settings.patience * max(lengths.get(task, every))) for task in self.settings.tasks}

    def _attempts(self) -> dict[str, int]:
        """Return the initial states of each task. Those of corrections are shared out by the failures so far."""
        weights = dict.fromkeys(self.settings.tasks, 1.0)
        if self.settings.expert:
            weights = {c.task: (c.trials - c.successes + 1) / (c.trials + 2) for c in self.rounds[-1].improved}
        per_weight = self.settings.attempts * len(weights) / sum(weights.values())
        return {task: max(1, round(weight * per_weight)) for task, weight in weights.items()}

    def _own(self, number: int) -> Path:
        return self.folder / f"round-{number}" / "own"

    def _train(self, variant: str, number: int, sources: Sequence[EpisodeSource]) -> Path:
        """Train a variant on the recorded data and on collected episodes, from its policy of the last round."""
        # In thousandths: the order of the sources then repeats after few samples.
        share = round(1000 * self.settings.own_share)
        data = [WeightedSource(source=self.recorded, weight=(1000 - share) * max(1, len(sources)))]
        data += [WeightedSource(source=source, weight=share) for source in sources]
        run = self.folder / f"round-{number}" / variant
        config = replace(
            self.config,
            updates=self.settings.updates if number else self.settings.first_updates,
            seed=self.settings.seed + number,
            init=init_of(run, self._policy(variant, number - 1)) if number else self.config.init,
        )
        with self._timed("train"):
            result = train(data, config, run)
        if not result.finished:
            raise KeyboardInterrupt
        return run

    def _try(self, policy: Path) -> tuple[SuccessCount, ...]:
        log = self.folder / f"round-{len(self.rounds)}" / f"{policy.name}{_LOG}"
        trials = TrialSettings(
            tasks=self.settings.tasks,
            trials=self.settings.trials,
            seed=self.settings.seed,
            baselines=False,
            swapped=False,
            paraphrases=False,
            acting=ActingSettings(engine=self.settings.engine),
            workers=self.settings.workers,
        )
        with self._timed("trials"):
            result = evaluate_closed_loop(policy, suite=self.suite, settings=trials, encoder=self.encoder, log=log)
        return tuple(SuccessCount(task=t.task, trials=t.trials, successes=t.successes) for t in result.tasks)

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        """Add the CPU time of a stage, worker processes included, also if it is interrupted."""
        before = _cpu_seconds()
        try:
            yield
        finally:
            self.cpu_seconds[kind] = self.cpu_seconds.get(kind, 0.0) + _cpu_seconds() - before
            self._save()

    def _save(self) -> None:
        rounds = json_config.to_json(self.rounds)
        state = {**self.about, "rounds": rounds, "cpu_seconds": self.cpu_seconds}
        write_text(self.folder / STATE_FILE, json.dumps(state, indent=1))


def _fixed(settings: ImproveSettings) -> dict[str, Any]:
    """Return the settings that must stay the same from call to call."""
    free = ("rounds", "cpu_minutes", "workers")
    return {name: value for name, value in json_config.to_json(settings).items() if name not in free}


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an improvement by their names on the command line."""
    return {**about["config"], **about["settings"], "data": about["data"], "checkpoint": about["checkpoint"]}


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
