"""Saving so that nothing already saved is lost: write beside, fsync, rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rt1.errors import SaveError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write a file or folder to; it takes ``path``'s place when the block ends well.

    A file is synced to disk before the rename, a folder with every file in it. When the block fails the half-written
    file is removed and ``path`` is as before. A full or read-only disk raises :class:`SaveError`.
    """
    beside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        _remove(beside)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _sync_tree(beside)
        _swap(beside, path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):  # what hinders writing may hinder removing
            _remove(beside)
        raise SaveError(
            f"could not save {path}: {error.strerror or error}; what was there before is untouched; "
            "free space or choose another folder"
        ) from error
    except BaseException:
        _remove(beside)
        raise


def recover(path: Path) -> None:
    """Clear up after a process that was killed while it saved the folder ``path``.

    Killed between the two renames, it left the old folder under another name: that one comes back. Half-written
    folders are removed. Only for a path that no other process is writing.
    """
    _put_back(path)
    for half_written in path.parent.glob(f".{path.name}.writing-*"):
        _remove(half_written)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one go, or leave what was there."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one go, or leave what was there."""
    write_bytes(path, text.encode())


def user_cache() -> Path:
    """Return the folder of the user's cache that is ours."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rt1"


def _swap(beside: Path, path: Path) -> None:
    """Rename into place; a folder that is already there steps aside first, since rename cannot replace it."""
    old = aside(path)
    try:
        if path.is_dir():
            _remove(old)
            path.rename(old)
        beside.replace(path)
    except BaseException:
        _put_back(path)
        raise
    _remove(old)


def _put_back(path: Path) -> None:
    if aside(path).is_dir() and not path.exists():
        aside(path).rename(path)


def aside(path: Path) -> Path:
    """Return where the folder ``path`` stands while a new one takes its place."""
    return path.with_name(f".{path.name}.old")


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync_tree(child)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
