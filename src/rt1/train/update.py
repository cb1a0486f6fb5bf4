"""One update: forward, loss, backward, the check that all is finite, and the optimizer's change of the weights."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from rt1.data.augment import augment
from rt1.data.loader import Batch
from rt1.model.rt1 import action_loss
from rt1.train.errors import TrainingError
from rt1.train.forward import predict
from rt1.train.optim import set_rates
from rt1.train.run import Run


def do_update(run: Run, batch: Batch) -> dict[str, float]:
    """Change the weights once and return what was measured: loss, accuracy, gradient norm, clipped actions.

    Raises:
        TrainingError: a loss or gradient that is not finite; the weights are as before.
    """
    config, update = run.config, run.update
    set_rates(run.optimizer, config.optimizer, update, config.updates)
    # Dropout, crops and colours depend on (seed, update) alone: resuming needs no generator state.
    torch.manual_seed(config.seed * 1_000_003 + update)
    change = partial(augment, settings=config.augment, seed=config.seed, update=update)
    predicted = predict(run.model, batch, precision=config.precision, augment=change)
    loss = action_loss(
        predicted.logits_BTAV,
        predicted.token_BTA,
        mask_BT=predicted.mask_BT,
        spread_A=_spread(run),
        smoothing=config.label_smoothing,
    )
    (loss * _factor(run, predicted.mask_BT)).backward()
    limit = config.optimizer.clip_norm or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), limit)
    _refuse_non_finite(update, batch, loss=loss.item(), gradient_norm=norm.item())
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.update += 1
    if run.average is not None:
        run.average.add(run.model, run.update)
    return {
        "loss": loss.item(),
        "accuracy": predicted.accuracy(),
        "gradient_norm": norm.item(),
        "clipped_actions": float(batch.clipped),
    }


def _factor(run: Run, mask_BT: Tensor) -> float:
    """Return what the mean over the counted steps is multiplied by to be the loss of ``config.loss``."""
    if run.config.loss == "mean":
        return 1.0
    steps = mask_BT.numel()
    return float(mask_BT.sum()) / steps / (steps * run.model.config.step_tokens)


def _spread(run: Run) -> Tensor | None:
    """Return the spread of each dimension's targets in bins; a choice has no neighbours to spread to."""
    if run.config.target_spread == 0.0:
        return None
    is_continuous = torch.from_numpy(run.info.action_spec.discrete_choices == 0)
    return run.config.target_spread * is_continuous.float()


def _refuse_non_finite(update: int, batch: Batch, **values: float) -> None:
    for name, value in values.items():
        if not np.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at update {update}, before the weights were changed; the batch's episodes are "
                f"{sorted(set(batch.episodes))}; look at their actions, or lower the learning rate, and run again"
            )
