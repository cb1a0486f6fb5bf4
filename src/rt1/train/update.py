"""One update: forward, loss, backward, the check that all is finite, and the optimizer's change of the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rt1.data.pipeline.augment import augment
from rt1.data.pipeline.loader import Batch
from rt1.errors import TrainingError
from rt1.model.loss import action_loss
from rt1.model.rows import Rows, set_rows
from rt1.train.forward import Layout, layout, predict
from rt1.train.optim import set_rates
from rt1.train.run import Run

_TEXT_DROPS = 5  # a stream of random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of this rank's batch, and its position among the parts of all ranks."""

    batch: Batch
    plan: Layout
    first_row: int
    images: Rows
    windows: Rows
    share: float  # of the steps that count in the batches of all ranks, how many are in this part, 0..1


def do_update(run: Run, batch: Batch) -> dict[str, float]:
    """Update the weights once with this rank's rows of a batch.

    Returns:
        Loss, accuracy, gradient norm and the number of clipped actions.

    Raises:
        TrainingError: a loss or gradient that is not finite, or a batch that does not fit into memory. The weights are
            unchanged.
    """
    config, update = run.config, run.update
    set_rates(run.optimizer, config.optimizer, update, config.updates)
    parts, factor = _parts(run, batch)
    with _explain_out_of_memory(run):
        measured = torch.stack([_backward(run, part, factor, last=part is parts[-1]) for part in parts]).sum(0)
        limit = config.optimizer.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit)
        loss, accuracy, clipped, images, windows = run.world.sum(measured).tolist()
        _refuse_non_finite(update, batch, loss=loss, gradient_norm=norm.item())
        run.optimizer.step()
    run.optimizer.zero_grad()
    run.update += 1
    if run.average is not None:
        run.average.add(run.model, run.update)
    run.meter.count(windows=windows, images=images)
    return {"loss": loss, "accuracy": accuracy, "gradient_norm": norm.item(), "clipped_actions": clipped}


def _backward(run: Run, part: _Part, factor: float, *, last: bool) -> Tensor:
    """Add a part's gradients and return its share of loss and accuracy, clipped actions, images and windows."""
    config = run.config
    _seed(run, part)
    predicted = predict(
        run.predictor,
        part.batch,
        plan=part.plan,
        image_size=run.model.config.image_size,
        device=run.world.device,
        augment=lambda image_NTCHW, row_N: augment(
            image_NTCHW, part.first_row + row_N, config.augment, seed=config.seed, update=run.update
        ),
        dropped_B=_dropped(run, part),
    )
    loss = action_loss(
        predicted.logits_WTAV,
        predicted.token_WTA,
        mask_BT=predicted.mask_WT,
        spread_A=_spread(run, predicted.embodiment_W),
        smoothing=config.label_smoothing,
    )
    predictor = run.predictor
    # The last part exchanges the gradients. DDP takes their mean over the ranks, and the loss is the sum.
    with predictor.no_sync() if isinstance(predictor, DistributedDataParallel) and not last else nullcontext():
        (loss * (part.share * run.world.size * factor)).backward()
    means = (loss.item() * part.share, predicted.accuracy() * part.share)
    return torch.tensor([*means, part.batch.clipped, part.plan.images, part.plan.windows], dtype=torch.float64)


def _parts(run: Run, batch: Batch) -> tuple[list[_Part], float]:
    """Return this rank's parts, and what makes of the mean over the counted steps the loss of ``config.loss``."""
    count = run.config.accumulation
    rows = len(batch.episodes) // count
    batches = [batch.rows(rows * k, rows * (k + 1)) for k in range(count)]
    plans = [layout(part) for part in batches]
    table = np.array(run.world.table([[p.images, p.windows, p.valid_WT.sum(), p.valid_WT.size] for p in plans]))
    images, windows, steps, places = table.sum(axis=0).tolist()
    begin = run.world.rank * count
    parts = [
        _Part(
            batch=part,
            plan=plan,
            first_row=(begin + k) * rows,
            images=Rows(int(table[: begin + k, 0].sum()), int(images)),
            windows=Rows(int(table[: begin + k, 1].sum()), int(windows)),
            share=float(table[begin + k, 2]) / steps,
        )
        for k, (part, plan) in enumerate(zip(batches, plans, strict=True))
    ]
    google = steps / places / (places * run.model.config.step_tokens)
    return parts, 1.0 if run.config.loss == "mean" else google


def _seed(run: Run, part: _Part) -> None:
    """Seed dropout by (seed, update, row) alone: neither resuming nor the number of ranks changes it."""
    seed = run.config.seed * 1_000_003 + run.update
    whole = part.images.total == part.plan.images
    if run.world.device.type != "cpu":  # drawing for all rows would cost a GPU more than the rest of dropout
        torch.manual_seed(seed + (part.first_row << 32))
        return
    torch.manual_seed(seed)
    set_rows(run.model.backbone, None if whole else part.images)
    set_rows(run.model.transformer, None if whole else part.windows)


def _dropped(run: Run, part: _Part) -> NDArray[np.bool_] | None:
    """Return which samples do without the text. None without text dropout."""
    probability = run.model.config.text.drop
    if probability == 0.0:
        return None
    rows = range(part.first_row, part.first_row + len(part.batch.episodes))
    key = (run.config.seed, _TEXT_DROPS, run.update)
    return np.array([np.random.default_rng((*key, row)).random() < probability for row in rows])


def _spread(run: Run, embodiment_W: Tensor | None) -> Tensor | None:
    """Return the spread of each dimension's targets in bins, (A,), or (W, 1, A) where windows are of embodiments.

    A choice has no neighbours to spread to.
    """
    if run.config.target_spread == 0.0:
        return None
    embodiments = run.data.train.embodiments
    is_continuous_HA = torch.zeros(len(embodiments.specs), embodiments.size)
    for head, spec in enumerate(embodiments.specs.values()):
        is_continuous_HA[head, : spec.size] = torch.from_numpy(spec.discrete_choices == 0)
    spread_HA = (run.config.target_spread * is_continuous_HA).to(run.world.device)
    return spread_HA[0] if embodiment_W is None else spread_HA[embodiment_W][:, None]


def _refuse_non_finite(update: int, batch: Batch, **values: float) -> None:
    for name, value in values.items():
        if not np.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at update {update}, before the weights were changed. The batch's episodes are "
                f"{sorted(set(batch.episodes))}. Look at their actions, or lower the learning rate, and run again"
            )


@contextmanager
def _explain_out_of_memory(run: Run) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not is_memory:
            raise
        config = run.config
        raise TrainingError(
            f"update {run.update} does not fit into the memory of {run.world.device}. Each of these about halves what "
            f"it takes: accumulation {2 * config.accumulation} instead of {config.accumulation} (the same loss), "
            f"batch_size {max(1, config.batch_size // 2)} instead of {config.batch_size}, activations full "
            f"instead of {config.activations}, precision bf16 instead of {config.precision}"
        ) from error
