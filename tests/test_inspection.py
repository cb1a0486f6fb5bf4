"""What the inspection of a checkpoint and of a data set shows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.checkpoint import CheckpointError, CheckpointInfo, load_model, parameter_counts, save_checkpoint
from rt1.data.episode import DataError
from rt1.inspection import inspect_checkpoint, inspect_data
from rt1.model.rt1 import RT1
from rt1.presets import preset


def _rows(text: str) -> list[list[str]]:
    """Return the cells of every line of the tables."""
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]


def test_a_checkpoint_shows_its_parts_actions_and_making(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "run" / "last", bound=2.5)
    text = inspect_checkpoint(tmp_path / "run")
    rows = _rows(text)
    for name, count in parameter_counts(load_model(folder)).items():
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
    rows = _rows(inspect_checkpoint(save_checkpoint(tmp_path / "exported", model=model, info=info)))
    assert ["terminate", "terminate", "one of 3", ""] in rows
    assert ["move", "move", "0", "1"] in rows
    assert ["text encoder", "not known"] in rows
    assert ["control rate", "not known"] in rows


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\.json"):
        inspect_checkpoint(tmp_path)


def test_a_data_set_shows_its_size_sentences_and_actions(make_source: Callable[..., Any]) -> None:
    source = make_source(3, 5, 7, size=(24, 32))
    for moves in source.moves:
        moves[:, 2] = 0.5
    rows = _rows(inspect_data(source))
    for row in (["episodes", "3"], ["steps", "15"], ["steps per episode", "3..7"], ["image", "24 x 32"]):
        assert row in rows
    assert ["open the drawer", "2"] in rows
    assert ["close the drawer", "1"] in rows
    moves = np.concatenate(source.moves)
    (first,) = [row for row in rows if row[:1] == ["move_0"]]
    assert first[1:4] == ["-1", "1", f"{moves[:, 0].min():.4g}"]
    assert first[-1] == f"{moves[:, 0].max():.4g}"
    assert "constant: move_2" in inspect_data(source)


def test_only_the_commonest_of_very_many_sentences_are_listed(make_source: Callable[..., Any]) -> None:
    source = make_source(*[1] * 120)
    source.instruction = lambda episode: f"sentence {episode // 2 if episode < 20 else episode}"
    text = inspect_data(source)
    assert text.index("sentence 0 ") < text.index("sentence 20 ")  # those of two episodes come first
    assert "and 10 more" in text


def test_an_image_that_does_not_decode_is_named(make_source: Callable[..., Any]) -> None:
    source = make_source(2)
    source.images[0][0] = b"torn"
    with pytest.raises(DataError, match=r"memory, episode 0, step 0: .* neither JPEG nor PNG"):
        inspect_data(source)
