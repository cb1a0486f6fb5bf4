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
