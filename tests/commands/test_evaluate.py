"""``rt1 evaluate`` on recorded episodes: what it prints, what it refuses, when it acts in an environment instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.cli import main
from rt1.evaluate import offline

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
    return main(["evaluate", *map(str, words)])


def test_data_and_a_checkpoint_are_all_it_needs(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status("--data", data, "--checkpoint", run) == 0
    said = capsys.readouterr().out
    assert "memory: the 2 episodes held out from training" in said
    for line in ("streaming", "windows, last steps", "windows, all steps"):
        assert f"\n{line} " in said
    assert "streaming and windows agree on " in said
    page = run / "evaluation-last" / "offline.html"
    assert f"report: {page}\n" in said
    assert page.is_file()
    assert json.loads((page.parent / "offline.json").read_text())["command"].startswith("rt1 evaluate --data")


def test_the_report_never_goes_into_a_checkpoint_of_a_run(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "last")
    assert _status("--data", data, "--checkpoint", ".") == 0
    assert (run / "evaluation-last" / "offline.html").is_file()
    assert not (run / "last" / "evaluation").exists()


def test_episodes_can_be_chosen(run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", data, "--checkpoint", run, "--trials", "0", "--out", tmp_path / "out", "--plots", "0"]
    assert _status(*words, "--episodes", "all") == 0
    assert "all 4 episodes; the policy was trained on 2 of them" in capsys.readouterr().out
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
    assert _status("--checkpoint", tmp_path / "run", "--data", *both) == 0
    assert "memory+memory: the 3 episodes held out from training" in capsys.readouterr().out
    assert _status("--checkpoint", tmp_path / "run", "--data", data) == 0
    assert "(the held-out ones are, where --data is as in training)" in capsys.readouterr().out


def test_a_disagreement_of_streaming_and_windows_ends_the_command_with_an_error(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "TOLERANCE", -1.0)  # no two numbers are that close
    assert _status("--data", data, "--checkpoint", run) == 1
    said = capsys.readouterr()
    assert "rt1: streaming and windows DISAGREE (largest difference" in said.err
    assert "Streaming and windows disagree" in (run / "evaluation-last" / "offline.html").read_text()


def test_what_cannot_be_evaluated_is_one_line(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_checkpoint(tmp_path / "other")
    for words, message in (
        (["--checkpoint", run, "--trials", "0"], "nothing to evaluate; give recorded episodes with --data"),
        (["--checkpoint", run, "--data", data, "--open-x", "bridge_datas"], "did you mean 'bridge_dataset'"),
        (["--checkpoint", other, "--data", data], "the actions of memory are not those of the checkpoint"),
        (["--checkpoint", run, "--data", data, "--episodes", "0"], "--episodes is 0"),
        (["--checkpoint", run, "--data", data, "--trials", "3", "--episodes", "2"], "leave it out"),
        (["--checkpoint", run, "--data", data, "--setting", "int8"], "recorded episodes are evaluated in fp32"),
        (["--checkpoint", run, "--tasks", "reachh", "--trials", "1"], "did you mean 'reach'"),
    ):
        assert _status(*words) in (1, 2), words
        assert message in capsys.readouterr().err


def test_a_checkpoint_that_names_no_tasks_says_what_to_give(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "last" / "checkpoint.json"
    info = json.loads(file.read_text())
    info["provenance"]["tasks"] = []
    file.write_text(json.dumps(info))
    assert _status("--checkpoint", run) == 1
    assert "names no tasks; give --tasks, or recorded episodes alone with --data" in capsys.readouterr().err
