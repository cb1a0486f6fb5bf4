"""Settings of a training run; :mod:`rt1.presets` has the numbers, the command line overrides them one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rt1.data.augment import AugmentSettings
from rt1.model.rt1 import LossForm, RT1Config
from rt1.train.averaging import AverageSettings
from rt1.train.log import LogSettings
from rt1.train.optim import OptimizerSettings

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run's losses, and when it reports."""

    name: str = "custom"
    """Name of the preset this came from."""
    model: RT1Config = field(default_factory=RT1Config)
    """The network. Action dimensions, bins and text width are taken from the data."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Optimizer and learning rate."""
    updates: int = 10_000
    """Optimizer updates in all."""
    batch_size: int = 32
    """Windows per update."""
    seed: int = 0
    """Seed of weights, order, crops, colours and dropout."""
    held_out: float = 0.05
    """Fraction of the episodes kept for validation."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Random crop and colours of the training images."""
    average: AverageSettings = field(default_factory=AverageSettings)
    """Moving average of the weights, which then is what validation measures and a policy acts with."""
    loss: LossForm = "mean"
    """``mean`` over the tokens; ``google`` divides it once more by the tokens of a batch, as Google's code does, which
    only makes Adam's epsilon count for more."""
    target_spread: float = 0.0
    """Standard deviation, in bins, of the Gaussian that spreads each continuous target over the neighbouring bins;
    0 trains on one-hot targets, as Google does."""
    label_smoothing: float = 0.0
    """Share of each target that goes to all bins alike; 0 as in Google's code."""
    precision: Precision = "fp32"
    """``bf16`` computes the forward pass in bfloat16 with fp32 weights, softmax and loss."""
    log_every: int = 20
    """Updates between two lines of metrics."""
    validate_every: int = 200
    """Updates between two validations on the held-out episodes; each may make a new best checkpoint."""
    save_every: int = 200
    """Updates between two writings of the last checkpoint."""
    log: LogSettings = field(default_factory=LogSettings)
    """Where the metrics go besides metrics.jsonl."""
    threads: int = 0
    """Torch threads; 0 means one per core."""
    loader_threads: int = 1
    """Threads that read and decode images."""

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name)
            for name in ("updates", "batch_size", "log_every", "validate_every", "save_every", "loader_threads")
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        if self.target_spread < 0.0:
            raise ValueError(f"target_spread is {self.target_spread}; it must be at least 0 bins")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be at least 0")
