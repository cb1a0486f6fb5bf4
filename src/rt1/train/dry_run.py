"""The dry run of a training: it says what a run would do on these machines, and writes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil
import torch

from rt1.checkpoint import RUN_ORDER
from rt1.common.processes import free_cores
from rt1.common.progress import duration
from rt1.data.open_mixture import WeightedSource
from rt1.data.sources.base import EpisodeSource
from rt1.errors import SaveError
from rt1.model.heads import parameter_counts
from rt1.text.encoder import TextEncoder
from rt1.text.paraphrases import Paraphrases
from rt1.train.config import TrainConfig
from rt1.train.distributed import explain_lost_rank, join_world
from rt1.train.meter import memory
from rt1.train.run import Run, is_started, open_run
from rt1.train.update import do_update

_UPDATES = 3
"""Updates that are measured. The optimizer's memory is there from the first, a steady speed from the second."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the updates of a dry run took."""

    seconds: float  # of the last one, with the wait for its batch
    memory_gb: tuple[float, ...]  # peak of each rank's process, GB (1e9 bytes)
    accelerator_gb: tuple[float, ...]  # peak of each rank's accelerator; 0 where there is none


def dry_run(
    data: EpisodeSource | Sequence[WeightedSource],
    config: TrainConfig,
    folder: Path | str,
    *,
    encoder: TextEncoder | None = None,
    paraphrases: Paraphrases | None = None,
    allow_changes: bool = False,
) -> dict[str, str]:
    """Return what :func:`rt1.train.loop.train` would do with the same arguments, by name.

    All ranks do a few updates of a network that is thrown away, to measure memory and time. Nothing is written. Ranks
    other than the first return an empty dictionary.

    Raises:
        SaveError: the folder cannot be written.
        TrainingError, DataError, ValueError: as the training would.
    """
    folder = Path(folder)
    torch.set_num_threads(config.threads or free_cores())
    config.rows(int(os.environ.get("WORLD_SIZE", "1")))  # before this rank waits for the others
    free = _free_gigabytes(folder)
    with join_world(config.device) as world, explain_lost_rank(world):
        run = open_run(
            data, config, folder, encoder=encoder, paraphrases=paraphrases, world=world, allow_changes=allow_changes
        )
        output = _output(run, free)  # before the updates count on
        measured = _measure(run)
    if not world.is_main:
        return {}
    return {**_shares(run), "output": output, **_costs(run, measured)}


def _free_gigabytes(folder: Path) -> float:
    """Return the free disk space where a folder is or will be. One that cannot be written raises ``SaveError``."""
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SaveError(f"{folder}: {parent} cannot be written by this user. Give another folder")
    return shutil.disk_usage(parent).free / 1e9


def _output(run: Run, free: float) -> str:
    state = f"resumes after update {run.update:,} of {run.config.updates:,}" if is_started(run.folder) else "a new run"
    changes = f", changed {'; '.join(run.changes)}" if run.changes else ""
    # Adam's two moments, the weights, and once more where they are averaged.
    size = parameter_counts(run.model)["total"] * 4e-9 * (3 if run.average is None else 4)
    names = " and ".join(f"{name}/" for name in RUN_ORDER)
    return f"{run.folder}, {state}{changes}, {names} of about {size:.2g} GB each, {free:.0f} GB free"


def _measure(run: Run) -> Measured:
    world, ends = run.world, []
    with closing(run.data.train.stream(run.update, rank=world.rank, world=world.size)) as batches:
        for batch in islice(batches, _UPDATES):
            do_update(run, batch)  # its metrics wait for the accelerator
            ends.append(time.perf_counter())
    peaks = memory()
    row = [peaks.get("memory_gb", 0.0), peaks.get("gpu_memory_gb", 0.0)]
    process, accelerator = zip(*world.table([row]), strict=True)
    return Measured(seconds=ends[-1] - ends[-2], memory_gb=process, accelerator_gb=accelerator)


def _shares(run: Run) -> dict[str, str]:
    """Return how the data and the batches are shared out."""
    config, world, data = run.config, run.world, run.data
    clips = max(1, config.windows_per_clip)
    part = config.batch_size // world.size // config.accumulation
    parts = "" if config.accumulation == 1 else f" in {config.accumulation} parts of {part}"
    windows, episodes = data.train.samples * clips, len(data.source.lengths)
    passes = f"{windows / config.batch_size:.4g} updates, and {config.updates:,} updates are "
    return {
        "ranks": f"{world.size} on {world.device.type}, {os.environ.get('LOCAL_WORLD_SIZE', world.size)} of them here",
        "batch": f"{config.batch_size:,} windows per update, {config.batch_size // world.size:,} per rank{parts}",
        "data": f"{data.source.name}: {episodes:,} episodes, {len(data.held_out_episodes):,} of them held out, "
        f"{int(data.source.lengths.sum()):,} steps",
        "pass": f"{windows:,} windows, {passes}{config.updates * config.batch_size / windows:.3g} passes",
        "network": f"preset {config.name}, {parameter_counts(run.model)['total'] / 1e6:.3g} M parameters",
    }


def _costs(run: Run, measured: Measured) -> dict[str, str]:
    left = max(0, run.config.updates - run.update + _UPDATES)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", run.world.size))
    machine = psutil.virtual_memory().total / 1e9
    text = (
        f"measured over {_UPDATES} updates: {max(measured.memory_gb):.2g} GB per rank, "
        f"{sum(measured.memory_gb[:here]):.2g} GB for the ranks of this machine, which has {machine:.0f} GB"
    )
    if peak := max(measured.accelerator_gb):
        _, total = torch.get_device_module(run.world.device).mem_get_info()
        text += f", {peak:.2g} GB per accelerator, which has {total / 1e9:.0f} GB"
    return {
        "memory": text,
        "time": f"{measured.seconds:.2g} s per update, about {duration(left * measured.seconds)} for {left:,} updates "
        "without validations and trials",
    }
