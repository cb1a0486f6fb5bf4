"""Computing a part of a network again in the backward pass, instead of keeping what it made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
"""Of a part's first and of its repeated forward."""


def recomputed(part: Callable[..., Tensor], contexts: Callable[[], Contexts], *inputs: Tensor) -> Tensor:
    """Run a part and keep its inputs alone.

    Random numbers are the same the second time. On a processor this is not torch's own ``checkpoint``: that loads
    torch's compiler, 70 MB, which is more than it saves in most parts of a small batch.
    """
    if inputs[0].device.type != "cpu" or torch.compiler.is_compiling():
        return checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)
    # A function whose inputs do not learn has no backward pass: this one, empty, does.
    learns = torch.empty(0, requires_grad=True)
    return _Recomputed.apply(part, contexts(), learns, *inputs)  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Callable[..., Tensor], contexts: Contexts, _: Tensor, *inputs: Tensor) -> Tensor:  # noqa: ANN401
        first, ctx.second = contexts
        ctx.part, ctx.random = part, torch.get_rng_state()
        ctx.autocast = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}
        ctx.save_for_backward(*inputs)
        with first:
            return part(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        learns = ctx.needs_input_grad[3:]
        inputs = [x.detach().requires_grad_(is_one) for x, is_one in zip(ctx.saved_tensors, learns, strict=True)]
        with ctx.second, torch.enable_grad(), torch.random.fork_rng(devices=[]), torch.autocast("cpu", **ctx.autocast):
            torch.set_rng_state(ctx.random)
            y = ctx.part(*inputs)
            if y.requires_grad:  # a frozen part has nothing to go back to
                _Begin.apply(y, dy).backward()  # type: ignore[no-untyped-call]
        return None, None, None, *(x.grad for x in inputs)


class _Begin(torch.autograd.Function):
    """A number with a given gradient: torch checks gradients given to ``backward`` by another 40 MB of its modules."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, dy: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(dy)
        return y.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (dy,) = ctx.saved_tensors
        return dy, None
