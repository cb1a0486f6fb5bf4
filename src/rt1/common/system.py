"""What a result was made on: processor, memory in use, commit of the code, command."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from rt1.common.processor import processor

_PROC = Path("/proc")


def describe_machine() -> str:
    """Return processor, cores and memory in words."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GB memory"
    return f"{processor()}, {os.cpu_count()} cores, {memory}, {platform.system()}, Python {platform.python_version()}"


def commit() -> str:
    """Return the commit of the code that runs, with ``+`` if it was changed since, or ``unknown`` outside git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        # The words are ours; nothing a user typed reaches the command.
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another repository
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command_line() -> str | None:
    """Return the ``rt1`` command that this process runs, None in another program."""
    program = Path(sys.argv[0])
    is_ours = program.name == "rt1" or program.parts[-2:] == ("rt1", "__main__.py")
    return shlex.join(["rt1", *sys.argv[1:]]) if is_ours else None


class PeakMemory:
    """Watches the memory of this process and all its children."""

    def __init__(self, *, every: float = 1.0) -> None:
        self.gigabytes = 0.0
        """Most that they held so far, GB (1e9 bytes)."""
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="rt1-peak-memory")

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(self._every)  # also looks once at the end, however short the work was
            self.gigabytes = max(self.gigabytes, tree_memory() / 1e9)


def peak_memory() -> int | None:
    """Return the most bytes that this process has held so far. None where the system does not say."""
    if _PROC.is_dir():  # not getrusage: its figure begins with that of the process that started this one
        status = (_PROC / "self" / "status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tune_allocator(*, keep: bool) -> None:
    """Tell glibc's malloc what to do with large freed blocks. Another C library is left as it is.

    Args:
        keep: keep them for the next ones instead of giving them back to the system, which then clears every page
            again: half the CPU time of training with large maps. False gives each block back at once, for the least
            memory.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    malloc = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # malloc.h
    if keep:
        malloc(mmap_max, 0)
        malloc(trim_threshold, 2**31 - 1)
    else:
        malloc(mmap_threshold, 1 << 16)
        malloc(trim_threshold, 1 << 16)


def tree_memory(root: int | None = None) -> int:
    """Return the bytes held by a process and its descendants, shared pages counted once where the system does."""
    try:
        process = psutil.Process(root)
        processes = [process, *process.children(recursive=True)]
    except psutil.Error:  # it has ended
        return 0
    return sum(map(_own_memory, processes))


def _own_memory(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it ended meanwhile, or is another user's
        return 0
    return int(getattr(memory, "pss", memory.uss))
