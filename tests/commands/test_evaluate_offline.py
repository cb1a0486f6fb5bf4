"""``rt1 evaluate-offline``: what it prints, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.cli import main
from rt1.policy import agreement

pytest.importorskip("matplotlib")


@pytest.fixture
def data(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    """A recording of four episodes."""
    return write_recording(tmp_path / "data", make_source(4, 3, 5, 4))


@pytest.fixture
def run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run of two updates on it."""
    words = ["train", "--data", data, "--out", tmp_path / "run", "--preset", "debug", "--updates", "2"]
    assert main([str(word) for word in [*words, "--held-out", "0.5"]]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def _status(*words: object) -> int:
    return main(["evaluate-offline", *map(str, words)])


def test_the_report_never_goes_into_a_checkpoint_of_a_run(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "last")
    assert _status(".", "--data", data) == 0
    assert (run / "evaluation-last" / "offline.html").is_file()
    assert not (run / "last" / "evaluation").exists()


def test_data_and_a_checkpoint_are_all_it_needs(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status(run, "--data", data) == 0
    said = capsys.readouterr().out
    assert "memory: the 2 episodes held out from training" in said
    for line in ("streaming", "windows, last steps", "windows, all steps"):
        assert f"\n{line} " in said
    assert "streaming and windows agree on " in said
    page = run / "evaluation-last" / "offline.html"
    assert f"report: {page}\n" in said
    assert page.is_file()
    assert json.loads((page.parent / "offline.json").read_text())["command"].startswith("rt1 evaluate-offline /")


def test_episodes_can_be_chosen(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [run, "--data", data, "--out", tmp_path / "out", "--plots", "0"]
    assert _status(*words, "--episodes", "all") == 0
    assert "all 4 episodes. The policy was trained on 2 of them" in capsys.readouterr().out
    assert _status(*words, "--episodes", "1") == 0
    assert "1, evenly spaced, of the 2 episodes held out" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "offline.json").read_text())["episodes"] == 1


def test_of_several_data_sets_the_held_out_episodes_are_found_again(
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = [data, write_recording(tmp_path / "more", make_source(2, 3))]
    words = ["train", "--out", tmp_path / "run", "--preset", "debug", "--updates", "1", "--held-out", "0.5", "--data"]
    assert main([str(word) for word in [*words, *both]]) == 0
    assert _status(tmp_path / "run", "--data", *both) == 0
    assert "memory+memory: the 3 episodes held out from training" in capsys.readouterr().out
    assert _status(tmp_path / "run", "--data", data) == 0
    assert "(the held-out ones are, where --data is as in training)" in capsys.readouterr().out


def test_a_disagreement_of_streaming_and_windows_ends_the_command_with_an_error(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "ROUNDING", -1.0)  # no two numbers are that close
    assert _status(run, "--data", data) == 1
    said = capsys.readouterr()
    assert "rt1: streaming and windows DISAGREE" in said.err
    assert "Streaming and windows disagree" in (run / "evaluation-last" / "offline.html").read_text()


def test_what_cannot_be_evaluated_is_one_line(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_checkpoint(tmp_path / "other")
    for words, message in (
        ([run], "needs --data"),
        ([run, "--data", data, "--open-x", "bridge_datas"], "did you mean 'bridge_dataset'"),
        ([other, "--data", data], "the actions of memory are not those of the checkpoint"),
        ([run, "--data", data, "--episodes", "0"], "--episodes is 0"),
        ([run, "--data", data, "--cond-scale", "-1"], "--cond-scale is -1"),
        ([run, "--data", data, "--engine", "onnx"], "--engine"),
    ):
        assert _status(*words) in (1, 2), words
        assert message in capsys.readouterr().err
