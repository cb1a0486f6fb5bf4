"""Whole evaluations of a checkpoint, and their shares: trials on several machines, one report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rt1.common.border import reading
from rt1.common.files import first_names, write_text
from rt1.common.json_config import first_difference, from_json, to_json
from rt1.common.json_files import read_object
from rt1.data.sources.base import EpisodeSource
from rt1.envs.base import TaskSuite, max_return, picture_backend
from rt1.envs.protocol import protocols_with_trials_of
from rt1.envs.registry import suite_from_json
from rt1.evaluate.closed_loop import TrialSettings, apply_protocol, run_evaluation
from rt1.evaluate.episode_choice import choose_episodes, instruction_source
from rt1.evaluate.episode_trace import EpisodePlot, episode_plots
from rt1.evaluate.metrics import read_metrics
from rt1.evaluate.outcomes import Shard, TrialOutcome, count_outcomes
from rt1.policy.policy import Policy
from rt1.report.provenance import Provenance, ProvenanceRecorder, ReportContext
from rt1.text.encoder import TextEncoder

SHARD_FILES = "shard-*-of-*.json"
"""Names of the files of shards."""
NOTES = (
    """The policy sees the camera image and the instruction, never the simulator's state. The success signal is used to
    count and to end an episode.""",
    """Trials start from odd environment seeds, recordings from even ones. No trial was ever recorded.""",
    """Open-loop replay: the actions of a successful expert episode with another initial state, without looking at any
    image. The last action is held until the step limit.""",
    """Swapped instruction: the same trials under the instruction of the task that shares the scene. The original goal
    counts.""",
    """Paraphrase: the same trials under a sentence that no recording uses.""",
)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials of an evaluation, or a share of them, and how they were made. Plain JSON."""

    shard: Shard
    evaluation: Mapping[str, Any]  # what all shards have in common: checkpoint, environment, settings, code
    tasks: tuple[str, ...]
    max_return: float | None
    provenance: Provenance
    metrics: tuple[Mapping[str, Any], ...]
    outcomes: tuple[TrialOutcome, ...]


def evaluate_shard(
    checkpoint: Path | str,
    out: Path | str,
    shard: Shard,
    *,
    suite: TaskSuite,
    settings: TrialSettings,
    encoder: TextEncoder | None = None,
    context: ReportContext | None = None,
) -> Path:
    """Run a share of an evaluation's trials, write its file into ``out``, and return the file's path.

    An interrupted call resumes when it is made again.

    The other arguments are those of :func:`evaluate_checkpoint`.
    """
    recorder = ProvenanceRecorder(checkpoint, context, embodiment=settings.embodiment)
    log = log_file(out, shard)
    trials, _ = run_trials_of(recorder, shard, suite, settings, log=log, encoder=encoder)
    path = Path(out) / f"shard-{shard.number}-of-{shard.count}.json"
    write_text(path, json.dumps(to_json(trials)) + "\n")
    log.unlink(missing_ok=True)
    return path


def shard_files(folders: Sequence[Path]) -> list[Path]:
    """Return the files of shards in some folders.

    Raises:
        ValueError: there are none.
    """
    paths = [path for folder in folders for path in sorted(folder.glob(SHARD_FILES))]
    if not paths:
        names = ", ".join(map(str, folders))
        raise ValueError(
            f"{names} holds no shard of trials (shard-K-of-N.json). Name the folders that rt1 evaluate RUN --shard K/N "
            "wrote"
        )
    return paths


def read_shards(folders: Sequence[Path]) -> list[Trials]:
    """Return all shards of an evaluation, in order, from the folders that they lie in.

    Raises:
        DataError: a file is damaged.
        ValueError: a shard is missing, or there twice, or the shards are not of one evaluation.
    """
    paths = shard_files(folders)
    shards = [_read(path) for path in paths]
    _check_match(paths, shards)
    numbers = [trials.shard.number for trials in shards]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        names = " and ".join(str(path) for path, number in zip(paths, numbers, strict=True) if number == twice[0])
        raise ValueError(f"shard {twice[0]} is there twice, as {names}. Name each folder once")
    count = shards[0].shard.count
    if missing := [str(Shard(number=n, count=count)) for n in range(1, count + 1) if n not in numbers]:
        raise ValueError(
            f"{len(missing)} of {count} shards are missing: {first_names(missing)}. Run rt1 evaluate RUN --shard K/N "
            "for them"
        )
    return sorted(shards, key=lambda trials: trials.shard.number)


def log_file(out: Path | str, shard: Shard) -> Path:
    """Return the file of the finished trials of an evaluation, or of a shard of it, until its result is written."""
    return Path(out) / f".trials-{shard.number}-of-{shard.count}.jsonl"


def run_trials_of(
    recorder: ProvenanceRecorder,
    shard: Shard,
    suite: TaskSuite,
    settings: TrialSettings,
    *,
    log: Path,
    encoder: TextEncoder | None = None,
    source: EpisodeSource | None = None,
) -> tuple[Trials, list[EpisodePlot]]:
    """Run a share of a checkpoint's trials. Return them, and plots of held-out episodes of ``source``.

    ``log`` is a :func:`log_file`, from which an interrupted call resumes.
    """
    folder, info = recorder.folder, recorder.info
    with recorder:
        # Damaged weights or data must raise here, not after minutes of trials.
        policy = Policy.from_checkpoint(
            folder,
            embodiment=settings.embodiment,
            text_encoder=encoder,
            **vars(settings.acting),
        )
        settings = replace(settings, acting=replace(settings.acting, engine=policy.engine))
        suite, settings = apply_protocol(suite, settings)
        plots: list[EpisodePlot] = []
        if source is not None:
            episodes = choose_episodes(source, info.provenance)
            plots = episode_plots(policy, source, episodes, instruction_source(source, info, encoder))
        evaluation, outcomes = run_evaluation(
            folder, suite=suite, settings=settings, encoder=encoder, shard=shard, log=log
        )
    facts = recorder.facts(
        policy, title="Closed-loop evaluation", settings=settings_table(suite, settings), notes=NOTES
    )
    trials = Trials(
        shard=shard,
        evaluation={"shards": shard.count, "commit": facts["commit"], **evaluation},
        tasks=tuple(evaluation["trials"]["tasks"]),
        max_return=max_return(suite),
        provenance=Provenance(**facts),
        metrics=tuple(read_metrics(folder.parent)),
        outcomes=tuple(outcomes),
    )
    return trials, plots


def report_fields(shards: Sequence[Trials]) -> dict[str, Any]:
    """Return the fields of the report of all trials of an evaluation."""
    first = shards[0]
    outcomes = [outcome for trials in shards for outcome in trials.outcomes]
    provenances = [trials.provenance for trials in shards]
    name = first.evaluation["trials"].get("protocol")
    return {
        **vars(count_outcomes(first.tasks, outcomes, first.max_return)),
        "metrics": first.metrics,
        "protocols": () if name is None else protocols_with_trials_of(suite_from_json(first.evaluation["env"]), name),
        "picture_backend": first.evaluation["picture_backend"],
        "weights": first.evaluation["weights"],
        **vars(first.provenance),
        "seconds": {name: sum(p.seconds.get(name, 0.0) for p in provenances) for name in first.provenance.seconds},
        "peak_gb": max((p.peak_gb for p in provenances if p.peak_gb is not None), default=None),
        "machine": "; ".join(dict.fromkeys(p.machine for p in provenances)),
        "date": max(p.date for p in provenances),
        "command": _without_shard(first.provenance.command),
    }


def _without_shard(command: str) -> str:
    """Return the command of a whole evaluation for that of a shard."""
    words = shlex.split(command)
    if "--shard" in words:
        at = words.index("--shard")
        del words[at : at + 2]
        return shlex.join(words)
    return command


def _read(path: Path) -> Trials:
    with reading(path, cure="Remove it and run this shard again"):
        return from_json(Trials, read_object(path))


def _check_match(paths: Sequence[Path], shards: Sequence[Trials]) -> None:
    for path, trials in zip(paths[1:], shards[1:], strict=True):
        difference = first_difference(trials.evaluation, shards[0].evaluation)
        if difference is not None:
            name, value, first = difference
            raise ValueError(
                f"{name} is {value!r} in {path}, but {first!r} in {paths[0]}. Merge shards of one evaluation only"
            )


def settings_table(suite: TaskSuite, settings: TrialSettings) -> dict[str, str]:
    """Return the settings as the page shows them."""
    acting, (height, width) = settings.acting, suite.image_size
    others = {name: value for name, value in suite.settings.items() if name not in ("image_size", "control_rate")}
    return {
        "environment": ", ".join([suite.name, *(f"{name} {value}" for name, value in others.items())]),
        "image": f"{height} x {width}",
        "control rate": f"{suite.control_rate:g} Hz",
        "trials per task": str(settings.trials),
        "evaluation seed": str(settings.seed),
        **({} if settings.protocol is None else {"protocol": settings.protocol}),
        **({} if (drawn_by := picture_backend(suite)) is None else {"picture backend": drawn_by}),
        **({} if acting.engine in (None, "torch") else {"engine of the policy": acting.engine}),
    }
