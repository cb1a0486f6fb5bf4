"""rt1 fetch: what it prints, and one line for what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.cli import main

pytest.importorskip("fsspec", reason="downloads need fsspec: the extra http")


@pytest.fixture
def data(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    """A recording of three episodes."""
    return write_recording(tmp_path / "data", make_source(3, 2, 4))


def test_a_part_is_fetched_and_inspected(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = str(tmp_path / "part")
    assert main(["fetch", f"file://{data}", "--episodes", "1:3", "--out", part]) == 0
    assert "episodes 1:3 of 3" in capsys.readouterr().out
    assert main(["inspect", part]) == 0
    assert "2 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("gs://bucket/set", "gcsfs", "gcs"),
        ("s3://bucket/set", "s3fs", "s3"),
        ("hf://datasets/lerobot/pusht", "huggingface_hub", "hub"),
        ("https://host/set", "aiohttp", "http"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["fetch", url, "--out", "part"]) == 1
    assert capsys.readouterr().err == f"rt1: {package} is not installed. Run: pip install 'rt1[{extra}]'\n"


def test_an_episode_range_is_named_as_the_option(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", f"file://{data}", "--episodes", "0:9", "--out", str(tmp_path / "part")]) == 1
    assert "--episodes is 0:9, must be a range within the 3 episodes" in capsys.readouterr().err
    assert main(["fetch", f"file://{data}", "--episodes", "9", "--out", str(tmp_path / "part")]) == 2
    assert "--episodes is '9', must be START:STOP" in capsys.readouterr().err
