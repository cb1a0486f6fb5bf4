"""The first look at a file whose library can crash or hang: in a process of its own, within a time limit.

The process opens the file as its later use does and scans it. It is started when needed, serves several files and ends
by itself when idle. A look that passed is remembered, so that only the first open of a file pays for it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from rt1.common.border import check_no_pointer, reading
from rt1.errors import DataError

COPY_AGAIN = "Copy it again from where it came from"
Stamp = tuple[int, int, int]
"""Size in bytes, and the times of the last change of the content and of the inode, ns."""

_IMPORT_SECONDS = 120.0
_IDLE_SECONDS = 10.0
_CHILD = """
import json, signal, sys
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]))
sys.path[:] = json.loads(sys.argv[2])
from rt1.common.first_look import serve
serve(sys.argv[3])
"""


def stamp_of(path: Path) -> Stamp:
    """Return what changes when a file does.

    Raises:
        DataError: there is no such file, or it is a git-lfs pointer.
    """
    check_no_pointer(path)
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}. {COPY_AGAIN}") from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_unchanged(path: Path, stamp: Stamp) -> None:
    """Raise :class:`DataError` if a file is no longer the one of the stamp."""
    if stamp_of(path) != stamp:
        raise DataError(f"{path} has changed since it was opened. Open the data set again")


def time_limits(size: int) -> tuple[float, float]:
    """Return the CPU time and the wall time that the look at a file of ``size`` bytes may take, seconds.

    The wall time has room for slow disks and busy machines: a hang in a library burns CPU time.
    """
    cpu = 1.0 + size / 5e6
    return cpu, 20.0 + 10.0 * cpu


def first_look(function: str, path: Path, *arguments: object, library: str) -> Stamp:
    """Let a process of its own look at a file, unless a look at the same file and arguments has passed already.

    Args:
        function: ``module:name``, called with ``str(path)`` and the arguments. What it raises is reported.
        path: the file.
        arguments: plain data for JSON.
        library: what reads the file, for errors.

    Returns:
        The stamp of the file, taken before the look.

    Raises:
        DataError: of the function, or the library crashed or did not finish.
    """
    stamp = stamp_of(path)
    key = (function, str(path), stamp, json.dumps(arguments))
    with _LOCK:
        if key not in _PASSED:
            _look(function, path, stamp[0], arguments, library)
            _PASSED.add(key)
    return stamp


def _look(function: str, path: Path, size: int, arguments: tuple[object, ...], library: str) -> None:
    limits = time_limits(size)
    request = {"folder": str(Path.cwd()), "arguments": [str(path), *arguments], "limits": limits}
    code = 0
    for _ in range(2):  # a process that was idle may have ended just now
        child = _child(function)
        if child is None:
            with reading(path, cure=COPY_AGAIN):
                _function(function)(str(path), *arguments)
            return
        if (reply := child.ask(request)) is not None:
            if "error" in reply:
                raise DataError(reply["error"])
            return
        if code := child.end():
            break
    raise DataError(f"{path} cannot be read: {library} {_end_of(code, limits)}. {COPY_AGAIN}")


def _end_of(code: int, limits: tuple[float, float]) -> str:
    cpu, wall = limits
    if code == -signal.SIGPROF:
        return f"did not finish within {cpu:.1f} s of CPU time"
    if code == -signal.SIGALRM:
        return f"did not finish within {wall:.1f} s"
    return f"crashed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _function(name: str) -> Any:  # noqa: ANN401 (any function)
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


class _Child:
    """A process that looks at files with one function."""

    def __init__(self, function: str) -> None:
        self.owner = os.getpid()
        command = [sys.executable, "-I", "-c", _CHILD, str(_IMPORT_SECONDS), json.dumps(sys.path), function]
        self._process: Any = subprocess.Popen(  # noqa: S603 (our own code)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if self._reply() is None:
            raise ChildProcessError(f"it ended with exit code {self.end()} before it was ready")

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the reply, or None if the process ended."""
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return self._reply()
        except BrokenPipeError:
            return None
        except BaseException:  # interrupted: the reply would be taken for that to the next request
            self.end()
            raise

    def is_usable(self) -> bool:
        """Return whether it runs and belongs to this process. One that ended by itself is cleaned up."""
        if self.owner == os.getpid() and self._process.poll() is not None:
            self.end()
        return self.owner == os.getpid() and self._process.returncode is None

    def end(self) -> int:
        """End the process and return its exit code."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            return self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _reply(self) -> dict[str, Any] | None:
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None


_LOCK = threading.Lock()
_PASSED: set[tuple[str, str, Stamp, str]] = set()
_CHILDREN: dict[str, _Child] = {}


def _child(function: str) -> _Child | None:
    """Return a process that is ready. None, with a warning, where none can be started."""
    child = _CHILDREN.get(function)
    if child is None or not child.is_usable():
        try:
            child = _CHILDREN[function] = _Child(function)
        except OSError as error:
            message = f"no process of its own can look at files first ({error}). A damaged one may crash this process"
            warnings.warn(message, stacklevel=5)
            return None
    return child


@atexit.register
def end_children() -> None:
    """End the processes of this one."""
    for child in _CHILDREN.values():
        if child.owner == os.getpid():
            child.end()
    _CHILDREN.clear()


def serve(function: str) -> None:
    """Look at the files asked for on stdin, a JSON line each, until idle: what the process runs.

    Only a signal of the system's own timers ends a library that hangs, so these are the time limits.
    """
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C. The parent ends this process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF, signal.SIGALRM})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    look = _function(function)
    _set_timers(0.0, 0.0)
    os.write(replies, b"{}\n")
    while select.select([0], [], [], _IDLE_SECONDS)[0] and (line := sys.stdin.buffer.readline()):
        request = json.loads(line)
        os.chdir(request["folder"])  # the path may be relative
        _set_timers(*request["limits"])
        reply = {}
        try:
            with reading(request["arguments"][0], cure=COPY_AGAIN):
                look(*request["arguments"])
        except DataError as error:
            reply["error"] = str(error)
        _set_timers(0.0, 0.0)
        os.write(replies, json.dumps(reply).encode() + b"\n")


def _set_timers(cpu: float, wall: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, cpu)
    signal.setitimer(signal.ITIMER_REAL, wall)
