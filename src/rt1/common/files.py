"""Saving so that nothing already saved is lost: write a temporary file, fsync, rename."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from safetensors import SafetensorError

from rt1.errors import SaveError

_HALF_WRITTEN = re.compile(r"\..+\.writing-(?:([0-9a-f]{8})-)?(\d{1,9})")
_ABANDONED_SECONDS = 24 * 3600
"""Age at which a half-written file of another machine counts as left behind: nothing takes so long to write."""


@contextmanager
def replacing(path: Path, *, holding: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, which replaces ``path`` when the block ends without an error.

    A file is synced to disk before the rename, a folder with every file in it. All files get the mode that the umask
    gives. When the block fails the half-written file is removed and ``path`` is as before.

    Args:
        path: a symbolic link stays and its target is replaced.
        holding: empty for a file. For a folder see :func:`check_replaceable`.

    Raises:
        SaveError: a full or read-only disk, or something at ``path`` that :func:`check_replaceable` refuses.
    """
    check_replaceable(path, holding)
    target = real_path(path)
    temporary = _temporary_path(target)
    try:
        _remove(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        yield temporary
        _settle(temporary)
        check_replaceable(path, holding)
        _swap(temporary, target)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:  # as safetensors reports a full disk, for one
        with suppress(OSError):  # what hinders writing may hinder removing
            _remove(temporary)
        reason = (error.__cause__ if isinstance(error, SaveError) else None) or error
        raise SaveError(
            f"could not save {path}: {getattr(reason, 'strerror', None) or reason}. What was there before is "
            "untouched. Free space or choose another folder"
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def check_replaceable(path: Path, holding: Sequence[str] = (), *, suffix: str = "") -> None:
    """Refuse to replace what is not ours.

    A file replaces regular files only. A folder replaces an empty folder or one of its own kind, never the current
    folder or one above it.

    Args:
        path: what would be replaced. It may be missing.
        holding: empty for a file. For a folder the names or patterns of its files. The first one marks the kind of
            folder: a folder without that file, or with files of other names, is refused.
        suffix: ending of the only files that may be replaced, for a file that a user names.

    Raises:
        SaveError: it must not be replaced.
    """
    target = real_path(path)
    if not target.exists():
        return
    if not holding:
        _check_file(path, target, suffix)
        return
    if not target.is_dir():
        raise SaveError(f"{path} is a file, which a folder must not replace. Give a new folder")
    current = Path.cwd()
    if target in (current, *current.parents):
        raise SaveError(f"{path} is the current folder or one above it, which must not be replaced. Give a new folder")
    names = sorted(entry.name for entry in target.iterdir())
    if holding[0] in names:
        names = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in holding)]
    if names:
        raise SaveError(f"{path} holds {first_names(names)}, which replacing it would remove. Give a new folder")


def _check_file(path: Path, target: Path, suffix: str) -> None:
    if not target.is_file():
        kind = "a folder" if target.is_dir() else "no regular file"
        raise SaveError(f"{path} is {kind}, which a file must not replace. Give the name of a file")
    if suffix and target.suffix != suffix:
        raise SaveError(f"{path} exists and is no {suffix} file. Give the name of a new file")


def first_names(names: Sequence[str]) -> str:
    """Return the first three of some names for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def recover(path: Path) -> None:
    """Clear up after a process that was killed while it saved the folder ``path``.

    Killed between the two renames, it left the old folder under another name: that one comes back. Half-written
    folders are removed. Only for a path that no other process is writing.
    """
    target = real_path(path)
    _put_back(target)
    for half_written in target.parent.glob(f".{glob.escape(target.name)}.writing-*"):
        _remove(half_written)


def copy_existing(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy the files of these names from one folder to another, as far as they are there."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one go, or leave what was there."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one go, or leave what was there."""
    write_bytes(path, text.encode())


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder in the user's cache, and remove it afterwards, as those of killed processes."""
    path = _temporary_path(user_cache() / name)
    _remove_abandoned(path.parent)
    try:
        _remove(path)
        path.mkdir()
        yield path
    finally:
        _remove(path)


def user_cache() -> Path:
    """Return the folder of the user's cache that is ours, in the temporary folder where the user has no home."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rt1"
    except RuntimeError:  # HOME is not set, and the user has no entry in the password file
        return _temporary_cache()
    return folder if _is_writable(folder) else _temporary_cache()


@cache
def _is_writable(folder: Path) -> bool:
    """Make a folder where it is missing, and return whether that is possible. Containers often have ``/`` as home."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK | os.X_OK)


@cache
def _temporary_cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"rt1-cache-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            return folder
    return Path(tempfile.mkdtemp(prefix="rt1-cache-"))  # another user has put something there


def aside(path: Path) -> Path:
    """Return where the folder ``path`` stands while a new one takes its place."""
    return path.with_name(f".{path.name}.old")


def real_path(path: Path) -> Path:
    """Return the absolute path behind symbolic links, also where they form a loop. ``.`` has a name then."""
    return Path(os.path.realpath(path))


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing-{_machine()}-{os.getpid()}")


@cache
def _machine() -> str:
    """Return eight digits of this machine and this numbering of processes: containers have numberings of their own."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


@cache
def _remove_abandoned(folder: Path) -> None:
    """Remove what processes that are dead have left half-written in a folder, once per process and folder."""
    for path in folder.glob(".*.writing-*"):
        match = _HALF_WRITTEN.fullmatch(path.name)
        with suppress(OSError):  # another process removes it, too, or it belongs to another user
            if match is not None and _is_abandoned(path, match[1], int(match[2])):
                _remove(path)


def _is_abandoned(path: Path, machine: str | None, process: int) -> bool:
    if machine == _machine():
        with suppress(ModuleNotFoundError):  # a robot may lack it
            import psutil

            return not psutil.pid_exists(process)
    return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS


def _swap(temporary: Path, path: Path) -> None:
    """Rename into place. An old folder is renamed first, since a rename cannot replace it."""
    if not temporary.is_dir():
        temporary.replace(path)
        return
    old = aside(path)
    try:
        if path.is_dir():
            _remove(old)
            path.rename(old)
        temporary.replace(path)
    except BaseException:
        _put_back(path)
        raise
    _remove(old)


def _put_back(path: Path) -> None:
    if aside(path).is_dir() and not path.exists():
        aside(path).rename(path)


def _settle(path: Path) -> None:
    """Sync a file or a whole folder to disk. A file that its writer closed to others gets the mode of the umask."""
    if path.is_dir():
        for child in path.iterdir():
            _settle(child)
    elif not path.stat().st_mode & 0o077:  # safetensors makes such files, whatever the umask
        with suppress(PermissionError):  # a file system with modes of its own
            path.chmod(_usual_mode(path.parent))
    _sync(path)


def _usual_mode(folder: Path) -> int:
    """Return the mode of a new file in a folder: found out by making one, as asking for the umask would change it."""
    probe = _temporary_path(folder / "mode")
    descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


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
