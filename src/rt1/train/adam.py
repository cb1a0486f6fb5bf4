"""Adam and AdamW: torch's fused step, without the class around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Adam:
    """Groups of parameters, their moments, and the step.

    ``torch.optim.Adam`` loads torch's compiler, to tell it to keep out: 70 MB of every process that trains.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], decoupled: bool) -> None:
        """Make it.

        Args:
            groups: each with ``params``, ``weight_decay``, ``lr`` and ``eps``, which may be changed from step to step.
            betas: averaging factors of the gradient and of its square.
            decoupled: take weight decay off the weights (AdamW) instead of adding it to the gradient.
        """
        self.param_groups = list(groups)
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        """By parameter: ``step``, ``exp_avg``, ``exp_avg_sq``; empty before its first step."""
        self._betas, self._decoupled = betas, decoupled

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters that have a gradient."""
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state(parameter) for parameter in learning]
            if not learning:
                continue
            adam(
                learning,
                [parameter.grad for parameter in learning],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                decoupled_weight_decay=self._decoupled,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self.state:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
        return self.state[parameter]
