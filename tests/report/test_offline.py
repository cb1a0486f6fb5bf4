"""The report of an offline evaluation: complete, escaped, self-contained, and small whatever the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.errors import CheckpointError
from rt1.evaluate.episode_choice import InstructionSource, choose_episodes
from rt1.evaluate.offline import evaluate_offline
from rt1.model.rt1 import RT1
from rt1.policy.policy import Policy
from rt1.presets import preset
from rt1.report import offline
from rt1.report.offline import OfflineReport, OfflineSettings, evaluate_recorded, offline_json, write_offline_report
from rt1.report.provenance import ReportContext
from rt1.text.encoder import TableEncoder
from rt1.train.loop import train

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert(\"x\")</script> & 'quote' {{ title }}"
SPEC = ActionSpec(
    parts=(
        Discrete(name="stop", choices=3),
        Continuous(name="move", low=(-1.0, -2.0), high=(1.0, 2.0), labels=("<x>", "y")),
    ),
    bins=16,
)
CHOICES = ActionSpec(parts=tuple(Discrete(name=name, choices=3) for name in "abc"), bins=16)


@pytest.fixture
def make_report(make_source: Callable[..., Any], make_network: Callable[..., RT1]) -> Callable[..., OfflineReport]:
    """Evaluate an untrained network on episodes of these lengths."""

    def make(*lengths: int, spec: ActionSpec = SPEC, shown: int = 2, sentence: str = HOSTILE) -> OfflineReport:
        source, model = make_source(*lengths), make_network()
        source.action_spec, source.instruction = spec, lambda _: sentence
        source.moves = [
            np.where(spec.discrete_choices > 0, np.clip(np.round(moves + 1), 0, 2), moves).astype(np.float32)
            for moves in source.moves
        ]
        result = evaluate_offline(
            Policy(model, spec),
            source,
            choose_episodes(source, {}),
            InstructionSource(stored=True, origin=HOSTILE),
            shown=shown,
        )
        return OfflineReport(
            title=HOSTILE,
            command="rt1 evaluate --data here",
            commit="abc123",
            machine="two cores",
            date="2026-11-20",
            checkpoint="last at update 7",
            seconds={"evaluate": 9.5},
            peak_gb=None,
            parameters=1_234_567,
            result=result,
            network=model.config,
        )

    return make


def test_the_page_is_complete_escaped_and_needs_nothing_else(
    make_report: Callable[..., OfflineReport], read_page: Callable[[str], Any], tmp_path: Path
) -> None:
    page = read_page(write_offline_report(make_report(5, 3, 4), tmp_path).read_text())
    for sentence in (
        HOSTILE,
        "Streaming and windows agree on all 12 steps",
        "Windows, all steps",
        "Most frequent",
        "<x>",
        "step 4",
        "map 1",
        "calibration",
        "rt1 evaluate --data here",
        "last at update 7",
    ):
        assert sentence in page.text, sentence


def test_the_figures_are_plain_data(make_report: Callable[..., OfflineReport], tmp_path: Path) -> None:
    report = make_report(5, 3, 4)
    write_offline_report(report, tmp_path)
    figures = json.loads((tmp_path / "offline.json").read_text())
    assert figures == offline_json(report)
    assert (figures["episodes"], figures["steps"], figures["windows"]) == (3, 12, 9)
    assert figures["streaming"] == report.result.streaming.values()
    assert set(figures["streaming"]) == set(figures["window_last_steps"]) == set(figures["window_all_steps"])
    assert figures["agreement"]["agrees"] is True
    assert figures["agreement"]["steps"] == 12
    assert sum(bar["tokens"] for bar in figures["reliability"]) == 12 * 3
    assert [sum(counts.values()) for counts in figures["bins_off"].values()] == [12, 12, 12]
    assert set(figures["most_frequent_token"]) == {"stop", "<x>", "y"}
    assert figures["command"] == "rt1 evaluate --data here"


def test_a_disagreement_is_said_on_the_page(make_report: Callable[..., OfflineReport], tmp_path: Path) -> None:
    report = make_report(3)
    report.result.agreement = replace(report.result.agreement, logit_difference=1.0)
    page = write_offline_report(report, tmp_path).read_text()
    assert "Streaming and windows disagree" in page
    report.result.agreement = replace(report.result.agreement, logit_difference=float("nan"))
    assert offline_json(report)["agreement"]["largest_difference"] is None
    assert offline_json(report)["agreement"]["agrees"] is False


def test_an_action_of_choices_alone_and_no_plotted_episode_leave_sentences(
    make_report: Callable[..., OfflineReport], tmp_path: Path
) -> None:
    page = write_offline_report(make_report(1, spec=CHOICES, shown=0), tmp_path).read_text()
    assert "Every dimension is a choice." in page
    assert "No episode was plotted." in page
    assert "no continuous dimension" in page


def test_more_and_longer_episodes_do_not_make_the_page_grow(
    make_report: Callable[..., OfflineReport], tmp_path: Path
) -> None:
    few = write_offline_report(make_report(*[8] * 3, shown=1), tmp_path).stat().st_size
    many = write_offline_report(make_report(*[24] * 12, shown=1), tmp_path).stat().st_size
    assert many < 1.2 * few


def test_a_policy_that_was_trained_here_is_evaluated_on_what_was_held_out(
    make_source: Callable[..., Any], tmp_path: Path
) -> None:
    source = make_source(*[4] * 10)
    config = replace(preset("debug"), updates=3, held_out=0.2)
    train(source, config, tmp_path / "run")
    context = ReportContext(command="rt1 evaluate", seconds={"train": 2.0})
    report = evaluate_recorded(
        tmp_path / "run", tmp_path / "out", source, settings=OfflineSettings(plots=1), context=context
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
    config = replace(preset("debug"), updates=3, held_out=0.2, validate_every=3)
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


def test_episodes_for_rerun_are_spread_over_those_with_an_instruction(
    make_source: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(2, 2, 3, 2)
    train(source, replace(preset("debug"), updates=1, held_out=0.0), tmp_path / "run")
    written: list[tuple[str, int]] = []
    monkeypatch.setattr(offline, "check_rerun_target", lambda _: None)
    monkeypatch.setattr(
        offline, "write_rerun", lambda _path, _title, shown: written.extend((e.name, len([*e.steps])) for e in shown)
    )
    settings = OfflineSettings(plots=2, rerun=tmp_path / "new.rrd", episodes="all")
    evaluate_recorded(tmp_path / "run", tmp_path / "out", source, settings=settings)
    assert written == [("episode_0", 2), ("episode_3", 2)]
