"""``rt1 engines``: the table of a checkpoint's engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt1.cli import main
from rt1.commands import engines
from rt1.policy.auto import EngineResult


def test_the_command_prints_the_table_and_the_fastest_that_agrees(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def measure(checkpoint: Path, *, embodiment: str | None, device: str, steps: int) -> dict[str, EngineResult]:
        assert (checkpoint, embodiment, device, steps) == (tmp_path, None, "cpu", 9)
        torch = EngineResult(milliseconds=40.0, products=0.8, agreement=1.0, clear_tokens=99, megabytes=200.0)
        onnx = EngineResult(milliseconds=25.0, products=0.5, agreement=0.995, clear_tokens=99, megabytes=300.0)
        return {"torch": torch, "onnx": onnx}

    monkeypatch.setattr(engines, "measure", measure)
    assert main(["engines", str(tmp_path), "--steps", "9"]) == 0
    head, torch, onnx, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["engine", "ms", "products", "agreement", "clear", "tokens", "MB"]
    assert torch.split() == ["torch", "40.00", "0.800", "100.00%", "99", "200"]
    assert onnx.split() == ["onnx", "25.00", "0.500", "99.50%", "99", "300"]
    assert last.startswith("auto takes onnx.")
