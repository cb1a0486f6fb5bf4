"""Saving: whole or not at all, and what was there before stays."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rt1.common import files
from rt1.common.files import _machine, recover, replacing, scratch_folder, user_cache, write_bytes, write_text
from rt1.errors import SaveError


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _folder(path: Path, text: str) -> Path:
    with replacing(path, holding=("inner",)) as beside:
        beside.mkdir()
        (beside / "inner").mkdir()
        (beside / "inner" / "file").write_text(text)
    return path


def test_a_file_is_written_in_a_folder_that_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file.txt", "grüß dich")
    assert (tmp_path / "a" / "b" / "file.txt").read_bytes() == "grüß dich".encode()
    assert _names(tmp_path / "a" / "b") == ["file.txt"]


def test_a_file_and_a_folder_take_the_place_of_the_one_before(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_bytes(tmp_path / "file", content)
        _folder(tmp_path / "folder", content.decode())
    assert (tmp_path / "file").read_bytes() == b"two"
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "two"
    assert _names(tmp_path) == ["file", "folder"]


def _fail_half_way(path: Path, error: type[BaseException], write: Callable[[Path], object]) -> None:
    with replacing(path, holding=("inner",) if path.is_dir() else ()) as beside:
        write(beside)
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_in_the_middle_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    file, folder = tmp_path / "file", _folder(tmp_path / "folder", "old")
    file.write_text("old")
    with pytest.raises(error):
        _fail_half_way(file, error, lambda beside: beside.write_text("half"))
    with pytest.raises(error):
        _fail_half_way(folder, error, lambda beside: shutil.copytree(folder, beside))
    assert file.read_text() == "old"
    assert (folder / "inner" / "file").read_text() == "old"
    assert _names(tmp_path) == ["file", "folder"]


def test_the_old_file_stays_until_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with replacing(file) as beside:
        beside.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    file = tmp_path / "file"
    write_bytes(file, b"old")
    full_disk(8192)
    with pytest.raises(SaveError) as caught:
        write_bytes(file, bytes(10**6))
    assert str(caught.value) == (
        f"could not save {file}: File too large. What was there before is untouched. "
        "Free space or choose another folder"
    )
    assert file.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


def test_an_error_of_safetensors_is_a_save_error_too(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    write_bytes(file, b"old")
    with pytest.raises(SaveError, match="No such file"), replacing(file) as beside:
        save_file({"a": np.zeros(1)}, beside / "missing" / "weights")
    assert file.read_bytes() == b"old"


def test_a_path_below_a_file_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(SaveError, match=r"could not save .*/file/inner: .*. Free space or choose another folder"):
        write_text(tmp_path / "file" / "inner", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_block_that_writes_nothing_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "name", "old")
    with pytest.raises(SaveError, match="could not save"), replacing(folder, holding=("inner",)):
        pass  # nothing was written
    assert (folder / "inner" / "file").read_text() == "old"
    assert _names(tmp_path) == ["name"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_folder_that_stood_aside_comes_back_when_the_new_one_cannot_be_renamed(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path / "folder", "old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", fail)  # stands for the disk
    with pytest.raises((SaveError, KeyboardInterrupt)):
        _folder(folder, "new")
    assert (folder / "inner" / "file").read_text() == "old"
    assert _names(tmp_path) == ["folder"]


def test_a_half_written_file_of_this_process_is_no_hindrance(tmp_path: Path) -> None:
    beside = tmp_path / f".folder.writing-{_machine()}-{os.getpid()}"
    beside.mkdir()
    (beside / "half").write_text("half")
    _folder(tmp_path / "folder", "new")
    assert _names(tmp_path) == ["folder"]
    assert _names(tmp_path / "folder") == ["inner"]


def test_recovering_brings_back_a_folder_that_stood_aside(tmp_path: Path) -> None:
    _folder(tmp_path / "last", "old").rename(tmp_path / ".last.old")
    (tmp_path / ".last.writing-1").mkdir()
    recover(tmp_path / "last")
    assert (tmp_path / "last" / "inner" / "file").read_text() == "old"
    assert _names(tmp_path) == ["last"]


def test_recovering_keeps_a_folder_that_is_there(tmp_path: Path) -> None:
    _folder(tmp_path / ".last.old", "old")
    _folder(tmp_path / "last", "new")
    recover(tmp_path / "last")
    assert (tmp_path / "last" / "inner" / "file").read_text() == "new"


def test_recovering_where_nothing_happened_does_nothing(tmp_path: Path) -> None:
    recover(tmp_path / "run" / "last")
    assert _names(tmp_path) == []


def test_a_file_never_replaces_a_folder_nor_anything_but_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "pipe"):
        with pytest.raises(SaveError, match=f"{name} is .*which a file must not replace"):
            write_text(tmp_path / name, "new")
    assert (tmp_path / "folder" / "mine").read_text() == "mine"
    assert _names(tmp_path) == ["folder", "link", "pipe"]


@pytest.mark.parametrize("path", [".", "", "/", ".."])
def test_a_file_never_replaces_the_current_folder_or_one_above(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SaveError, match="is a folder, which a file must not replace"):
        write_text(Path(path), "new")


def test_a_folder_that_appears_while_a_file_is_written_stays(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "name") as beside:
            beside.write_text("new")
            (tmp_path / "name" / "mine").mkdir(parents=True)

    with pytest.raises(SaveError, match="is a folder"):
        write()
    assert _names(tmp_path) == ["name"]
    assert (tmp_path / "name" / "mine").is_dir()


def test_a_folder_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError, match="file is a file, which a folder must not replace"):
        _folder(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("names", [["mine"], ["inner", "mine"], [".git"]])
def test_a_folder_replaces_no_folder_with_other_files(names: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")
    with pytest.raises(SaveError, match=rf"folder holds {names[-1]}, which replacing it would remove"):
        _folder(folder, "new")
    assert _names(folder) == names


def test_a_folder_without_the_file_that_marks_it_as_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights").write_text("mine")
    with (
        pytest.raises(SaveError, match="folder holds weights"),
        replacing(tmp_path / "folder", holding=("about", "weights")),
    ):
        pass
    assert _names(tmp_path / "folder") == ["weights"]


def test_the_current_folder_is_not_replaced_though_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for path in (Path(), tmp_path / "inner", tmp_path, Path("/")):
        with pytest.raises(SaveError, match="is the current folder or one above it, which must not be replaced"):
            _folder(path, "new")


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    _folder(tmp_path / "folder", "new")
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "new"


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    _folder(tmp_path / "there" / "folder", "old")
    for name in ("folder", "file"):
        (tmp_path / name).symlink_to(tmp_path / "there" / name)  # that of the file is to be made
    _folder(tmp_path / "folder", "new")
    write_text(tmp_path / "file", "new")
    assert all((tmp_path / name).is_symlink() for name in ("folder", "file"))
    assert (tmp_path / "there" / "folder" / "inner" / "file").read_text() == "new"
    assert (tmp_path / "there" / "file").read_text() == "new"
    assert _names(tmp_path / "there") == ["file", "folder"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_weights_have_the_mode_of_the_umask_as_every_other_file(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "folder", holding=("about",)) as beside:
            beside.mkdir()
            save_file({"weights": np.zeros(3)}, beside / "weights")
            (beside / "about").write_text("")
        with replacing(tmp_path / "file") as beside:
            save_file({"weights": np.zeros(3)}, beside)
    finally:
        os.umask(before)
    paths = [tmp_path / name for name in ("folder/weights", "folder/about", "file")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [mode] * 3
    assert _names(tmp_path) == ["file", "folder"]


def _dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_half_written_is_removed_and_what_live_ones_write_is_not(tmp_path: Path) -> None:
    dead, live, here = _dead_process(), os.getppid(), _machine()
    left = [f".last.writing-{here}-{dead}", f".other.writing-{here}-{dead}", f".old.writing-00000000-{live}"]
    stays = [f".last.writing-{here}-{live}", f".last.writing-00000000-{dead}", ".notes.writing-by-hand"]
    for name in (*left, *stays):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    os.utime(tmp_path / left[-1], (time.time() - 2 * 24 * 3600,) * 2)  # of another machine, and old
    _folder(tmp_path / "last", "new")
    assert _names(tmp_path) == sorted(["last", *stays])


def test_a_scratch_folder_is_removed_and_so_are_those_of_dead_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dead, live = (f".push.writing-{_machine()}-{process}" for process in (_dead_process(), os.getppid()))
    for name in (dead, live):
        (tmp_path / "rt1" / name).mkdir(parents=True)
    with scratch_folder("push") as folder:
        (folder / "weights").touch()
        assert _names(tmp_path / "rt1") == sorted([live, folder.name])
    assert _names(tmp_path / "rt1") == [live]


def test_recovering_takes_a_name_as_it_is_and_not_as_a_pattern(tmp_path: Path) -> None:
    for name in ("run[1]", "run1"):
        (tmp_path / f".{name}.writing-1").mkdir()
    recover(tmp_path / "run[1]")
    assert _names(tmp_path) == [".run1.writing-1"]


def test_a_user_without_a_home_has_a_cache_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files._temporary_cache.cache_clear()
    cache = user_cache()
    assert cache == tmp_path / f"rt1-cache-{os.getuid()}"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # where no folder can be made
    assert user_cache() == cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    cache.rmdir()
    cache.symlink_to(tmp_path)  # another user's trap
    files._temporary_cache.cache_clear()
    assert user_cache() != cache
    files._temporary_cache.cache_clear()
