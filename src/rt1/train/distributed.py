"""The ranks of a run: sums over all of them, and one clear error when one is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rt1.common.processes import stop_with_launcher
from rt1.errors import TrainingError
from rt1.model.layers import BatchNorm

Device = Literal["auto", "cpu", "cuda", "mps", "xpu"]
BatchNormKind = Literal["local", "sync", "frozen"]

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: a validation or a checkpoint of one of them must fit in."""

_LOST = ("Connection closed", "Connection reset", "Connection refused", "Broken pipe", "imed out", "NCCL", "gloo")


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, called ranks, as one of them sees them."""

    rank: int = 0  # of this process
    size: int = 1  # number of ranks
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on the tensor's own device."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def table(self, rows: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return the rows of all ranks, in the order of the ranks. Each rank gives the same number."""
        table = torch.zeros(self.size, len(rows), len(rows[0]), dtype=torch.float64)
        table[self.rank] = torch.tensor(rows, dtype=torch.float64)
        return self.sum(table).flatten(0, 1).tolist()

    def any(self, *, here: bool) -> bool:
        """Return whether ``here`` is true on any rank."""
        return here if self.size == 1 else [1.0] in self.table([[float(here)]])

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_world(choice: Device) -> Iterator[World]:
    """Yield the world that torchrun made (``RANK``, ``WORLD_SIZE``, ...), or one of this process alone.

    Rank k of a machine takes its k-th accelerator. ``auto`` takes the CPU where there is none.

    Raises:
        TrainingError: another accelerator than the one that is asked for, none, or not one for each rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(choice)
    if size == 1:
        yield World(device=device)
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun, which may be killed; a shell may end before its jobs
        stop_with_launcher()
    began = not dist.is_initialized()
    if began:
        dist.init_process_group(dist.get_default_backend_for_device(device), timeout=PATIENCE)
    try:
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=device)
    finally:
        if began:
            dist.destroy_process_group()


def _device(choice: Device) -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if choice == "cpu" or (choice == "auto" and accelerator is None):
        return torch.device("cpu")
    if accelerator is None or choice not in ("auto", accelerator.type):
        raise TrainingError(
            f"device is {choice}, and torch finds {accelerator or 'no accelerator'}. Set device to auto"
        )
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.accelerator.device_count()
    if number >= count:
        raise TrainingError(
            f"rank {number} of this machine finds {count} devices of {accelerator}. Start as many processes as there "
            "are devices, or set device to cpu"
        )
    torch.accelerator.set_device_index(number)
    return torch.device(accelerator.type, number)


@contextmanager
def explain_lost_rank(world: World) -> Iterator[None]:
    """Turn torch's errors about a lost rank into one line."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or isinstance(error, TrainingError) or not any(sign in str(error) for sign in _LOST):
            raise
        raise TrainingError(
            f"rank {world.rank} of {world.size} lost another rank (killed, or its machine is gone). Nothing saved is "
            "lost: start the same command again, with any number of ranks, to resume from the last checkpoint"
        ) from error


def share_batch_norm(model: nn.Module, kind: BatchNormKind, world: World) -> None:
    """Let BatchNorm use the images of its own rank, or those of all ranks.

    Raises:
        TrainingError: a BatchNorm that cannot be synchronized.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (the base of all of them)
            continue
        if isinstance(module, BatchNorm):
            module.reduce = world.sum if kind == "sync" and world.size > 1 else None
        elif kind == "sync" and world.size > 1:
            raise TrainingError(
                f"batch_norm is sync, and {name} ({type(module).__name__}) normalizes by its own rank's images only. "
                "Use batch_norm local or frozen, or the backbone efficientnet or maxvit"
            )


@torch.no_grad()
def average_statistics(model: nn.Module, world: World) -> None:
    """Replace BatchNorm's moving statistics of each rank by their mean over the ranks.

    Moving means are linear: however often this is done, the mean over the ranks stays the same.
    """
    if world.size == 1:
        return
    moving = [buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
    if moving:
        mean = world.sum(torch.cat([buffer.flatten() for buffer in moving])) / world.size
        for buffer, part in zip(moving, mean.split([buffer.numel() for buffer in moving]), strict=True):
            buffer.copy_(part.view_as(buffer))
