"""``rt1 evaluate``: what it refuses before a trial begins. Its trials are tested with the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rt1.cli import main


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint of the network that acts in the simulator."""
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--trials 0", "rt1 evaluate-offline"),
        ("--trials -1", "--trials is -1"),
        ("--episodes 2", "--episodes"),
        ("--tasks reachh", "did you mean 'reach'"),
        ("--shard 0/8", "--shard is 0/8"),
        ("--shard 9/8", "--shard is 9/8"),
        ("--shard half", "--shard is 'half'"),
        ("--shard 1/2 --data somewhere", "--data is somewhere"),
        ("--merge somewhere", "--merge"),
        ("--max-steps 501 --control-rate 80", "--max-steps is 501, must be in 1..500"),
        ("--protocol metaworld-mt50", "did you mean 'metaworld-mt50-"),
        ("--protocol metaworld-mt50-b --trials 3", "--trials is 3, but metaworld-mt50-b sets it"),
        ("--protocol metaworld-mt50-b --camera corner", "--camera is corner, but metaworld-mt50-b sets it"),
    ],
)
def test_what_cannot_be_tried_is_one_line(
    checkpoint: Path, table_file: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main(["evaluate", str(checkpoint), "--text-encoder", str(table_file), *words.split()]) in (1, 2)
    assert message in capsys.readouterr().err


def test_a_checkpoint_that_names_no_tasks_says_what_to_give(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint / "checkpoint.json"
    info = json.loads(file.read_text())
    info["provenance"]["tasks"] = []
    file.write_text(json.dumps(info))
    assert main(["evaluate", str(checkpoint)]) == 1
    assert "names no tasks. Give --tasks" in capsys.readouterr().err


def test_neither_a_checkpoint_nor_shards_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) in (1, 2)
    assert "checkpoint is None" in capsys.readouterr().err


def test_a_folder_without_shards_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "video.mp4").touch()
    for name in ("missing", "other"):
        assert main(["evaluate", "--merge", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert f"{name} holds no shard of trials" in error
        assert "--shard K/N" in error
