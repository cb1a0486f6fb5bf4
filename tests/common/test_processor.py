"""The processor by name and by what it can do."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from rt1.common import processor as module
from rt1.common.processor import instructions, processor


def test_name_and_instruction_sets_are_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: sse avx2\n\nmodel name\t: other\n")
    monkeypatch.setattr(module, "_CPUINFO", file)
    assert (processor(), instructions()) == ("Fast CPU", "sse avx2")


def test_a_system_that_does_not_say_gives_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "missing")
    assert processor() in (platform.processor(), platform.machine())
    assert instructions() == platform.machine()
