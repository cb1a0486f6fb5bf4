"""Each example runs as it stands and stays short."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from rt1.actions import rt1_action_spec
from rt1.checkpoint import load_info, load_model
from rt1.text.encoder import USE_LARGE_5

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_every_example_is_run_here_and_is_shorter_than_sixty_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert sorted(lengths) == ["own_dataset.py", "own_environment.py", "released_weights.py"]
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
    assert "lamps: 8 episodes, 48 steps" in said
    assert "trained for 20 updates" in said
    assert load_model(tmp_path / "outputs" / "lamps").config.text_width == 2


@pytest.mark.slow
def test_google_s_weights_are_converted_and_act(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = shared / "reference"
    build = runpy.run_path(str(reference / "make_checkpoints.py"))["flax_checkpoint"]
    build(reference / "jax_small" / "checkpoint", tmp_path / "jax_small")
    transformer = {"layers": 2, "width": 64, "heads": 4, "head_width": 32, "feed_forward": "linear_no_bias"}
    backbone = {"padding": "same", "unbiased_moving_variance": False}
    model = {"window": 3, "mask": "rt1x", "efficientnet": backbone, "transformer": transformer}
    config = tmp_path / "jax_small.json"
    config.write_text(json.dumps({"model": model, "action": rt1_action_spec(invalid="none").to_json()}))

    places = [str(tmp_path / "jax_small"), str(tmp_path / "converted")]
    monkeypatch.setattr(sys, "argv", ["released_weights.py", "flax", *places, "--config", str(config)])
    runpy.run_path(str(EXAMPLES / "released_weights.py"), run_name="__main__")
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [part.name for part in rt1_action_spec().parts]
    assert load_info(tmp_path / "converted").text_encoder == USE_LARGE_5
