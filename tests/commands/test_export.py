"""``rt1 export``: from a checkpoint to a folder that acts, in one command that says how close it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.cli import main
from rt1.policy.policy import Policy


def _export(*words: object) -> int:
    return main(["export", *map(str, words)])


def test_the_command_exports_compares_and_says_what_it_found(
    make_checkpoint: Callable[..., Path], table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = make_checkpoint(tmp_path / "run"), tmp_path / "export"
    assert _export(checkpoint, "--to", "torch-export", "--out", out, "--text-encoder", table_file) == 0
    page = capsys.readouterr().out
    assert "compared on 12 steps of generated images (give --data for recorded ones):" in page
    assert "equal tokens 48 of 48" in page
    assert "largest logit difference" in page
    assert "text embeddings only" not in page
    policy = Policy.from_export(out)
    policy.reset("open the drawer")
    assert policy.act(np.zeros((32, 32, 3), dtype=np.uint8))["all"].shape == (4,)


def test_recorded_images_are_taken_from_a_data_set(
    make_checkpoint: Callable[..., Path],
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_recording(tmp_path / "data", make_source(4, 6, 5, 4))
    checkpoint = make_checkpoint(tmp_path / "run")
    assert _export(checkpoint, "--to", "torch-export", "--out", tmp_path / "export", "--data", data) == 0
    page = capsys.readouterr().out
    assert "compared on 12 steps of recorded images:" in page
    assert "takes only text embeddings. Add instructions with --instructions" in page


def test_an_export_above_the_tolerance_fails_and_leaves_nothing(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "run")
    assert _export(checkpoint, "--to", "torch-export", "--out", tmp_path / "export", "--tolerance", "0") == 1
    assert "rt1: the export's logits differ" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
