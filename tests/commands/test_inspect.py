"""rt1 inspect: where its page goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.cli import main


@pytest.fixture
def data(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    """A recording of three episodes."""
    return write_recording(tmp_path / "data", make_source(3, 2, 4))


@pytest.mark.parametrize("command", ["inspect", "text-table"])
def test_a_folder_is_not_replaced_by_a_file(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter").write_text("mine")
    assert main([command, str(data), "--out", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"rt1: {out} is a folder, which a file must not replace; give the name of a file\n"
    )
    assert (out / "chapter").read_text() == "mine"


@pytest.mark.parametrize("command", ["inspect", "text-table"])
def test_a_file_of_another_kind_is_not_replaced(command: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (data / "rt1.json").read_bytes()
    assert main([command, str(data), "--out", str(data / "rt1.json")]) == 1
    assert "rt1.json exists" in capsys.readouterr().err
    assert (data / "rt1.json").read_bytes() == before
