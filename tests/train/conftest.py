"""Settings of runs that take a fraction of a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from rt1.presets import preset
from rt1.train.config import TrainConfig


@pytest.fixture(scope="session")
def short() -> Callable[..., TrainConfig]:
    """Make the settings of a run of 12 updates that logs each; crops, dropout and drop-connect are on."""

    def make(**changes: Any) -> TrainConfig:
        every = {"log_every": 1, "validate_every": 4, "save_every": 4}
        return dataclasses.replace(preset("debug"), **{"updates": 12, "held_out": 0.2, **every, **changes})

    return make
