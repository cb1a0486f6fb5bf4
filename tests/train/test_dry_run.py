"""The dry run of a training: what it says, and that it writes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.train.test_distributed import _finish, _start

from rt1.cli import main
from rt1.errors import SaveError, TrainingError
from rt1.train.config import TrainConfig
from rt1.train.dry_run import dry_run
from rt1.train.loop import train

Short = Callable[..., TrainConfig]
MakeSource = Callable[..., Any]


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(
    make_source: MakeSource, short: Short, tmp_path: Path
) -> None:
    source = make_source(9, 7, 8, 6, 5)
    facts = dry_run(source, short(batch_size=8, accumulation=2), tmp_path / "runs" / "new")
    assert list(tmp_path.iterdir()) == []
    assert list(facts) == ["ranks", "batch", "data", "pass", "network", "output", "memory", "time"]
    assert facts["ranks"].startswith("1 on ")
    assert facts["batch"] == "8 windows per update, 8 per rank in 2 parts of 4"
    assert facts["data"].endswith("5 episodes, 1 of them held out, 35 steps")
    updates = re.match(r"(\d+) windows, ([\d.]+) updates, and 12 updates are ([\d.]+) passes", facts["pass"])
    assert updates is not None
    assert float(updates[2]) == pytest.approx(int(updates[1]) / 8, rel=1e-3)
    assert float(updates[2]) * float(updates[3]) == pytest.approx(12, rel=1e-2)
    assert re.search(r"new, a new run, .* GB free", facts["output"])
    assert re.search(r"measured over 3 updates: [\d.]+ GB per rank", facts["memory"])
    assert "for 12 updates" in facts["time"]


def test_a_dry_run_of_a_started_run_resumes_it_without_a_change(
    make_source: MakeSource, short: Short, tmp_path: Path
) -> None:
    source, run = make_source(9, 7, 8, 6, 5), tmp_path / "run"
    train(source, short(updates=4), run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match="updates: 4 then, 12 now"):
        dry_run(source, short(), run)
    facts = dry_run(source, short(), run, allow_changes=True)
    assert "resumes after update 4 of 12" in facts["output"]
    assert "for 8 updates" in facts["time"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_written_is_refused(make_source: MakeSource, short: Short, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError, match=r"file cannot be written"):
        dry_run(make_source(9, 7), short(), tmp_path / "file" / "run")


@pytest.fixture
def words(make_source: MakeSource, write_recording: Any, tmp_path: Path) -> list[str]:
    """The words of a dry run of ``rt1 train`` on a small data set."""
    data = write_recording(tmp_path / "data", make_source(9, 7, 8, 6, 5, 9))
    options = ["--preset", "debug", "--held-out", "0.3", "--device", "cpu", "--dry-run"]
    return ["train", "--data", str(data), "--out", str(tmp_path / "run"), *options]


def test_a_launcher_edited_wrongly_gets_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(words) == 1
    monkeypatch.delenv("WORLD_SIZE")
    assert main([word.replace("/data", "/absent") for word in words]) == 1
    batch, data = capsys.readouterr().err.splitlines()
    assert re.search(r"--batch-size is 4, .* multiple of 3", batch)
    assert f"{tmp_path}/absent" in data
    assert not (tmp_path / "run").exists()


def test_the_first_of_two_ranks_says_it_for_both(words: list[str], tmp_path: Path) -> None:
    (status, first, _), (other_status, second, _) = _finish(_start(words, 2))
    assert (status, other_status) == (0, 0)
    assert "ranks: 2 on cpu" in first
    assert "batch: 4 windows per update, 2 per rank\n" in first
    assert re.search(r"data check: memory: .*", first)
    assert second == ""
    assert not (tmp_path / "run").exists()
