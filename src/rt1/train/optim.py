"""Optimizer, learning rate, which parameters learn how fast, and the state by parameter name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rt1.common.json_config import LARGEST, check_above, check_at_least, check_between, check_fraction
from rt1.model.weights import check_same_tensors
from rt1.train.param_groups import factors, split_factor

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Adam or AdamW, the course of the learning rate, and who learns how fast."""

    kind: Literal["adamw", "adam"] = "adamw"
    """``adamw`` takes weight decay off the weights, ``adam`` adds it to the gradient. Alike where it is 0."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    final_fraction: float = 0.01
    """Learning rate that the cosine ends at, as a fraction of the peak."""
    warmup: int = 100
    """Updates over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.05
    """Decay of matrices and kernels. Biases, norms and the position table have none."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's averaging factors."""
    eps: float = 1e-8
    """Adam's epsilon."""
    eps_form: Literal["torch", "keras"] = "torch"
    """``keras`` adds epsilon to the root of the second moment before its bias is corrected, ``torch`` after."""
    clip_norm: float = 1.0
    """Largest gradient norm. Longer gradients are scaled down. 0 switches clipping off."""
    scale: tuple[str, ...] = ()
    """Factors of the learning rate, as ``backbone=0.1``: a component (backbone, text, projection, token_learner,
    transformer, head) or the beginning of a parameter's name. Of several that fit a parameter the last one counts."""
    freeze: tuple[str, ...] = ()
    """Components, or beginnings of parameters' names, that do not learn. Their BatchNorm stays in evaluation mode."""

    def __post_init__(self) -> None:
        check_above(self, 0, "learning_rate", "eps")
        check_between(self, 0, LARGEST, "learning_rate", "eps")
        check_at_least(self, 0, "warmup", "clip_norm", "weight_decay")
        check_between(self, 0, 1, "final_fraction")
        check_fraction(self, "betas")
        for text in self.scale:
            split_factor(text)


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Adam:
    """Return the optimizer of all parameters that are not frozen.

    Parameters with the same weight decay and learning rate form a group, whose ``scale`` is its factor.

    Raises:
        ValueError: a name in ``settings.scale`` that fits no parameter, or no parameter left to train.
    """
    scales = factors(model, settings.scale)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for decays in (True, False):
        for name, parameter in model.named_parameters():
            is_decayed = parameter.ndim > 1 and "position" not in name
            if is_decayed == decays and parameter.requires_grad:
                groups.setdefault((decays, scales[name]), []).append(parameter)
    if not groups:
        raise ValueError(f"all parameters are frozen by {' '.join(settings.freeze)}. Leave some to learn")
    kind = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return kind(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if decays else 0.0,
                "scale": scale,
                "lr": settings.learning_rate,
                "eps": settings.eps,
            }
            for (decays, scale), parameters in groups.items()
        ],
        betas=settings.betas,
        fused=_can_fuse(next(iter(groups.values()))[0].device),
    )


def _can_fuse(device: torch.device) -> bool:
    """Try torch's fused step on one number, and warn with the reason where it does not run."""
    number = nn.Parameter(torch.zeros(1, device=device))
    number.grad = torch.zeros_like(number)
    try:
        torch.optim.AdamW([number], fused=True).step()
    except RuntimeError as error:
        warnings.warn(f"the optimizer takes its slower step on {device}: {error}", stacklevel=3)
        return False
    return True


def set_rates(optimizer: torch.optim.Adam, settings: OptimizerSettings, update: int, updates: int) -> None:
    """Set learning rate and epsilon for update ``update`` (0-based) of ``updates``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, update, updates) * group["scale"]
        group["eps"] = epsilon(settings, update)


def learning_rate(settings: OptimizerSettings, update: int, updates: int) -> float:
    """Return the learning rate of update ``update`` (0-based) of ``updates``: linear warm-up, then the schedule."""
    if update < settings.warmup:
        return settings.learning_rate * (update + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    share = (update - settings.warmup) / max(1, updates - settings.warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
    return settings.learning_rate * (settings.final_fraction + (1.0 - settings.final_fraction) * cosine)


def epsilon(settings: OptimizerSettings, update: int) -> float:
    """Return the epsilon for torch's Adam in update ``update`` (0-based).

    Keras' change is ``m c / (sqrt(v) + eps)`` and torch's ``m c / (sqrt(v) + eps r)`` with the same ``c`` and with
    ``r = sqrt(1 - beta2^t)``, t counted from 1 (docs/network.md): torch with ``eps / r`` is Keras.
    """
    if settings.eps_form == "torch":
        return settings.eps
    return settings.eps / math.sqrt(1.0 - settings.betas[1] ** (update + 1))


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Return the optimizer's state as ``moment/parameter`` -> tensor. Empty before the first update."""
    return {
        f"{moment}/{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in (*_MOMENTS, "step")
        if parameter in optimizer.state
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Adam, tensors: Mapping[str, Tensor]) -> None:
    """Restore what :func:`optimizer_tensors` returned.

    Raises:
        CheckpointError: a tensor is missing, is one too many, or has another shape.
    """
    if not tensors:
        return
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    needed: dict[str, Tensor] = {
        f"{moment}/{name}": parameter for name, parameter in learning.items() for moment in _MOMENTS
    }
    needed |= {f"step/{name}": torch.zeros(()) for name in learning}
    cure = "It belongs to another network, or to one with other parts frozen. Use another checkpoint"
    check_same_tensors(tensors, needed, what="the optimizer's state", cure=cure)
    for name, parameter in learning.items():
        state = optimizer.state[parameter]
        state["step"] = tensors[f"step/{name}"].to(parameter.device, copy=True)
        for moment in _MOMENTS:
            # Moments have the parameter's memory layout, or the fused update would run in another order.
            state[moment] = torch.empty_like(parameter).copy_(tensors[f"{moment}/{name}"])
