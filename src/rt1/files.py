"""Saving so that nothing already saved is lost: write beside, fsync, rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SaveError(OSError):
    """A file could not be saved (full disk, read-only folder); what was there before is untouched."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write a file or folder to; it takes ``path``'s place when the block ends well.

    A file is synced to disk before the rename, a folder with every file in it. When the block fails the half-written
    file is removed and ``path`` is as before. A full or read-only disk raises :class:`SaveError`.
    """
    beside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    _remove(beside)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _sync_tree(beside)
        _swap(beside, path)
        _sync(path.parent)
    except OSError as error:
        _remove(beside)
        raise SaveError(
            f"could not save {path}: {error.strerror or error}; what was there before is untouched; "
            "free space or choose another folder"
        ) from error
    except BaseException:
        _remove(beside)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one go, or leave what was there."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one go, or leave what was there."""
    write_bytes(path, text.encode())


def _swap(beside: Path, path: Path) -> None:
    """Rename into place; a folder that is already there steps aside first, since rename cannot replace it."""
    if not path.is_dir():
        beside.replace(path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    _remove(old)
    path.rename(old)
    try:
        beside.rename(path)
    except OSError:
        old.rename(path)
        raise
    _remove(old)


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
