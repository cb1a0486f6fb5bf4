"""A first look: passed ones are remembered, and a library that hangs or crashes is told in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from rt1.common import first_look as module
from rt1.common.first_look import check_unchanged, end_children, first_look, stamp_of
from rt1.errors import DataError


def note_process(_: str, notes: str, *__: str) -> None:
    with Path(notes).open("a") as file:
        file.write(f"{os.getpid()}\n")


def read(path: str) -> None:
    Path(path).read_bytes()


def print_much(_: str) -> None:
    os.write(1, b"printed\n" * 1000)


def fail(_: str) -> None:
    raise KeyError("x")


def crash(_: str) -> None:
    os.kill(os.getpid(), signal.SIGBUS)


def leave(_: str) -> None:
    os._exit(3)


def burn(_: str) -> None:
    while True:
        pass


def wait(_: str) -> None:
    time.sleep(100)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(b"content")
    return path


def _look(path: Path, name: str, *arguments: object) -> tuple[int, int, int]:
    return first_look(f"tests.common.test_first_look:{name}", path, *arguments, library="a library")


def test_a_look_runs_in_a_process_of_its_own_and_once_for_a_file(path: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    for _ in range(2):
        assert _look(path, "note_process", str(notes)) == stamp_of(path)
    path.write_bytes(b"other content")
    _look(path, "note_process", str(notes))
    processes = notes.read_text().split()
    assert len(processes) == 2
    assert len(set(processes)) == 1
    assert str(os.getpid()) not in processes


@pytest.mark.parametrize(
    ("name", "limits", "told"),
    [
        ("fail", (0.2, 60.0), "data.bin is damaged or not in the expected form (KeyError: 'x')"),
        ("crash", (0.2, 60.0), "data.bin cannot be read: a library crashed by signal SIGBUS"),
        ("leave", (0.2, 60.0), "data.bin cannot be read: a library ended with exit code 3"),
        ("burn", (0.2, 60.0), "data.bin cannot be read: a library did not finish within 0.2 s of CPU time"),
        ("wait", (60.0, 0.4), "data.bin cannot be read: a library did not finish within 0.4 s"),
    ],
)
def test_what_goes_wrong_is_one_line_and_the_next_look_works(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limits: tuple[float, float], told: str
) -> None:
    monkeypatch.setattr(module, "time_limits", lambda _: limits)
    with pytest.raises(DataError) as caught:
        _look(path, name)
    assert told in str(caught.value)
    assert str(caught.value).endswith("Copy it again from where it came from")
    assert "\n" not in str(caught.value)
    assert _look(path, "print_much") == stamp_of(path)


def test_a_process_that_ended_while_idle_is_started_again(path: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    _look(path, "note_process", str(notes))
    os.kill(int(notes.read_text()), signal.SIGKILL)
    time.sleep(0.1)
    _look(path, "note_process", str(notes), "again")
    assert len(set(notes.read_text().split())) == 2


def test_a_relative_path_is_that_of_this_process(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _look(path, "note_process", str(tmp_path / "notes"), "start it elsewhere")
    monkeypatch.chdir(tmp_path)
    assert _look(Path(path.name), "read") == stamp_of(path)


def test_processes_end_with_this_one(path: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    _look(path, "note_process", str(notes), "to end")
    end_children()
    ended = False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(notes.read_text()), 0)
        ended = True
    assert not ended


def test_without_a_process_the_look_runs_here_with_a_warning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    end_children()
    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.warns(UserWarning, match=r"no process of its own can look at files first \(.*unavailable"):
        _look(path, "note_process", str(tmp_path / "notes"))
    assert (tmp_path / "notes").read_text().split() == [str(os.getpid())]


def test_a_file_that_changed_or_is_gone_is_refused(path: Path) -> None:
    stamp = stamp_of(path)
    check_unchanged(path, stamp)
    path.write_bytes(b"longer content")
    with pytest.raises(DataError, match=r"data\.bin has changed"):
        check_unchanged(path, stamp)
    path.unlink()
    with pytest.raises(DataError, match=r"data\.bin: No such file"):
        first_look("tests.common.test_first_look:fail", path, library="a library")
