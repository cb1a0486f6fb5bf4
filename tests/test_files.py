"""Saving: whole or not at all, and what was there before stays."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rt1.errors import SaveError
from rt1.files import recover, replacing, write_bytes, write_text


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _folder(path: Path, text: str) -> Path:
    with replacing(path) as beside:
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
    with replacing(path) as beside:
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
        f"could not save {file}: File too large; what was there before is untouched; "
        "free space or choose another folder"
    )
    assert file.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


def test_a_path_below_a_file_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(SaveError, match=r"could not save .*/file/inner: .*; free space or choose another folder"):
        write_text(tmp_path / "file" / "inner", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_block_that_writes_nothing_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "name", "old")
    with pytest.raises(SaveError, match="could not save"), replacing(folder):
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
    beside = tmp_path / f".folder.writing-{os.getpid()}"
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
