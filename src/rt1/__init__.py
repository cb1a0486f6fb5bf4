"""rt1: the Robotics Transformer in PyTorch. Record, train, evaluate closed loop, act."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rt1.actions import ActionSpec, Continuous, Discrete, rt1_action_spec
    from rt1.checkpoint import load_model
    from rt1.errors import CheckpointError, RT1Error
    from rt1.model.loss import action_loss
    from rt1.model.rt1 import RT1, RT1Config
    from rt1.policy.batched import BatchedPolicy
    from rt1.policy.policy import Policy
    from rt1.presets import network_config

__version__ = "0.2.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # at import ONNX Runtime would report its use over the network

__all__ = [
    "RT1",
    "ActionSpec",
    "BatchedPolicy",
    "CheckpointError",
    "Continuous",
    "Discrete",
    "Policy",
    "RT1Config",
    "RT1Error",
    "__version__",
    "action_loss",
    "load_model",
    "network_config",
    "rt1_action_spec",
]

_HOMES = {
    "rt1.actions": ("ActionSpec", "Continuous", "Discrete", "rt1_action_spec"),
    "rt1.checkpoint": ("load_model",),
    "rt1.errors": ("CheckpointError", "RT1Error"),
    "rt1.model.loss": ("action_loss",),
    "rt1.model.rt1": ("RT1", "RT1Config"),
    "rt1.policy.batched": ("BatchedPolicy",),
    "rt1.policy.policy": ("Policy",),
    "rt1.presets": ("network_config",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever has the name)
    """Import a public name where it is first used: the robot's client lives in this package, too, without torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
