"""What the terminal shows of a checkpoint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.checkpoint import CheckpointError, CheckpointInfo, load_model, save_checkpoint
from rt1.inspection.terminal import checkpoint_text
from rt1.model.convert.layout import component_parameters
from rt1.model.rt1 import RT1
from rt1.presets import preset


def _rows(text: str) -> list[list[str]]:
    """Return the cells of every line of the tables."""
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]


def test_a_checkpoint_shows_its_parts_actions_and_making(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "run" / "last", bound=2.5)
    text = checkpoint_text(tmp_path / "run")
    rows = _rows(text)
    for name, count in component_parameters(load_model(folder)).items():
        assert [name, f"{count:,}"] in rows
    assert ["all", "hand_x", "-2.5", "2.5"] in rows
    assert ["control rate", "4 Hz"] in rows
    assert ["update", "7"] in rows
    assert "'table' (sha256" in text
    assert "16 bins" in text
    assert '"window": 2' in text


def test_choices_and_what_is_not_known_are_said_in_words(tmp_path: Path) -> None:
    spec = ActionSpec(
        parts=(Discrete(name="terminate", choices=3), Continuous(name="move", low=(0.0,), high=(1.0,))), bins=16
    )
    model = RT1(dataclasses.replace(preset("debug").model, action_tokens=2, bins=16, text_width=8))
    info = CheckpointInfo(model=model.config, action_spec=spec, text_encoder=None)
    rows = _rows(checkpoint_text(save_checkpoint(tmp_path / "exported", model=model, info=info)))
    assert ["terminate", "terminate", "one of 3", ""] in rows
    assert ["move", "move", "0", "1"] in rows
    assert ["text encoder", "not known"] in rows
    assert ["control rate", "not known"] in rows


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\.json"):
        checkpoint_text(tmp_path)
