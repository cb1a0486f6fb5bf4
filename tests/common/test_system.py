"""What a result was made on."""

from __future__ import annotations

import mmap
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rt1.common import system
from rt1.common.system import PeakMemory, command_line, commit, describe_machine, peak_memory, tree_memory


def test_the_machine_is_described_on_one_line() -> None:
    text = describe_machine()
    assert f"{os.cpu_count()} cores" in text
    assert f"Python {platform.python_version()}" in text
    assert "\n" not in text


def test_the_commit_is_that_of_the_repository_or_unknown() -> None:
    folder = Path(system.__file__).parent
    asked = subprocess.run(
        ["git", "-C", str(folder), "log", "-1", "--format=%H"], capture_output=True, text=True, check=False
    )
    found = commit()
    assert re.fullmatch(r"[0-9a-f]{12}\+?|unknown", found)
    assert found == "unknown" or asked.stdout.startswith(found.rstrip("+"))


def test_a_process_that_has_ended_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert tree_memory(process.pid) == 0


def test_memory_counts_children() -> None:
    alone = tree_memory()
    hold = "import sys; held = b'x' * 60_000_000; print('ready', flush=True); sys.stdin.read()"
    with (
        PeakMemory(every=60.0) as peak,  # so it looks only at the end
        subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        both, own = tree_memory(), tree_memory(child.pid)
        child.communicate()
    assert own > 60e6
    assert both > alone + 50e6
    assert peak.gigabytes > 0.02


def test_the_peak_stays_when_the_memory_is_given_back() -> None:
    with PeakMemory(every=0.01) as peak:
        held = mmap.mmap(-1, 100_000_000)  # pages of its own: the heap of a long test run has room to spare
        held.write(b"x" * 100_000_000)
        before = tree_memory()
        while peak.gigabytes * 1e9 < before - 20e6:  # until the watcher has seen it
            pass
        held.close()
        after = tree_memory()
    assert peak.gigabytes * 1e9 > after + 50e6
    assert before > after + 50e6


def test_the_peak_of_a_process_is_its_own_and_not_that_of_the_one_that_started_it() -> None:
    held = mmap.mmap(-1, 200_000_000)
    held.write(b"x" * 200_000_000)
    own = peak_memory()
    ask = "from rt1.common.system import peak_memory; held = b'x' * 20_000_000; print(peak_memory())"
    asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    held.close()
    assert own is not None
    assert own > 200e6
    assert 20e6 < int(asked.stdout) < 200e6


def test_the_command_is_that_of_rt1_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["venv/bin/rt1", "train", "--out", "my run"])
    assert command_line() == "rt1 train --out 'my run'"
    monkeypatch.setattr(sys, "argv", ["src/rt1/__main__.py", "demo"])
    assert command_line() == "rt1 demo"
    monkeypatch.setattr(sys, "argv", ["examples/own.py"])
    assert command_line() is None
