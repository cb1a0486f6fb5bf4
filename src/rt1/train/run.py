"""A run: its network, optimizer and data, begun anew or found again, and saved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rt1 import settings
from rt1.checkpoint import (
    RUN_ORDER,
    CheckpointInfo,
    TrainingState,
    load_training,
    load_weights,
    resolve,
    save_checkpoint,
)
from rt1.data.episode import EpisodeSource
from rt1.files import recover
from rt1.model.rt1 import RT1
from rt1.text.encoder import TextEncoder
from rt1.text.paraphrases import Paraphrases
from rt1.train.averaging import WeightAverage
from rt1.train.config import TrainConfig
from rt1.train.data import TrainingData, prepare_data
from rt1.train.errors import TrainingError
from rt1.train.meter import Meter
from rt1.train.optim import load_optimizer_tensors, make_optimizer, optimizer_tensors
from rt1.train.parts import freeze, training_mode

OWN_WEIGHTS = "weights/"
"""Names of the network's own weights among a checkpoint's training tensors, where ``model.safetensors`` holds their
average."""

HARMLESS = {
    *("log_every", "validate_every", "save_every", "threads", "loader_threads", "name"),
    *("log.tensorboard", "log.wandb", "log.project", "log.entity"),
}
"""Settings that only decide how often and how fast a run works: the losses stay the same."""


@dataclass(kw_only=True)
class Run:
    """What a run works with, and what changes while it goes on."""

    config: TrainConfig
    """Its settings."""
    folder: Path
    """Its output."""
    data: TrainingData
    """What it learns from."""
    model: RT1
    """The network."""
    optimizer: torch.optim.Optimizer
    """What changes the weights."""
    info: CheckpointInfo
    """What its checkpoints say of themselves."""
    average: WeightAverage | None = None
    """Average of the weights, where one is kept."""
    update: int = 0
    """Updates done."""
    best: float | None = None
    """Lowest held-out loss so far."""
    meter: Meter = field(default_factory=Meter)
    """Of the updates since the last line of metrics."""

    def acting(self) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Let the network have the weights to act with while a block runs, and give its own meanwhile if others."""
        return nullcontext({}) if self.average is None else self.average.acting(self.model)

    def save(self, name: str) -> None:
        """Write the checkpoint ``name`` of the run folder."""
        provenance = {**self.info.provenance, "update": self.update, "heldout_loss": self.best}
        info = dataclasses.replace(self.info, provenance=provenance)
        with self.acting() as own:
            tensors = optimizer_tensors(self.model, self.optimizer)
            tensors |= {OWN_WEIGHTS + name: tensor for name, tensor in own.items()}
            training = TrainingState(progress=_progress(self), tensors=tensors)
            save_checkpoint(self.folder / name, model=self.model, info=info, training=training)


def begin(
    source: EpisodeSource,
    config: TrainConfig,
    folder: Path,
    *,
    encoder: TextEncoder | None = None,
    paraphrases: Paraphrases | None = None,
) -> Run:
    """Begin a run, or find one again where its folder has a checkpoint.

    Raises:
        TrainingError: the folder holds a run with other settings or data.
        SaveError: the folder cannot be written.
    """
    data = prepare_data(source, config, encoder=encoder, paraphrases=paraphrases)
    network = data.fit(config.model)
    torch.manual_seed(config.seed)
    model = channels_last(RT1(network))
    freeze(model, config.optimizer.freeze)
    training_mode(model)
    run = Run(
        config=config,
        folder=folder,
        data=data,
        model=model,
        optimizer=make_optimizer(model, config.optimizer),
        average=WeightAverage(model, config.average) if config.average.decay else None,
        info=CheckpointInfo(
            model=network,
            action_spec=source.action_spec,
            text_encoder=data.text_encoder,
            control_rate=getattr(source, "details", {}).get("control_rate"),
            provenance=_provenance(source, config, data),
        ),
    )
    for name in RUN_ORDER:
        recover(folder / name)
    if any((folder / name).exists() for name in RUN_ORDER):
        _resume(run)
    else:
        run.save("last")  # a full or read-only disk shows now, not hours later
    return run


def channels_last(model: RT1) -> RT1:
    """Lay convolution weights out for channels-last images, the faster order on CPUs and GPUs."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _provenance(source: EpisodeSource, config: TrainConfig, data: TrainingData) -> dict[str, Any]:
    details = dict(getattr(source, "details", {}))
    return {
        "preset": config.name,
        "source": source.name,
        "episodes": len(source.lengths),
        "held_out_episodes": data.held_out_episodes.tolist(),
        "tasks": sorted({source.task(episode) for episode in range(len(source.lengths))} - {""}),
        **({"env": details["env"]} if "env" in details else {}),
    }


def _progress(run: Run) -> dict[str, Any]:
    """Return what a run must find again to go on, as plain data."""
    source, encoder = run.data.source, run.data.text_encoder
    return {
        "update": run.update,
        "best": run.best,
        "meter": run.meter.state_dict(),
        "config": settings.to_json(run.config),
        "data": {
            "source": source.name,
            "episodes": len(source.lengths),
            "steps": int(source.lengths.sum()),
            "action_spec": source.action_spec.to_json(),
            "text_encoder": None if encoder is None else encoder.to_json(),
            "paraphrases": run.data.paraphrases,
        },
    }


def _resume(run: Run) -> None:
    checkpoint = resolve(run.folder)
    training = load_training(checkpoint)
    old, new = training.progress, _progress(run)
    if lacking := sorted(new.keys() - old.keys()):
        raise TrainingError(f"{checkpoint} does not say its {', '.join(lacking)}; train into another folder")
    _refuse_other_settings({**old["config"], "data": old["data"]}, {**new["config"], "data": new["data"]}, run.folder)
    load_weights(run.model, checkpoint)
    own = {name: tensor for name, tensor in training.tensors.items() if name.startswith(OWN_WEIGHTS)}
    if run.average is not None:
        run.average.restore(run.model, {name.removeprefix(OWN_WEIGHTS): tensor for name, tensor in own.items()})
    moments = {name: tensor for name, tensor in training.tensors.items() if name not in own}
    load_optimizer_tensors(run.model, run.optimizer, moments)
    run.update, run.best = int(old["update"]), old["best"]
    run.meter.load_state_dict(old["meter"])


def _refuse_other_settings(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    differing = [text for text in _differences(old, new, "") if text.split(":")[0] not in HARMLESS]
    if differing:
        raise TrainingError(
            f"{folder} holds a run with other settings ({'; '.join(differing)}); give the old ones or another folder"
        )


def _differences(old: object, new: object, name: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {old} then, {new} now"]
