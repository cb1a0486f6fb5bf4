"""A training run: its network, optimizer and data, started or resumed, and saved."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rt1.checkpoint import (
    CHECKPOINT_FILES,
    INFO_FILE,
    RUN_ORDER,
    TRAINING_FILE,
    CheckpointInfo,
    SharedInfo,
    TrainingState,
    current_names,
    load_training,
    load_weights,
    load_whole_info,
    resolve,
    save_checkpoint,
)
from rt1.common import json_config
from rt1.common.border import reading
from rt1.common.files import recover, replacing
from rt1.common.json_files import read_object
from rt1.common.progress import say
from rt1.data.open_mixture import WeightedSource
from rt1.data.sources.base import EpisodeSource
from rt1.errors import TrainingError
from rt1.model.efficientnet import FiLMEfficientNet
from rt1.model.maxvit import MaxViT
from rt1.model.rt1 import RT1
from rt1.text.encoder import TextEncoder
from rt1.text.paraphrases import Paraphrases
from rt1.train.activations import checkpoint_blocks
from rt1.train.averaging import WeightAverage
from rt1.train.config import TrainConfig, differences
from rt1.train.data import TrainingData, checkpoint_info, prepare_data, trial_info
from rt1.train.distributed import World, average_statistics, share_batch_norm
from rt1.train.forward import Predictor
from rt1.train.log import ABOUT_FILE
from rt1.train.meter import Meter
from rt1.train.optim import load_optimizer_tensors, make_optimizer, optimizer_tensors
from rt1.train.param_groups import freeze, training_mode
from rt1.train.trials import ClosedLoop, prepare_closed_loop
from rt1.train.warm_start import start_from

OWN_WEIGHTS = "weights/"
"""Prefix of the current weights in the training state, if ``model.safetensors`` holds their average."""


@dataclass(kw_only=True)
class Run:
    """A training run: what it works with, and its progress."""

    config: TrainConfig
    folder: Path
    data: TrainingData
    model: RT1
    predictor: nn.Module  # the network in training: compiled, data-parallel
    world: World
    optimizer: torch.optim.Adam
    info: CheckpointInfo | SharedInfo  # description stored in its checkpoints
    average: WeightAverage | None = None
    update: int = 0
    best: float | None = None  # best value so far of ``config.best_metric``
    changes: tuple[str, ...] = ()  # changed settings, each with the update of the change
    trials: ClosedLoop | None = None  # of the first rank, where updates are left to do
    meter: Meter = field(default_factory=Meter)  # since the last record of metrics

    @contextmanager
    def averaged(self) -> Iterator[Mapping[str, Tensor]]:
        """Use the averaged weights within the block, if there are any, and yield the current ones by name.

        BatchNorm's moving statistics become their mean over the ranks.
        """
        average_statistics(self.model, self.world)
        if self.average is None:
            yield {}
            return
        with self.average.averaged(self.model) as current:
            average_statistics(self.model, self.world)
            yield current

    def save(self, name: str) -> None:
        """Write the checkpoint ``name`` of the run folder. Every rank calls it, the first one writes."""
        with self.averaged() as current:
            if self.world.is_main:
                self._write(name, current)
        self.world.wait()

    def _write(self, name: str, current: Mapping[str, Tensor]) -> None:
        progress = {"update": self.update, "best": self.best, "best_metric": self.config.best_metric}
        provenance = {**self.info.provenance, **progress, "changes": list(self.changes)}
        tensors = optimizer_tensors(self.model, self.optimizer)
        tensors |= {OWN_WEIGHTS + name: tensor for name, tensor in current.items()}
        save_checkpoint(
            self.folder / name,
            model=self.model,
            info=dataclasses.replace(self.info, provenance=provenance),
            training=TrainingState(progress=_progress(self), tensors=tensors),
        )
        if name == RUN_ORDER[0]:
            keep(self.folder / name, self.update, newest=self.config.keep_last, every=self.config.keep_every)


def begin(
    data: EpisodeSource | Sequence[WeightedSource],
    config: TrainConfig,
    folder: Path,
    *,
    encoder: TextEncoder | None = None,
    paraphrases: Paraphrases | None = None,
    world: World | None = None,
    allow_changes: bool = False,
) -> Run:
    """Start a run, or resume the one in ``folder``. See :func:`rt1.train.loop.train` for the arguments.

    Raises:
        TrainingError: the folder holds a run with other settings or data, or a checkpoint that is not complete.
        ValueError: closed-loop trials that cannot be run. Nothing is written then.
        SaveError: the folder cannot be written.
    """
    world = world or World()
    config.rows(world.size)
    if world.is_main:
        for name in RUN_ORDER:
            recover(folder / name)
    world.wait()
    is_new = not is_started(folder)  # before the first rank writes
    run = open_run(
        data, config, folder, encoder=encoder, paraphrases=paraphrases, world=world, allow_changes=allow_changes
    )
    if is_new:
        run.save("last")  # a full or read-only disk shows now, not hours later
    return run


def open_run(
    data: EpisodeSource | Sequence[WeightedSource],
    config: TrainConfig,
    folder: Path,
    *,
    encoder: TextEncoder | None,
    paraphrases: Paraphrases | None,
    world: World,
    allow_changes: bool,
) -> Run:
    """Return a new run, or the one in ``folder`` as it was saved, and write nothing.

    The arguments and errors are those of :func:`begin`.
    """
    config.rows(world.size)
    prepared = prepare_data(data, config, encoder=encoder, paraphrases=paraphrases)
    run = _new_run(prepared, config, folder, world)
    if is_started(folder):
        _resume(run, allow_changes=allow_changes)
    elif config.init is not None:
        _start(run, config.init)
    if len(updates := {int(update) for (update,) in world.table([[run.update]])}) > 1:
        raise TrainingError(
            f"ranks resume after different updates ({', '.join(map(str, sorted(updates)))}). Put {folder} on storage "
            "that all machines share"
        )
    if config.closed_loop.every and world.is_main and run.update < config.updates:
        run.trials = prepare_closed_loop(trial_info(run.info), config.closed_loop, encoder=encoder)
    return run


def is_started(folder: Path) -> bool:
    """Whether a folder holds a run to resume."""
    return any((folder / name).exists() for name in RUN_ORDER)


def init_of(folder: Path, policy: Path) -> str:
    """Return the policy that a run begins with, as a run that began names it: the folders may have moved since."""
    about = folder / ABOUT_FILE
    if not (is_started(folder) and about.is_file()):
        return str(policy)
    with reading(about, cure=f"Remove {folder} to train again"):
        return str(read_object(about)["config"]["init"])


def _new_run(data: TrainingData, config: TrainConfig, folder: Path, world: World) -> Run:
    network = data.fit(config.model)
    torch.manual_seed(config.seed)
    # Channels last is the faster order on CPUs and GPUs.
    model = RT1(network).to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(model, config.optimizer.freeze)
    training_mode(model, batch_norm=config.batch_norm != "frozen")
    share_batch_norm(model, config.batch_norm, world)
    _checkpoint_activations(model, config)
    return Run(
        config=config,
        folder=folder,
        data=data,
        model=model,
        predictor=_predictor(model, config, world),
        world=world,
        optimizer=make_optimizer(model, config.optimizer),
        average=WeightAverage(model, config.average) if config.average.decay else None,
        info=checkpoint_info(network, config, data),
    )


def _start(run: Run, path: str) -> None:
    """Load another network's weights into a new run, and print what was loaded and what is new."""
    config = run.config
    report = start_from(
        run.model,
        path,
        action_spec=run.data.embodiments.specs,
        text_encoder=run.info.text_encoder,
        new_text=config.init_new_text,
    )
    run.average = WeightAverage(run.model, config.average) if config.average.decay else None
    run.info = dataclasses.replace(run.info, provenance={**run.info.provenance, "init": report.to_json()})
    for line in report.lines() if run.world.is_main else ():
        say(line)


def _checkpoint_activations(model: RT1, config: TrainConfig) -> None:
    if config.compile and config.activations == "full":
        raise TrainingError(
            "activations is full, and compile is on, which decides this itself. Set activations to kept"
        )
    if isinstance(model.backbone, FiLMEfficientNet | MaxViT):
        checkpoint_blocks(model.backbone.blocks, "kept" if config.compile else config.activations)
    elif config.activations != "kept":
        raise TrainingError(
            f"activations is {config.activations}, and the backbone {config.model.backbone}. Only the blocks of "
            "efficientnet and maxvit can be computed again. Set activations to kept"
        )


def _predictor(model: RT1, config: TrainConfig, world: World) -> nn.Module:
    predictor: nn.Module = Predictor(model, config.precision)
    if config.compile:
        predictor.compile()
    if world.size == 1:
        return predictor
    devices = None if world.device.type == "cpu" else [world.device]
    # A depthwise kernel has one input channel, so both layouts are the same bytes; their strides differ in name only.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Moving statistics are averaged where they are used, so that a rank need not send its own at every update.
    parameters = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"  # before torch 2.13
    no_sync: dict[str, Any] = {name: False}
    return DistributedDataParallel(predictor, device_ids=devices, gradient_as_bucket_view=True, **no_sync)


def _progress(run: Run) -> dict[str, Any]:
    """Return a run's progress, settings and data as plain data."""
    source, encoder = run.data.source, run.data.text_encoder
    specs = [spec.to_json() for spec in run.data.embodiments.specs.values()]
    return {
        "update": run.update,
        "best": run.best,
        "meter": run.meter.state_dict(),
        "changes": list(run.changes),
        "config": json_config.to_json(run.config),
        "data": {
            "source": source.name,
            "episodes": len(source.lengths),
            "steps": int(source.lengths.sum()),
            "action_spec": specs[0] if len(specs) == 1 else dict(zip(run.data.embodiments.specs, specs, strict=True)),
            "text_encoder": None if encoder is None else encoder.to_json(),
            "paraphrases": run.data.paraphrases,
            "order": run.data.train.state_dict()["order"],
        },
    }


def _resume(run: Run, *, allow_changes: bool) -> None:
    """Restore a run from the checkpoint in its folder."""
    checkpoint = resolve(run.folder)
    training = load_training(checkpoint)
    old, new = training.progress, _progress(run)
    if lacking := sorted(new.keys() - old.keys()):
        raise TrainingError(f"{checkpoint} does not say its {', '.join(lacking)}. Train into another folder")
    with reading(checkpoint / TRAINING_FILE, error=TrainingError, cure="Train into another folder"):
        config = {"instruction_choice": "first", **old["config"]}  # what runs did before there was a choice
        before = {**config, "model": current_names(config["model"]), "data": old["data"]}
        differing = differences(before, {**new["config"], "data": new["data"]})
        update, best, changes = _update(old["update"]), old["best"], tuple(map(str, old["changes"]))
        if not isinstance(best, float | int | None):
            raise TypeError(f"best is {best!r}")
        run.meter.load_state_dict(old["meter"])
    if differing and not allow_changes:
        raise TrainingError(
            f"{run.folder} holds a run with other settings ({'; '.join(differing)}). Give the old ones or another "
            "folder, or resume with the new ones by --allow-changes"
        )
    load_weights(run.model, checkpoint)
    if "init" in (provenance := load_whole_info(checkpoint).provenance):
        run.info = dataclasses.replace(run.info, provenance={**run.info.provenance, "init": provenance["init"]})
    _restore_tensors(run, training.tensors)
    run.update, run.best = update, best
    run.changes = (*changes, *(f"from update {run.update}: {text}" for text in differing))


def _update(number: object) -> int:
    if type(number) is not int or number < 0:
        raise TypeError(f"update is {number!r:.80}, must be a whole number of at least 0")
    return number


def _restore_tensors(run: Run, tensors: Mapping[str, Tensor]) -> None:
    """Restore the optimizer's state and, if the network was loaded with an average, its current weights."""
    weights = {name.removeprefix(OWN_WEIGHTS): t for name, t in tensors.items() if name.startswith(OWN_WEIGHTS)}
    if run.average is not None and weights:
        run.average.restore(run.model, weights)
    elif run.average is not None:  # switched on now
        run.average = WeightAverage(run.model, run.config.average)
    elif weights:  # switched off now
        run.model.load_state_dict(weights)
    moments = {name: tensor for name, tensor in tensors.items() if not name.startswith(OWN_WEIGHTS)}
    load_optimizer_tensors(run.model, run.optimizer, moments)


_NAME = re.compile(r"update-(\d{8})")


def keep(last: Path, update: int, *, newest: int, every: int) -> None:
    """Keep the newest checkpoint under its update's name too, and remove those that are no longer kept.

    The copy shares its files' disk space with ``last/`` until that is rewritten.

    Args:
        last: the newest checkpoint, just written.
        update: its update.
        newest: how many checkpoints stay, ``last/`` included.
        every: updates that are a multiple of this stay for good. 0: none.

    Raises:
        SaveError: the disk is full or read-only.
    """
    if newest > 1 or _is_for_good(update, every):
        with replacing(last.parent / f"update-{update:08d}", holding=CHECKPOINT_FILES) as copy:
            shutil.copytree(last, copy, copy_function=_link)
    older = sorted(
        path for path in last.parent.iterdir() if _NAME.fullmatch(path.name) and (path / INFO_FILE).is_file()
    )
    passing = [path for path in older if not _is_for_good(int(path.name.removeprefix("update-")), every)]
    for path in passing[: max(0, len(passing) - newest)] if newest > 1 else passing:
        shutil.rmtree(path)


def _is_for_good(update: int, every: int) -> bool:
    return every > 0 and update > 0 and update % every == 0


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
