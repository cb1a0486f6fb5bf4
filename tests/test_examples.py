"""Each example runs as it stands and stays short."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from rt1.checkpoint import load_model

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_every_example_is_run_here_and_is_shorter_than_sixty_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert sorted(lengths) == ["own_dataset.py", "own_environment.py"]
    assert max(lengths.values()) < 60


def test_an_environment_of_ones_own_is_checked_and_rolled_out(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_environment.py"), run_name="__main__")
    counted = re.fullmatch(r"random actions: (\d+) of 100 trials succeeded\n", capsys.readouterr().out)
    assert counted is not None
    assert 0 < int(counted[1]) < 100


def test_a_data_set_of_ones_own_is_checked_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "own_dataset.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "touch the blue lamp" in said
    assert "trained for 20 updates" in said
    assert load_model(tmp_path / "outputs" / "lamps").config.text_width == 2
