"""What the terminal shows of a checkpoint and of a data set."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.checkpoint import CheckpointInfo, load_model, save_checkpoint
from rt1.data.survey import survey_data
from rt1.errors import CheckpointError
from rt1.model.heads import parameter_counts
from rt1.model.rt1 import RT1
from rt1.presets import preset
from rt1.report.dataset_checks import findings
from rt1.report.dataset_terminal import checkpoint_text, data_text


def _rows(text: str) -> list[list[str]]:
    """Return the cells of every line of the tables."""
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in plain.splitlines()]


def test_a_checkpoint_shows_its_parts_actions_and_making(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "run" / "last", bound=2.5)
    text = checkpoint_text(tmp_path / "run")
    rows = _rows(text)
    counts = parameter_counts(load_model(folder))
    assert {"efficientnet", "block_films", "token_learner", "transformer", "total"} <= counts.keys()
    for name, count in counts.items():
        assert [name, f"{count:,}"] in rows
    assert ["all", "hand_x", "-2.5", "2.5"] in rows
    assert ["control rate", "4 Hz"] in rows
    assert ["weights", "all finite"] in rows
    assert ["update", "7"] in rows
    assert "'table' (sha256" in text
    assert "16 bins" in text
    assert '"window": 2' in text


def test_weights_that_are_not_finite_are_said(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "run" / "last")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.output.bias"][1] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    rows = _rows(checkpoint_text(folder))
    assert ["weights", "NOT USABLE: transformer.output.bias holds a value that is not finite"] in rows


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


def _data_text(source: Any) -> str:
    survey = survey_data(source)
    return data_text(survey, findings(survey))


def test_a_data_set_shows_its_size_sentences_and_actions(make_source: Callable[..., Any]) -> None:
    source = make_source(3, 5, 7, size=(24, 32))
    for moves in source.moves:
        moves[:, 2] = 0.5
    text = _data_text(source)
    rows = _rows(text)
    for row in (["episodes", "3"], ["steps", "15"], ["steps per episode", "3..7, median 5"], ["image", "24 x 32"]):
        assert row in rows
    assert ["text embedding", "8 entries"] in rows
    assert ["open the drawer", "2"] in rows
    assert ["close the drawer", "1"] in rows
    moves = np.concatenate(source.moves)
    (first,) = [row for row in rows if row[:1] == ["move_0"]]
    assert first[1:4] == ["-1", "1", f"{moves[:, 0].min():.3g}"]
    assert first[-3:-1] == [f"{moves[:, 0].max():.3g}", "0 %"]
    assert "note [constant-dimension] never changes: move_2" in text


def test_only_the_commonest_of_very_many_sentences_are_listed(make_source: Callable[..., Any]) -> None:
    source = make_source(*[1] * 120)
    source.instruction = lambda episode: f"sentence {episode // 2 if episode < 20 else episode}"
    text = _data_text(source)
    assert text.index("sentence 0 ") < text.index("sentence 20 ")  # those of two episodes come first
    assert "and 10 more" in text


def test_a_sentence_in_brackets_is_shown_as_it_is(make_source: Callable[..., Any]) -> None:
    source = make_source(2)
    source.instruction = lambda _: "[red]push[/red] the [/bold] block"
    assert ["[red]push[/red] the [/bold] block", "1"] in _rows(_data_text(source))
