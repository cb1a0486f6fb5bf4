"""The training loop: one update after another, watched, validated, saved, and resumed exactly where it stopped."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
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
from rt1.data.loader import Batch, Loader
from rt1.evaluate.workers import free_cores
from rt1.files import recover
from rt1.model.rt1 import RT1, action_loss
from rt1.preprocess import crop_margins, resize, shifted, to_float
from rt1.progress import Progress, progress
from rt1.text.encoder import TextEncoder
from rt1.train.config import TrainConfig
from rt1.train.data import TrainingData, prepare_data
from rt1.train.log import MetricsLog
from rt1.train.optim import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors


class TrainingError(RuntimeError):
    """A run that cannot go on; the message gives the update, the reason and the cure."""


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


@dataclass(kw_only=True)
class _Run:
    """What changes while a run goes on."""

    config: TrainConfig
    folder: Path
    data: TrainingData
    model: RT1
    optimizer: torch.optim.AdamW
    info: CheckpointInfo
    update: int = 0
    best: float | None = None
    sums: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)


def train(
    source: EpisodeSource,
    config: TrainConfig,
    run: Path | str,
    *,
    encoder: TextEncoder | None = None,
) -> RunResult:
    """Train a network, or go on with a run that was stopped, with the losses of an uninterrupted one.

    Args:
        source: recorded episodes.
        config: all settings; a run goes on only with the settings it began with.
        run: output folder.
        encoder: text encoder for the instructions; without it the embeddings stored with the episodes are used.

    Raises:
        TrainingError: a loss or gradient that is not finite, or a run folder with other settings or data.
        DataError: data that cannot be read.
        SaveError: a checkpoint that could not be written.
    """
    torch.set_num_threads(config.threads or free_cores())
    state = _begin(source, config, Path(run), encoder)
    if state.update >= config.updates:  # finished before: what is there stays as it is
        return RunResult(run=state.folder, updates=state.update, finished=True, best=state.best)
    log = MetricsLog(state.folder, resume_at=state.update)
    try:
        with (
            _stop_on_signal() as stop,
            progress(f"training {run}", config.updates, unit="updates", done=state.update) as bar,
            closing(state.data.train.stream(state.update)) as batches,
        ):
            for batch in batches:
                if state.update >= config.updates or stop:
                    break
                _one_update(state, batch)
                _report(state, log, bar)
    finally:
        log.close()
    _save(state, "last")
    finished = state.update >= config.updates
    return RunResult(run=state.folder, updates=state.update, finished=finished, best=state.best)


def channels_last(model: RT1) -> RT1:
    """Lay convolution weights out for channels-last images, the faster order on CPUs and GPUs."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def validate(model: RT1, loader: Loader, *, precision: str = "fp32") -> dict[str, float]:
    """Return ``heldout_loss`` (nats per token) and ``heldout_accuracy`` over every window of a loader."""
    was_training = model.training
    model.eval()
    loss = accuracy = steps = 0.0
    with torch.no_grad():
        for batch in loader.in_order():
            logits_BTAV = _forward(model, batch, precision=precision)
            mask_BT = torch.from_numpy(batch.valid_BT)
            token_BTA = torch.from_numpy(batch.token_BTA)
            count = int(mask_BT.sum())
            loss += count * float(action_loss(logits_BTAV, token_BTA, mask_BT=mask_BT))
            accuracy += count * _accuracy(logits_BTAV, token_BTA, mask_BT)
            steps += count
    model.train(was_training)
    return {"heldout_loss": loss / steps, "heldout_accuracy": accuracy / steps}


def _begin(source: EpisodeSource, config: TrainConfig, folder: Path, encoder: TextEncoder | None) -> _Run:
    data = prepare_data(source, config, encoder=encoder)
    network = data.fit(config.model)
    torch.manual_seed(config.seed)
    model = channels_last(RT1(network)).train()
    state = _Run(
        config=config,
        folder=folder,
        data=data,
        model=model,
        optimizer=make_optimizer(model, config.optimizer),
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
        _resume(state)
    else:
        _save(state, "last")  # a full or read-only disk shows now, not hours later
    return state


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


def _resume(state: _Run) -> None:
    checkpoint = resolve(state.folder)
    training = load_training(checkpoint)
    old, new = training.progress, _progress(state)
    if lacking := sorted(new.keys() - old.keys()):
        raise TrainingError(f"{checkpoint} does not say its {', '.join(lacking)}; train into another folder")
    _refuse_other_settings({**old["config"], "data": old["data"]}, {**new["config"], "data": new["data"]}, state.folder)
    load_weights(state.model, checkpoint)
    load_optimizer_tensors(state.model, state.optimizer, training.tensors)
    state.update, state.best, state.sums = int(old["update"]), old["best"], dict(old["sums"])
    state.since = time.monotonic() - old["seconds"]


def _refuse_other_settings(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    differing = _differences(old, new, "")
    # What only decides how often and how fast it works does not change the losses.
    harmless = {"log_every", "validate_every", "save_every", "threads", "loader_threads", "name"}
    differing = [text for text in differing if text.split(":")[0] not in harmless]
    if differing:
        raise TrainingError(
            f"{folder} holds a run with other settings ({'; '.join(differing)}); give the old ones or another folder"
        )


def _differences(old: object, new: object, name: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {old} then, {new} now"]


def _one_update(state: _Run, batch: Batch) -> None:
    config, update = state.config, state.update
    rate = learning_rate(config.optimizer, update, config.updates)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    # Dropout and crops depend on (seed, update) alone: resuming needs no generator state.
    torch.manual_seed(config.seed * 1_000_003 + update)
    crop = _crop(config, update, *batch.image_BTHWC.shape[2:4])
    logits_BTAV = _forward(state.model, batch, precision=config.precision, crop=crop)
    mask_BT, token_BTA = torch.from_numpy(batch.valid_BT), torch.from_numpy(batch.token_BTA)
    loss = action_loss(logits_BTAV, token_BTA, mask_BT=mask_BT, spread_A=_spread(state))
    loss.backward()
    limit = config.optimizer.clip_norm or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), limit)
    _refuse_non_finite(update, batch, loss=loss.item(), gradient_norm=norm.item())
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.update += 1
    values = {
        "loss": loss.item(),
        "accuracy": _accuracy(logits_BTAV.detach(), token_BTA, mask_BT),
        "gradient_norm": norm.item(),
        "clipped_actions": float(batch.clipped),
    }
    for name, value in values.items():
        state.sums[name] = state.sums.get(name, 0.0) + value
    state.sums["updates"] = state.sums.get("updates", 0.0) + 1


def _forward(
    model: RT1, batch: Batch, *, precision: str, crop: tuple[tuple[int, int], tuple[int, int]] | None = None
) -> Tensor:
    image_XCHW = to_float(torch.from_numpy(batch.image_BTHWC).flatten(0, 1))
    if crop is not None:
        image_XCHW = shifted(image_XCHW, *crop)
    image_XCHW = resize(image_XCHW, model.config.image_size).contiguous(memory_format=torch.channels_last)
    text_BE = torch.from_numpy(batch.text_BE)
    batch_size, steps = batch.valid_BT.shape
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        text_XE = text_BE[:, None].expand(-1, steps, -1).flatten(0, 1)
        token_XKE = model.encode_images(image_XCHW, text_XE)
        # Padding behind the real steps is causally invisible; only padding in front of them needs the mask.
        in_front = not batch.valid_BT[:, 0].all()
        valid_BT = torch.from_numpy(batch.valid_BT) if in_front else None
        return model.decode(token_XKE.unflatten(0, (batch_size, steps)), valid_BT=valid_BT)


def _spread(state: _Run) -> Tensor | None:
    """Return the spread of each dimension's targets in bins; a choice has no neighbours to spread to."""
    if state.config.target_spread == 0.0:
        return None
    is_continuous = torch.from_numpy(state.info.action_spec.discrete_choices == 0)
    return state.config.target_spread * is_continuous.float()


def _crop(config: TrainConfig, update: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the margins and the one offset of a batch, a function of (seed, update)."""
    rows, columns = crop_margins(height, width, config.crop_share)
    random = np.random.default_rng((config.seed, 3, update))
    return (rows, columns), (int(random.integers(2 * rows + 1)), int(random.integers(2 * columns + 1)))


def _accuracy(logits_BTAV: Tensor, token_BTA: Tensor, mask_BT: Tensor) -> float:
    right_BT = (logits_BTAV.argmax(-1) == token_BTA).float().mean(-1)
    return float((right_BT * mask_BT).sum() / mask_BT.sum().clamp(min=1))


def _refuse_non_finite(update: int, batch: Batch, **values: float) -> None:
    for name, value in values.items():
        if not np.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at update {update}, before the weights were changed; the batch's episodes are "
                f"{sorted(set(batch.episodes))}; look at their actions, or lower the learning rate, and run again"
            )


def _report(state: _Run, log: MetricsLog, bar: Progress) -> None:
    """Log, validate and save when it is time."""
    config, update = state.config, state.update
    last = update == config.updates
    values: dict[str, float] = {}
    if update % config.log_every == 0 or last:
        values |= _means(state)
        speed = f"{values['windows_per_second']:.0f} windows/s"
        bar.update(update, f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.0%}, {speed}")
    if (update % config.validate_every == 0 or last) and state.data.held_out is not None:
        values |= validate(state.model, state.data.held_out, precision=config.precision)
    if values:
        log.write(update, values)
    if "heldout_loss" in values and (state.best is None or values["heldout_loss"] < state.best):
        state.best = values["heldout_loss"]
        _save(state, "best")
    if update % config.save_every == 0 and not last:
        _save(state, "last")


def _means(state: _Run) -> dict[str, float]:
    count = state.sums.pop("updates")
    seconds = time.monotonic() - state.since
    values = {name: total / count for name, total in state.sums.items()}
    values["learning_rate"] = state.optimizer.param_groups[0]["lr"]
    values["windows_per_second"] = count * state.config.batch_size / seconds
    state.sums.clear()
    state.since = time.monotonic()
    return values


def _save(state: _Run, name: str) -> None:
    provenance = {**state.info.provenance, "update": state.update, "heldout_loss": state.best}
    info = CheckpointInfo(
        model=state.info.model,
        action_spec=state.info.action_spec,
        text_encoder=state.info.text_encoder,
        control_rate=state.info.control_rate,
        provenance=provenance,
    )
    training = TrainingState(progress=_progress(state), tensors=optimizer_tensors(state.model, state.optimizer))
    save_checkpoint(state.folder / name, model=state.model, info=info, training=training)


def _progress(state: _Run) -> dict[str, Any]:
    """Return what a run must find again to go on, as plain data."""
    source, encoder = state.data.source, state.data.text_encoder
    return {
        "update": state.update,
        "best": state.best,
        "sums": dict(state.sums),  # of the updates since the last line of metrics
        "seconds": time.monotonic() - state.since,
        "config": settings.to_json(state.config),
        "data": {
            "source": source.name,
            "episodes": len(source.lengths),
            "steps": int(source.lengths.sum()),
            "action_spec": source.action_spec.to_json(),
            "text_encoder": None if encoder is None else encoder.to_json(),
        },
    }


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current update; a second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    # Python lets only the main thread handle signals; a run in another thread is stopped by its owner.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
