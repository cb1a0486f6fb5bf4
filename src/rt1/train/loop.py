"""The training loop: updates, validation, checkpoints, and exact resumption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from rt1.checkpoint import RUN_ORDER
from rt1.common import json_config
from rt1.common.folders import working_in
from rt1.common.processes import free_cores
from rt1.common.progress import Progress, progress
from rt1.common.signals import stop_on_signal
from rt1.common.suggest import unknown_name
from rt1.data.open_mixture import WeightedSource
from rt1.data.pipeline.loader import Loader
from rt1.data.sources.base import EpisodeSource
from rt1.errors import TrainingError
from rt1.evaluate.metrics import METRICS_FILE
from rt1.text.encoder import TextEncoder
from rt1.text.paraphrases import Paraphrases
from rt1.train.config import TrainConfig
from rt1.train.distributed import explain_lost_rank, join_world
from rt1.train.log import ABOUT_FILE, MetricsLog
from rt1.train.optim import learning_rate
from rt1.train.run import Run, begin
from rt1.train.trials import SUCCESS
from rt1.train.update import do_update
from rt1.train.validation import PREFIX, is_better, validate

RUN_FILES = (*RUN_ORDER, METRICS_FILE, ABOUT_FILE)
"""What makes a folder a run's."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of :func:`train`."""

    run: Path  # the run folder: ``last/``, ``best/``, ``metrics.jsonl``
    updates: int  # updates done so far
    finished: bool  # false if it was interrupted: the same call resumes it
    best: float | None  # best held-out value so far of ``config.best_metric``; None where nothing is held out
    changes: tuple[str, ...] = ()  # changed settings, each with the update of the change


def train(
    data: EpisodeSource | Sequence[WeightedSource],
    config: TrainConfig,
    run: Path | str,
    *,
    encoder: TextEncoder | None = None,
    paraphrases: Paraphrases | None = None,
    allow_changes: bool = False,
) -> RunResult:
    """Train a network, or resume a run with the losses of an uninterrupted one.

    Started by torchrun, several processes train one network (see docs/training.md).

    Args:
        data: recorded episodes, or several data sets and their shares.
        config: all settings. A run resumes only with its original settings.
        run: output folder.
        encoder: text encoder for the instructions. None: the embeddings stored with the episodes.
        paraphrases: instruction to other sentences. Each sample gets one of them or the instruction, with equal chance.
            Validation uses the instruction.
        allow_changes: resume with other settings or data. The differences are recorded.

    Raises:
        TrainingError: a loss or gradient that is not finite, a batch that does not fit into memory, a run folder with
            other settings or data, a lost rank.
        DataError: data that cannot be read.
        SaveError: a checkpoint that could not be written, or a folder that holds something else.
        LockedError: another process trains in the folder.
    """
    folder = Path(run)
    torch.set_num_threads(config.threads or free_cores())
    with (
        join_world(config.device) as world,
        explain_lost_rank(world),
        working_in(folder, ours=RUN_FILES) if world.is_main else nullcontext(),
    ):
        state = begin(
            data,
            config,
            folder,
            encoder=encoder,
            paraphrases=paraphrases,
            world=world,
            allow_changes=allow_changes,
        )
        if state.update < config.updates:
            _run_updates(state)
    return RunResult(
        run=state.folder,
        updates=state.update,
        finished=state.update >= config.updates,
        best=state.best,
        changes=state.changes,
    )


def _run_updates(run: Run) -> None:
    config, world = run.config, run.world
    with ExitStack() as stack:
        log = None
        if world.is_main:
            settings = json_config.to_json(config)
            log = MetricsLog(run.folder, resume_at=run.update, settings=config.log, config=settings)
            stack.enter_context(closing(log))
        stop = stack.enter_context(stop_on_signal())
        bar = stack.enter_context(
            progress(f"training {run.folder}", config.updates, unit="updates", done=run.update, quiet=not world.is_main)
        )
        batches = stack.enter_context(closing(run.data.train.stream(run.update, rank=world.rank, world=world.size)))
        for batch in run.meter.waiting(batches):
            if run.update >= config.updates or world.any(here=bool(stop)):
                break
            run.meter.add(do_update(run, batch))
            with run.meter.paused():
                _report(run, log, bar)
    run.save("last")


def _report(run: Run, log: MetricsLog | None, bar: Progress) -> None:
    """Log, validate, run trials and save when due."""
    config, update = run.config, run.update
    last = update == config.updates
    values: dict[str, float] = {}
    if update % config.log_every == 0 or last:
        values |= run.meter.take()
        values["learning_rate"] = learning_rate(config.optimizer, update - 1, config.updates)
        bar.update(update, _note(values))
    if (update % config.validate_every == 0 or last) and run.data.held_out is not None:
        values |= _validate(run, run.data.held_out)
    if config.closed_loop.every and (update % config.closed_loop.every == 0 or last):
        values |= _try(run)
    if values and log is not None:
        log.write(update, values)
    metric = SUCCESS if config.best_metric == SUCCESS else PREFIX + config.best_metric
    if metric in values and is_better(config.best_metric, values[metric], run.best):
        run.best = values[metric]
        run.save("best")
    if update % config.save_every == 0 and not last:
        run.save("last")


def _note(values: Mapping[str, float]) -> str:
    """Return the values shown by the progress bar."""
    memory = values.get("gpu_memory_gb", values.get("memory_gb"))
    return (
        f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.0%}, {values['windows_per_second']:.3g} windows/s, "
        f"data wait {values['data_wait']:.0%}" + ("" if memory is None else f", {memory:.1f} GB")
    )


def _validate(run: Run, held_out: Loader) -> dict[str, float]:
    with run.averaged():
        values = validate(run.model, held_out, precision=run.config.precision, world=run.world)
    if run.config.best_metric != SUCCESS and PREFIX + run.config.best_metric not in values:
        names = [SUCCESS, *(name.removeprefix(PREFIX) for name in values)]
        raise TrainingError(unknown_name("best_metric", run.config.best_metric, names))
    return values


def _try(run: Run) -> dict[str, float]:
    """Return the success rates of the current policy. The first rank runs the trials for all."""
    run.save("last")
    rates = {SUCCESS: 0.0} if run.trials is None else run.trials.round(run.folder / "last")
    total = run.world.sum(torch.tensor([rates[SUCCESS]], dtype=torch.float64))
    return {**rates, SUCCESS: float(total)}
