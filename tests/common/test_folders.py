"""Output folders: not those of something else, and one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.cli import main
from rt1.common.folders import LOCK_FILE, check_folder, locked, replacing_alone, working_in
from rt1.errors import LockedError, SaveError

OURS = ("last", "meta/about.json")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _work_in(folder: Path) -> list[str]:
    """Return what is in a folder while it is worked in."""
    with working_in(folder, ours=OURS):
        return _names(folder)


@pytest.mark.parametrize("names", [[], [".hidden", "slurm-1.out", "run.log"], ["last", "thesis.txt"], ["meta"]])
def test_a_folder_that_is_new_or_empty_or_ours_may_be_written_into(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    if "meta" in names:
        (tmp_path / "meta" / "about.json").touch()
    check_folder(tmp_path, ours=OURS)
    check_folder(tmp_path / "new", ours=OURS)
    assert _names(tmp_path) == sorted(names)


def test_a_folder_of_something_else_is_refused_by_what_it_holds(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).touch()
    with pytest.raises(SaveError, match=r"holds a, b, c, \.\.\. and none of last, meta/about\.json"):
        check_folder(tmp_path, ours=OURS)
    with pytest.raises(SaveError, match="a is a file, must be a folder"):
        check_folder(tmp_path / "a", ours=OURS)
    assert _names(tmp_path) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", ["", "."])
def test_no_name_is_not_the_current_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SaveError, match=r"the output folder is '' or '\.'.*. Give the name of a folder"):
        _work_in(Path(name))
    assert _names(tmp_path) == []


def test_a_folder_is_another_s_while_it_is_worked_in(tmp_path: Path) -> None:
    with working_in(tmp_path, ours=OURS), pytest.raises(LockedError) as caught:
        _work_in(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}. "
        "Wait until it ends, or write elsewhere"
    )
    assert _names(tmp_path) == []
    assert _work_in(tmp_path) == [LOCK_FILE]


_HOLD = """
import sys, time
from pathlib import Path
from rt1.common.folders import working_in
with working_in(Path(sys.argv[1]), ours=()):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_gone_though_its_file_is_there(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(LockedError, match=f"process {process.pid} on"):
                _work_in(tmp_path)
        finally:
            process.send_signal(signal.SIGKILL)
    assert _names(tmp_path) == [LOCK_FILE]
    assert _work_in(tmp_path) == [LOCK_FILE]


def test_a_lock_whose_file_its_holder_removes_at_that_moment_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, flock, calls = tmp_path / "lock", fcntl.flock, []

    def remove_first(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            file.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(tmp_path, file):
        assert file.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert len(calls) == 2


def test_a_file_system_without_locks_is_worked_in_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)  # stands for the file system
    with pytest.warns(UserWarning, match="cannot be locked .*No locks available.*. Let no other process write there"):
        assert _work_in(tmp_path) == [LOCK_FILE]


@pytest.mark.parametrize(("function", "number"), [("open", errno.EROFS), ("write", errno.ENOSPC)])
def test_a_read_only_and_a_full_disk_are_no_reason_to_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)  # warnings are errors here
    with locked(tmp_path, tmp_path / LOCK_FILE):
        assert (tmp_path / LOCK_FILE).exists() == (number == errno.ENOSPC)


def test_a_new_folder_into_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    _work_in(tmp_path / "new")
    assert _names(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match=r"could not save .*file/inner: Not a directory"):
        _work_in(tmp_path / "file" / "inner")


def _replace(folder: Path) -> None:
    with replacing_alone(folder, holding=("about",)) as beside:
        beside.mkdir()
        (beside / "about").write_text("new")


def test_a_folder_is_replaced_by_one_process_at_a_time_and_the_leftovers_of_a_killed_one_go(tmp_path: Path) -> None:
    (tmp_path / ".name.writing-1").mkdir()
    with locked(tmp_path / "name", tmp_path / ".name.lock"), pytest.raises(LockedError, match="name is in use"):
        _replace(tmp_path / "name")
    assert _names(tmp_path) == [".name.writing-1"]
    _replace(tmp_path / "name")
    assert _names(tmp_path) == ["name"]


COMMANDS = {
    "record": "--tasks faucet-open",
    "train": "--data DATA --preset debug",
    "improve": "--data DATA --preset debug",
    "demo": "",
    "evaluate-offline": "CHECKPOINT --data DATA",
    "export": "CHECKPOINT --to torch-export",
    "package": "CHECKPOINT",
    "convert rlds": "DATA --to rlds",
    "convert lerobot": "DATA --to lerobot --fps 3",
    "convert tensorflow": "CHECKPOINT",
    "convert flax": "CHECKPOINT",
    "convert imagenet": "CHECKPOINT/model.safetensors",
    "inspect": "DATA",
    "text-table": "DATA",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_where_something_else_is_or_where_no_name_is_given(
    command: str,
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, checkpoint = write_recording(tmp_path / "data", make_source(3, 2)), make_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "thesis")
    words = [*command.split(), *COMMANDS[command].replace("DATA", str(data)).split()]
    words = [word.replace("CHECKPOINT", str(checkpoint)) for word in words]
    before = _files(tmp_path)
    for out in ("", str(data), str(tmp_path / "thesis"), "/"):
        assert main([*words, "--out", out]) in (1, 2)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("rt1: ")
        assert re.search(
            "[;.] [Gg]ive (a|the) (new|name|path)|be PATH|outside of|current folder|the file to convert|other settings",
            line,
        ), line
    assert _files(tmp_path) == before


def _files(folder: Path) -> dict[Path, bytes]:
    """Return what is in all files but a data set's index, which reading makes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".rt1-index" not in path.parts}
