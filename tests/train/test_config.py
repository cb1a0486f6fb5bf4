"""Settings of a run: what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt1.common import json_config
from rt1.presets import preset
from rt1.train.config import TrainConfig, differences
from rt1.train.optim import OptimizerSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates is 0, must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1, must be at least 1"),
        ({"log_every": 0}, "log_every is 0"),
        ({"validate_every": 0}, "validate_every is 0"),
        ({"save_every": 0}, "save_every is 0"),
        ({"loader_threads": 0}, "loader_threads is 0"),
        ({"seed": -1}, "seed is -1, must be at least 0"),
        ({"best_metric": "success"}, "best_metric is success, and closed_loop.every is 0: there are no trials"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, must be at least 0 and below 1"),
        ({"threads": -1}, "threads is -1"),
        ({"target_spread": -0.5}, "target_spread is -0.5, must be at least 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize("changes", [{"learning_rate": 0.0}, {"warmup": -1}, {"clip_norm": -1.0}, {"weight_decay": -1}])
def test_an_optimizer_setting_out_of_range_is_refused_by_name(changes: dict[str, Any]) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        OptimizerSettings(**changes)


@pytest.mark.parametrize("name", ["paper", "demo", "debug"])
def test_settings_survive_json(name: str) -> None:
    config = preset(name)
    assert json_config.from_json(TrainConfig, json.loads(json.dumps(json_config.to_json(config)))) == config


def test_a_setting_saved_under_its_old_name_is_the_same_setting() -> None:
    assert differences({"clip": 4, "seed": 1}, {"windows_per_clip": 4, "seed": 1}) == []
    assert differences({"clip": 4}, {"windows_per_clip": 2}) == ["windows_per_clip: 4 then, 2 now"]


def test_what_only_decides_speed_is_no_difference() -> None:
    assert differences({"threads": 1, "seed": 1}, {"threads": 2, "seed": 2}) == ["seed: 1 then, 2 now"]
