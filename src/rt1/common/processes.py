"""Independent simulator jobs on several processes, results as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from rt1.common.progress import EpisodeCount, counts
from rt1.common.signals import stop_signals
from rt1.errors import WorkerError

Job = TypeVar("Job")
Result = TypeVar("Result")


def free_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int = 0,
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    apart: bool = False,
) -> Iterator[tuple[int, Result]]:
    """Yield ``(index, work(jobs[index]))`` in the order of completion.

    Args:
        work: a module-level function.
        jobs: picklable descriptions, small.
        workers: processes. 0 means one per free core, 1 runs in this process unless ``apart``.
        prepare: called once in each process with ``arguments`` before its first job.
        arguments: see ``prepare``.
        apart: run every job in another process, and leave Ctrl-C and SIGHUP to this one: for jobs beside work that
            goes on.

    Raises:
        ValueError: a negative number of workers.
        WorkerError: a process was killed.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}. Give a number of processes, or 0 for one per core")
    workers = min(workers or free_cores(), len(jobs))
    if workers <= 1 and not apart:
        if prepare is not None:
            prepare(*arguments)
        for index, job in enumerate(jobs):
            yield index, work(job)
        return
    # Spawned, not forked: GL contexts and torch threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    for count in counts:
        count.share()
    settings = (apart, tuple(counts), prepare, arguments)
    with (
        ProcessPoolExecutor(max(1, workers), mp_context=context, initializer=_prepare, initargs=settings) as pool,
        _ended_on_ctrl_c(pool),
    ):
        with _ctrl_c_blocked():  # also in the workers, which inherit it
            futures: dict[Future[Result], int] = {pool.submit(work, job): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()


@contextmanager
def _ended_on_ctrl_c(pool: ProcessPoolExecutor) -> Iterator[None]:
    """End the workers that the block starts, at once if it is interrupted or left, else after the jobs that run."""
    others = multiprocessing.active_children()
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process died (out of memory, or killed). Run the command again with fewer workers"
        ) from error
    except (KeyboardInterrupt, GeneratorExit):  # nobody waits for the jobs that run
        for process in set(multiprocessing.active_children()).difference(others):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Let Ctrl-C wait while the block runs."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _prepare(
    apart: bool,  # noqa: FBT001
    counted: tuple[EpisodeCount, ...],
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> None:
    counts[:] = counted
    threading.Thread(target=_end_with_parent, daemon=True, name="rt1-parent-watch").start()
    if apart:
        for number in set(stop_signals()) - {signal.SIGTERM}:  # by which a broken pool ends its workers
            signal.signal(number, signal.SIG_IGN)
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """Wait for the parent's end, however it comes, and end this process: it would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def stop_with_launcher() -> None:
    """Let this process get SIGTERM once the process that started it is gone, however that one ended."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="rt1-launcher-watch").start()
