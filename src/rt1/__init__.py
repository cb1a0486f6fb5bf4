"""rt1: the Robotics Transformer in PyTorch. Record, train, evaluate closed loop, act."""

from __future__ import annotations

from rt1.actions import ActionSpec, Continuous, Discrete, rt1_action_spec
from rt1.checkpoint import CheckpointError, load_model
from rt1.model.rt1 import RT1, RT1Config, action_loss
from rt1.policy import Policy

__version__ = "0.1.0"

__all__ = [
    "RT1",
    "ActionSpec",
    "CheckpointError",
    "Continuous",
    "Discrete",
    "Policy",
    "RT1Config",
    "__version__",
    "action_loss",
    "load_model",
    "rt1_action_spec",
]
