"""Output folders: which ones may be written into, and by one process at a time."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rt1.common.files import check_replaceable, first_names, real_path, recover, replacing
from rt1.errors import LockedError, SaveError

LOCK_FILE = ".rt1.lock"
_LOGS = (".err", ".log", ".out")


def check_folder(folder: Path, *, ours: Collection[str]) -> None:
    """Refuse an output folder that holds something else: a data set, for one, or the user's own files.

    Hidden files and logs do not count: the command's own output may go into a file in the folder.

    Args:
        folder: where a command will write. It may be missing.
        ours: relative paths. A folder that has one of them was written by the same command.

    Raises:
        SaveError: it is not for this command, or no folder is named.
    """
    if folder == Path():
        raise SaveError("the output folder is '' or '.', the current folder. Give the name of a folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SaveError(f"{folder} is a file, must be a folder. Give a new folder")
    names = sorted(path.name for path in folder.iterdir() if path.name[0] != "." and path.suffix not in _LOGS)
    if names and not any((folder / name).exists() for name in ours):
        raise SaveError(
            f"{folder} holds {first_names(names)} and none of {', '.join(ours)}, so it is for something else. "
            "Give a new or an empty folder"
        )


def check_outside(folder: Path, source: Path) -> None:
    """Raise :class:`SaveError` for an output folder within the folder that is read: it would count as part of it."""
    if real_path(source) in real_path(folder).parents:
        raise SaveError(f"{folder} lies in {source}, which is read. Give a folder outside of it")


@contextmanager
def working_in(folder: Path, *, ours: Collection[str]) -> Iterator[None]:
    """Check an output folder, make it, and keep other processes out of it while the block runs.

    A folder that was made and is still empty at the end is removed.

    Raises:
        SaveError: :func:`check_folder` refuses the folder, or it cannot be made.
        LockedError: another process works in it.
    """
    check_folder(folder, ours=ours)
    is_new = not folder.exists()
    try:
        with locked(folder, folder / LOCK_FILE):
            yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def replacing_alone(folder: Path, *, holding: Sequence[str]) -> Iterator[Path]:
    """Do as :func:`rt1.common.files.replacing`, locked against other processes. Clear up after killed ones.

    Raises:
        SaveError: as there.
        LockedError: another process is replacing it.
    """
    check_replaceable(folder, holding)
    with writing_alone(folder):
        recover(folder)
        with replacing(folder, holding=holding) as temporary:
            yield temporary


@contextmanager
def writing_alone(path: Path) -> Iterator[None]:
    """Keep other processes from writing the same file or folder while the block runs.

    Raises:
        LockedError: another process writes it.
        SaveError: its folder cannot be made.
    """
    target = real_path(path)
    with locked(path, target.with_name(f".{target.name}.lock")):
        yield


@contextmanager
def locked(path: Path, file: Path) -> Iterator[None]:
    """Hold the lock of ``path`` while the block runs. The system releases it when the process dies.

    Args:
        path: what is locked, for messages.
        file: the lock file, which names process and host. Its folder is made.

    Raises:
        LockedError: another process holds it.
        SaveError: the lock file's folder cannot be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"could not save {path}: {error.strerror}. Choose another folder") from error
    descriptor = _lock(path, file)
    try:
        yield
    finally:
        if descriptor is not None:
            file.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(path: Path, file: Path) -> int | None:
    """Return the locked file's descriptor, or None with a warning where the file system has no locks."""
    descriptor = None
    try:
        import fcntl

        while descriptor is None:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same(descriptor, file):  # its holder removed it just now
                os.close(descriptor)
                descriptor = None
        with suppress(OSError):  # a full disk: the lock holds without the name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BlockingIOError as error:
        assert descriptor is not None
        holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise LockedError(f"{path} is in use by {holder}. Wait until it ends, or write elsewhere") from error
    except (OSError, ImportError) as error:  # no locks on this file system, or a folder that is read only
        if descriptor is not None:
            os.close(descriptor)
        if getattr(error, "errno", None) != errno.EROFS:  # on a read-only disk no process writes
            warnings.warn(f"{path} cannot be locked ({error}). Let no other process write there", stacklevel=4)
        return None
    return descriptor


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
