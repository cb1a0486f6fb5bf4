"""Jobs in this process and in others."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rt1.common.processes import free_cores, run_jobs
from rt1.errors import WorkerError


def test_one_worker_runs_the_jobs_here_in_order_after_preparing_once() -> None:
    told: list[str] = []
    results = list(run_jobs(abs, [-1, -2, -3], workers=1, prepare=told.append, arguments=("ready",)))
    assert results == [(0, 1), (1, 2), (2, 3)]
    assert told == ["ready"]


def test_no_jobs_give_no_results() -> None:
    assert list(run_jobs(abs, [], workers=4)) == []


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"workers is -1. Give a number of processes"):
        list(run_jobs(abs, [1, 2], workers=-1))


def test_this_process_may_use_at_least_one_core() -> None:
    assert 1 <= free_cores() <= (os.cpu_count() or 1)


def test_two_workers_are_prepared_and_give_every_result_with_its_index(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    found = dict(run_jobs(os.path.abspath, names, workers=2, prepare=os.chdir, arguments=(str(tmp_path),)))
    assert found == {index: str(tmp_path / name) for index, name in enumerate(names)}
    assert Path.cwd() != tmp_path


def test_an_error_in_a_worker_comes_back_as_it_was() -> None:
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative input"):
        list(run_jobs(math.sqrt, [1.0, -1.0], workers=2))


def test_a_killed_worker_is_one_line_with_the_cure() -> None:
    with pytest.raises(WorkerError, match=r"a worker process died .* Run the command again with fewer workers"):
        list(run_jobs(os._exit, [1, 1], workers=2))


_PARENT = """
import functools, os, time
from rt1.common.processes import run_jobs
list(run_jobs(time.sleep, [600, 600], workers=2, prepare=functools.partial(os.write, 1, b"ready\\n")))
"""
_INTERRUPTED = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    {_PARENT.strip().replace(chr(10), "; ")}
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_however_it_ends(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
            process.send_signal(number)
            process.communicate(timeout=30)  # the pipe ends with the last process that may write to it
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("ready", [False, True])
def test_ctrl_c_ends_starting_and_busy_workers_at_once_and_quietly(*, ready: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            if ready:
                assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
            else:
                while len(psutil.Process(process.pid).children()) < 2:
                    time.sleep(0.002)
            os.killpg(process.pid, signal.SIGINT)
            output, errors = process.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (output.replace(b"ready\n", b""), errors) == (b"interrupted\n", b"")


def test_a_job_apart_runs_in_another_process_though_it_is_the_only_one_and_leaves_ctrl_c_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    try:
        handlers = [handler for _, handler in run_jobs(signal.getsignal, [signal.SIGINT], workers=1, apart=True)]
        assert handlers == [signal.SIG_IGN]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_stops_once_its_launcher_is_gone() -> None:
    process = "import time; from rt1.common.processes import stop_with_launcher as stop; stop(); print(flush=True); "
    start = f"subprocess.Popen([sys.executable, '-c', {process + 'time.sleep(60)'!r}], stdout=subprocess.PIPE)"
    launcher = [sys.executable, "-c", f"import subprocess, sys; {start}.stdout.readline()"]
    ended = subprocess.run(launcher, stderr=subprocess.PIPE, timeout=30, check=True)
    assert ended.stderr == b""  # this pipe ends with the last process that may write to it
