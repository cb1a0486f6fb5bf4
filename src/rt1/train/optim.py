"""Optimizer, learning rate, and their state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rt1.train.config import OptimizerSettings

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices and kernels only."""
    decayed = [p for name, p in model.named_parameters() if _is_decayed(name, p)]
    others = [p for name, p in model.named_parameters() if not _is_decayed(name, p)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True)


def learning_rate(settings: OptimizerSettings, update: int, updates: int) -> float:
    """Return the learning rate of update ``update`` (0-based) of ``updates``: linear warm-up, then cosine."""
    if update < settings.warmup:
        return settings.learning_rate * (update + 1) / settings.warmup
    share = (update - settings.warmup) / max(1, updates - settings.warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
    return settings.learning_rate * (settings.final_fraction + (1.0 - settings.final_fraction) * cosine)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as ``moment/parameter`` -> tensor; empty before the first update."""
    return {
        f"{moment}/{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in _MOMENTS
        if parameter in optimizer.state
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` returned; a part of it, or a name too many, raises ``ValueError``."""
    known = {f"{moment}/{name}" for name, _ in model.named_parameters() for moment in _MOMENTS}
    if tensors and (wrong := known ^ tensors.keys()):
        raise ValueError(
            f"the optimizer's state lacks or has too many: {', '.join(sorted(wrong)[:3])} ({len(wrong)} in all); "
            "it belongs to another network; use another checkpoint"
        )
    for name, parameter in model.named_parameters() if tensors else ():
        # Moments keep the parameter's memory layout, or the fused update would run in another order.
        state = {moment: tensors[f"{moment}/{name}"].clone() for moment in _MOMENTS}
        for moment in ("exp_avg", "exp_avg_sq"):
            state[moment] = torch.empty_like(parameter).copy_(state[moment])
        optimizer.state[parameter] = state


def _is_decayed(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and "position" not in name
