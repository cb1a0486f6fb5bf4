"""The command ``rt1 engines``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from rt1.common.json_config import check_between
from rt1.policy.auto import best, measure


@dataclass(frozen=True, kw_only=True)
class EnginesCommand:
    """Measure a policy's step with every engine that runs on this machine, and remember the fastest."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    device: str = "cpu"
    """Device of the engine torch, as torch names it. auto takes the accelerator if there is one."""
    steps: int = 48
    """Steps to take with each engine."""

    def __post_init__(self) -> None:
        check_between(self, 1, 10_000, "steps")

    def run(self, _command: str) -> int:
        """Measure and print the table."""
        results = measure(self.checkpoint, embodiment=self.embodiment, device=self.device, steps=self.steps)
        print(f"{'engine':16s}{'ms':>9s}{'products':>10s}{'agreement':>11s}{'clear tokens':>14s}{'MB':>8s}")
        for name, result in results.items():
            print(
                f"{name:16s}{result.milliseconds:9.2f}{result.products:10.3f}{result.agreement:11.2%}"
                f"{result.clear_tokens:14d}{result.megabytes:8.0f}"
            )
        print(f"auto takes {best(results)}. products: the time in float32 products of 2048 x 2048 matrices in torch")
        return 0
