"""The training loop: one update after another, watched, validated, saved, and resumed exactly where it stopped."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from rt1 import settings
from rt1.data.episode import EpisodeSource
from rt1.evaluate.workers import free_cores
from rt1.progress import Progress, progress
from rt1.text.encoder import TextEncoder
from rt1.text.paraphrases import Paraphrases
from rt1.train.config import TrainConfig
from rt1.train.log import MetricsLog
from rt1.train.optim import learning_rate
from rt1.train.run import Run, begin
from rt1.train.signals import stop_on_signal
from rt1.train.update import do_update
from rt1.train.validation import validate


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a call of :func:`train` ended."""

    run: Path
    """The run folder: ``last/``, ``best/``, ``metrics.jsonl``."""
    updates: int
    """Updates done so far."""
    finished: bool
    """False if it was interrupted; the same call goes on from there."""
    best: float | None
    """Lowest held-out loss so far; None where nothing is held out."""


def train(
    source: EpisodeSource,
    config: TrainConfig,
    run: Path | str,
    *,
    encoder: TextEncoder | None = None,
    paraphrases: Paraphrases | None = None,
) -> RunResult:
    """Train a network, or go on with a run that was stopped, with the losses of an uninterrupted one.

    Args:
        source: recorded episodes.
        config: all settings; a run goes on only with the settings it began with.
        run: output folder.
        encoder: text encoder for the instructions; without it the embeddings stored with the episodes are used.
        paraphrases: instruction to other sentences; each sample is given one of them or the instruction, all equally
            likely. Validation gives the instruction.

    Raises:
        TrainingError: a loss or gradient that is not finite, or a run folder with other settings or data.
        DataError: data that cannot be read.
        SaveError: a checkpoint that could not be written.
    """
    torch.set_num_threads(config.threads or free_cores())
    state = begin(source, config, Path(run), encoder=encoder, paraphrases=paraphrases)
    if state.update < config.updates:  # finished before: what is there stays as it is
        _go_on(state)
    finished = state.update >= config.updates
    return RunResult(run=state.folder, updates=state.update, finished=finished, best=state.best)


def _go_on(run: Run) -> None:
    config = run.config
    with (
        closing(_open_log(run)) as log,
        stop_on_signal() as stop,
        progress(f"training {run.folder}", config.updates, unit="updates", done=run.update) as bar,
        closing(run.data.train.stream(run.update)) as batches,
    ):
        for batch in batches:
            if run.update >= config.updates or stop:
                break
            run.meter.add(do_update(run, batch))
            _report(run, log, bar)
    run.save("last")


def _open_log(run: Run) -> MetricsLog:
    config = settings.to_json(run.config)
    return MetricsLog(run.folder, resume_at=run.update, settings=run.config.log, config=config)


def _report(run: Run, log: MetricsLog, bar: Progress) -> None:
    """Log, validate and save when it is time."""
    config, update = run.config, run.update
    last = update == config.updates
    values: dict[str, float] = {}
    if update % config.log_every == 0 or last:
        values |= run.meter.take(windows=config.batch_size)
        values["learning_rate"] = learning_rate(config.optimizer, update - 1, config.updates)
        speed = f"{values['windows_per_second']:.0f} windows/s"
        bar.update(update, f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.0%}, {speed}")
    if (update % config.validate_every == 0 or last) and run.data.held_out is not None:
        with run.acting():
            values |= validate(run.model, run.data.held_out, precision=config.precision)
    if values:
        log.write(update, values)
    if "heldout_loss" in values and (run.best is None or values["heldout_loss"] < run.best):
        run.best = values["heldout_loss"]
        run.save("best")
    if update % config.save_every == 0 and not last:
        run.save("last")
