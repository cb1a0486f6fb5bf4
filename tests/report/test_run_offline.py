"""An offline evaluation from a checkpoint to its report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.errors import CheckpointError
from rt1.model.rt1 import RT1
from rt1.presets import preset
from rt1.report.provenance import ReportContext
from rt1.report.run_offline import OfflineSettings, evaluate_recorded
from rt1.text.encoder import TableEncoder
from rt1.train.loop import train

pytest.importorskip("matplotlib")


def test_a_policy_that_was_trained_here_is_evaluated_on_what_was_held_out(
    make_source: Callable[..., Any], tmp_path: Path
) -> None:
    source = make_source(*[4] * 10)
    config = dataclasses.replace(preset("debug"), updates=3, held_out=0.2)
    train(source, config, tmp_path / "run")
    context = ReportContext(command="rt1 evaluate", seconds={"train": 2.0})
    report = evaluate_recorded(
        tmp_path / "run", tmp_path / "out", source, settings=OfflineSettings(shown=1), context=context
    )
    figures = json.loads((tmp_path / "out" / "offline.json").read_text())
    assert figures["episodes_are"] == "the 2 episodes held out from training"
    assert (figures["held_out"], figures["steps"]) == (True, 8)
    assert list(figures["seconds"]) == ["train", "evaluate"]
    assert report.title == "Offline evaluation on memory"
    assert report.checkpoint == "last at update 3"
    assert len(report.result.plots) == 1
    assert (tmp_path / "out" / "offline.html").is_file()


def test_the_validation_of_the_training_is_the_loss_over_all_steps_of_the_windows(
    make_source: Callable[..., Any], tmp_path: Path
) -> None:
    source = make_source(*[4] * 10)
    config = dataclasses.replace(preset("debug"), updates=3, held_out=0.2, validate_every=3)
    train(source, config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    report = evaluate_recorded(tmp_path / "run", tmp_path / "out", source)
    assert report.result.window_all.values()["loss"] == pytest.approx(lines[-1]["heldout_loss"], rel=1e-4)


def test_instructions_are_encoded_by_the_encoder_given(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], table: TableEncoder, tmp_path: Path
) -> None:
    source, model = make_source(3), make_network()
    info = CheckpointInfo(model=model.config, action_spec=source.action_spec, text_encoder=table.identity)
    save_checkpoint(tmp_path / "checkpoint", model=model, info=info)
    own = evaluate_recorded(tmp_path / "checkpoint", tmp_path / "a", source)
    other = evaluate_recorded(tmp_path / "checkpoint", tmp_path / "b", source, encoder=table)
    assert own.settings["text embeddings"] == "stored with the data (encoder: not named)"
    assert other.settings["text embeddings"] == "the instructions, encoded by table"
    assert own.result.streaming.values()["loss"] != other.result.streaming.values()["loss"]


def test_a_checkpoint_without_its_weights_is_named(
    make_checkpoint: Callable[..., Path], make_source: Callable[..., Any], tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "run")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        evaluate_recorded(folder, tmp_path / "out", make_source(2))
    assert not (tmp_path / "out").exists()
