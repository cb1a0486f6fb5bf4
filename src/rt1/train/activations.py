"""Activation checkpointing: what the blocks of a backbone keep for their backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Activations = Literal["kept", "selective", "full"]

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def checkpoint_blocks(blocks: nn.ModuleList, activations: Activations) -> None:
    """Let a backbone's blocks recompute activations in the backward pass of training. See :class:`TrainConfig`.

    Outputs, gradients, random numbers and moving statistics stay bit for bit the same.
    """
    if activations == "kept":
        return
    for block in blocks:
        block.forward = partial(_run, block, block.forward, activations == "selective")


def _run(block: nn.Module, forward: Callable[..., Tensor], selective: bool, *inputs: Tensor) -> Tensor:  # noqa: FBT001
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    contexts = partial(_contexts, block, selective=selective)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(
    block: nn.Module, *, selective: bool
) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Return the contexts of the first and of the second computation."""
    first, second = create_selective_checkpoint_contexts(_policy) if selective else (nullcontext(), nullcontext())
    return first, _second(block, second)


def _policy(_: object, operation: object, *arguments: Any, **__: object) -> CheckpointPolicy:  # noqa: ANN401
    """Save what costs most of a block's time: matrix products and convolutions, except depthwise ones."""
    groups = arguments[8] if operation is torch.ops.aten.convolution.default else 0
    return CheckpointPolicy.MUST_SAVE if groups == 1 or operation in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _second(block: nn.Module, cached: AbstractContextManager[object]) -> Iterator[None]:
    """Let a block work on copies of its buffers, so that a batch enters its moving statistics once."""
    buffers = [(m, name, buffer) for m in block.modules() for name, buffer in m.named_buffers(recurse=False)]
    for module, name, buffer in buffers:
        setattr(module, name, buffer.clone())
    try:
        with cached:
            yield
    finally:
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
