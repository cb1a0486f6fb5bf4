"""Activation checkpointing: what the blocks of a backbone keep for their backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Activations = Literal["kept", "selective", "full"]

_SAVED = [torch.ops.aten.convolution.default, torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
"""What ``selective`` does not compute twice: it costs most of a block's time and is a third of its activations."""


def checkpoint_blocks(blocks: nn.ModuleList, activations: Activations) -> None:
    """Let a backbone's blocks recompute activations in the backward pass of training. See :class:`TrainConfig`.

    Outputs, gradients, random numbers and moving statistics stay bit for bit the same.
    """
    if activations == "kept":
        return
    saved: list[Any] = _SAVED if activations == "selective" else []
    for block in blocks:
        block.forward = partial(_run, block, block.forward, saved)


def _run(block: nn.Module, forward: Callable[..., Tensor], saved: list[Any], *inputs: Tensor) -> Tensor:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    contexts = partial(_contexts, block, saved)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


def _contexts(
    block: nn.Module, saved: list[Any]
) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Return the contexts of the first and of the second computation."""
    first, second = create_selective_checkpoint_contexts(saved) if saved else (nullcontext(), nullcontext())
    return first, _second(block, second)


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
