"""Recording, training and evaluating by an environment's name, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rt1.checkpoint import load_info
from rt1.cli import main
from rt1.data.rlds.reader import RLDSSource
from rt1.text.encoder import TableEncoder


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    """A folder with an expert of pendulum-swingup that pushes one way."""
    (tmp_path / "experts").mkdir()
    layer = {"0.weight": np.zeros((1, 3), np.float32), "0.bias": np.ones(1, np.float32)}
    save_file(layer, tmp_path / "experts" / "pendulum-swingup.safetensors")
    return tmp_path / "experts"


def test_dm_control_is_recorded_trained_on_and_measured_by_its_name(
    gl: str, expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dm_control", reason="DeepMind Control is not installed")
    assert gl
    table, data, run = tmp_path / "table.safetensors", tmp_path / "data", tmp_path / "run"
    TableEncoder({"make the pendulum swingup": np.ones(4)}, "table").save(table)
    shown = ["--action-repeat", "100", "--image-size", "32", "--experts", str(expert)]
    words = ["--tasks", "pendulum-swingup", "--episodes", "2", "--workers", "1", "--text-encoder", str(table)]
    assert main(["record", "--env", "dm_control:pendulum-swingup", "--out", str(data), *words, *shown]) == 0
    source = RLDSSource(data)
    assert source.lengths.tolist() == [10, 10]
    assert source.details["env"]["settings"]["action_repeat"] == 100
    assert main(["train", "--preset", "debug", "--data", str(data), "--out", str(run), "--updates", "2"]) == 0
    provenance = load_info(run).provenance
    assert (provenance["env"], provenance["image_size"]) == (source.details["env"], [32, 32])
    capsys.readouterr()
    assert main(["evaluate", str(run), "--trials", "1", "--workers", "1", "--text-encoder", str(table)]) == 0
    assert "pendulum-swingup: return of policy" in capsys.readouterr().out
    (task,) = json.loads((run / "evaluation-last" / "results.json").read_text())["tasks"]
    assert set(task["returns"]) == {"policy", "expert", "blind", "random"}


def test_an_expert_where_there_is_none_is_one_line(
    capsys: pytest.CaptureFixture[str], table_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dm_control", reason="DeepMind Control is not installed")
    words = ["record", "--env", "dm_control:walker-run", "--tasks", "walker-run", "--text-encoder", str(table_file)]
    assert main([*words, "--out", str(tmp_path / "set")]) == 1
    assert "walker-run of dm_control has no expert" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
