"""Validation on held-out episodes."""

from __future__ import annotations

from contextlib import closing

import torch
from torch import nn

from rt1.data.pipeline.loader import Loader
from rt1.evaluate.scores import ActionScores, values_of_all
from rt1.model.rt1 import RT1
from rt1.train.config import Precision
from rt1.train.distributed import World
from rt1.train.forward import Prediction, Predictor, predict
from rt1.train.trials import SUCCESS

PREFIX = "heldout_"
"""Prefix of the names of all validation numbers."""


def validate(
    model: RT1,
    loader: Loader,
    *,
    precision: Precision = "fp32",
    world: World | None = None,
) -> dict[str, float]:
    """Return the numbers of :mod:`rt1.evaluate.scores` over all windows of a loader, as ``heldout_loss`` and so on.

    With several embodiments each has its own, as ``heldout_loss/EMBODIMENT``. The ranks of ``world`` share the work,
    and each returns the numbers of all. The model is on the world's device.
    """
    world = world or World()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    scores = {name: ActionScores(spec, device=world.device) for name, spec in loader.embodiments.specs.items()}
    predictor: nn.Module = Predictor(model, precision)
    with torch.no_grad(), closing(loader.in_order(rank=world.rank, world=world.size)) as batches:
        for batch in batches:
            predicted = predict(predictor, batch, image_size=model.config.image_size, device=world.device)
            for head, head_scores in enumerate(scores.values()):
                _add(head_scores, head, predicted)
    for head_scores in scores.values():
        head_scores.load_sums(world.sum(head_scores.sums))
    for module, mode in modes.items():
        module.training = mode
    return {PREFIX + name: value for name, value in values_of_all(scores).items()}


def _add(scores: ActionScores, head: int, predicted: Prediction) -> None:
    """Count the windows of an embodiment, in the dimensions that its action has."""
    size = scores.action_spec.size
    mask_WT = predicted.mask_WT
    if predicted.embodiment_W is not None:
        mask_WT = mask_WT & (predicted.embodiment_W == head)[:, None]
    action_WTA = predicted.action_WTA[..., :size]
    scores.add(predicted.logits_WTAV[:, :, :size], predicted.token_WTA[..., :size], mask_WT, action_WTA)


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Return whether a value of a metric (without its prefix) is better than the best so far.

    >>> is_better("accuracy", 0.5, 0.4), is_better("loss", 0.5, 0.4)
    (True, False)
    """
    if best is None:
        return True
    return value > best if metric.startswith(("accuracy", "within", SUCCESS)) else value < best
