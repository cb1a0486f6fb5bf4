"""Settings of a training run, and how two of them differ.

:mod:`rt1.presets` has the numbers, the command line overrides them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rt1.actions import HOTTEST
from rt1.common.json_config import MOST_THREADS, check_at_least, check_between, check_fraction
from rt1.data.pipeline.augment import AugmentSettings
from rt1.model.loss import LossForm
from rt1.model.rt1 import RT1Config
from rt1.train.activations import Activations
from rt1.train.averaging import AverageSettings
from rt1.train.distributed import BatchNormKind, Device
from rt1.train.log import LogSettings
from rt1.train.optim import OptimizerSettings
from rt1.train.trials import SUCCESS, ClosedLoopSettings

Precision = Literal["fp32", "bf16"]
InstructionChoice = Literal["first", "drawn", "all"]

RENAMED = {"clip": "windows_per_clip", "lean": "selective", "recomputed": "full"}
"""Name of a setting, or of its value, in an earlier version -> its name."""

HARMLESS = {
    "activations",
    "closed_loop.every",
    "closed_loop.workers",
    "compile",
    "device",
    "keep_every",
    "keep_last",
    "loader_threads",
    "log.entity",
    "log.project",
    "log.tensorboard",
    "log.tracker",
    "log.wandb",
    "log_every",
    "name",
    "save_every",
    "temperature",
    "threads",
    "validate_every",
}
"""Settings that do not change the losses, but for rounding."""

_LONGEST = 400
"""Characters that are shown of a difference. A damaged file may hold names and values of any length."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run's losses, and when it reports. The help page shows it in this order."""

    updates: int = 10_000
    """Optimizer updates in all."""
    batch_size: int = 32
    """Windows per update, of all ranks together."""
    seed: int = 0
    """Seed of weights, order, crops, colors and dropout."""
    init: str | None = None
    """Checkpoint to start from, or a backbone of ``rt1 convert imagenet``: what fits is loaded, the rest is new."""
    device: Device = "auto"
    """``auto``: the accelerator that torch finds (cuda, mps, xpu), else the CPU."""
    precision: Precision = "fp32"
    """``bf16`` computes the forward pass in bfloat16 with fp32 weights, softmax and loss."""
    model: RT1Config = field(default_factory=RT1Config)
    """The network. Action dimensions, bins and text width are taken from the data."""
    init_new_text: bool = False
    """Reinitialize the text layers of ``init``, for another text encoder than the checkpoint's."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Optimizer and learning rate."""
    instruction_choice: InstructionChoice = "first"
    """Of data with several instructions per episode: the ``first`` one, one ``drawn`` for each sample by the seed, or
    ``all`` in turn: every window meets each of them once in as many passes."""
    windows_per_clip: int = 0
    """Windows cut from each clip of consecutive steps, whose images are encoded once for all of them. It must divide
    batch_size. 0: each window is drawn and encoded by itself, as Google does."""
    accumulation: int = 1
    """Parts that a rank's batch is computed in, one after the other: the same loss in less memory (BatchNorm uses the
    images of one part)."""
    held_out: float = 0.05
    """Fraction of the episodes kept for validation."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Random crop and color changes of the training images."""
    average: AverageSettings = field(default_factory=AverageSettings)
    """Moving average of the weights, which then is what validation measures and a policy acts with."""
    loss: LossForm = "mean"
    """``mean`` over the tokens. ``google`` divides it once more by the tokens of a batch, as Google's code does, which
    only makes Adam's epsilon count for more."""
    target_spread: float = 0.0
    """Standard deviation, in bins, of the Gaussian that spreads each continuous target over the neighbouring bins.
    0 trains on one-hot targets, as Google does."""
    label_smoothing: float = 0.0
    """Share of each target that goes to all bins alike. 0 as in Google's code."""
    temperature: float = 0.0
    """How the policy reads an action from the network. 0: the likeliest bin, as Google does. Above 0: the mean of the
    bins by softmax(logits / temperature), which is steadier. It does not change the training."""
    batch_norm: BatchNormKind = "local"
    """Images whose statistics BatchNorm uses: those of its own rank, as Google's. ``sync``: of all ranks. ``frozen``:
    none, the moving statistics stay as they are (fine-tuning)."""
    activations: Activations = "kept"
    """What the backbone's blocks keep for their backward pass. They compute the rest again. ``kept``: all.
    ``selective``: outputs of matrix products and of convolutions except depthwise ones. ``full``: only their inputs."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster updates on a GPU."""
    log_every: int = 20
    """Updates between two lines of metrics."""
    validate_every: int = 200
    """Updates between two validations on the held-out episodes. Each may make a new best checkpoint."""
    save_every: int = 200
    """Updates between two writings of the last checkpoint."""
    log: LogSettings = field(default_factory=LogSettings)
    """Where the metrics go besides metrics.jsonl."""
    keep_last: int = 1
    """Newest checkpoints that are kept: last/, and those before it as update-00001000/ and so on."""
    keep_every: int = 0
    """Updates between two checkpoints that are kept for good. Must be a multiple of save_every. 0: none."""
    best_metric: str = "loss"
    """What decides which checkpoint is best/: success of the closed-loop trials, or a held-out number: loss, accuracy,
    within_5_bins, l1_of_range, ... Higher is better for success, accuracies and shares within bins, else lower."""
    closed_loop: ClosedLoopSettings = field(default_factory=ClosedLoopSettings)
    """Trials of the policy during training."""
    threads: int = 0
    """Torch threads. 0 means one per core."""
    loader_threads: int = 1
    """Threads that read and decode images."""
    name: str = "custom"
    """Name of the preset this came from."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "updates", "log_every", "validate_every", "save_every", "keep_last")
        check_between(self, 1, 1 << 20, "batch_size", "accumulation")
        check_between(self, 1, MOST_THREADS, "loader_threads")
        check_between(self, 0, MOST_THREADS, "threads")
        check_at_least(self, 0, "seed", "windows_per_clip", "keep_every", "target_spread")
        check_between(self, 0, HOTTEST, "temperature")
        check_fraction(self, "held_out", "label_smoothing")
        if self.activations in RENAMED:
            raise ValueError(f"activations is {self.activations}, an old name. Use {RENAMED[self.activations]}")
        if self.keep_every % self.save_every:
            raise ValueError(
                f"keep_every is {self.keep_every}, save_every {self.save_every}. keep_every must be a multiple of it"
            )
        if self.best_metric == SUCCESS and not self.closed_loop.every:
            raise ValueError("best_metric is success, and closed_loop.every is 0: there are no trials. Set it above 0")
        self.rows(1)

    def rows(self, ranks: int) -> int:
        """Return how many windows, or clips, a rank draws for an update.

        Raises:
            ValueError: the batch cannot be shared out.
        """
        unit = max(1, self.windows_per_clip) * self.accumulation * ranks
        if self.batch_size % unit:
            raise ValueError(
                f"batch_size is {self.batch_size}, must be a multiple of {unit}: {ranks} ranks x "
                f"{self.accumulation} parts (accumulation) x {max(1, self.windows_per_clip)} windows of a "
                f"clip. {unit * -(-self.batch_size // unit)} is"
            )
        return self.batch_size // max(1, self.windows_per_clip) // ranks


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``name: value then, value now`` for all that differs and is not harmless."""
    plain_old, plain_new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    plain_old = {RENAMED.get(name, name): value for name, value in plain_old.items()}
    texts = _differences(plain_old, plain_new, "")
    return [f"{' '.join(text.splitlines()):.{_LONGEST}}" for text in texts if text.split(":")[0] not in HARMLESS]


def _differences(old: object, new: object, name: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {old} then, {new} now"]
