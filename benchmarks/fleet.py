"""How many robots one server carries with RT-1 at full size: ``python benchmarks/server.py --fleet``.

The network's transformer is trained for a moment (trained.py), so that lower precision keeps its tokens. Robots ask at
3 Hz over the real protocol, out of step, from this process. The server is `rt1 serve` in a process of its own.

A core counts if the server may run on it. The robots' process uses the same cores, and its CPU time is not the
server's: ``server_cpu_cores`` is the server's own CPU time in a second.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from server import RATE, Robot, fleet, percentiles, refusals, served, text_table
from trained import cpu_isa, trained_checkpoint

from rt1.model.rt1 import RT1Config

LIMIT_MS = 333.0
"""The 99th percentile of a call must stay below a period."""
UPDATES = 60


def measure_full_fleet(folder: Path, images: NDArray[np.uint8], *, engine: str | None, seconds: float) -> None:
    """Print how many robots the server carries, then the JSON object."""
    matmul_ms = _matmul_ms()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # of the server's export
    checkpoint = trained_checkpoint(folder, RT1Config(), updates=UPDATES)
    text_table(RT1Config().text_width).save(folder / "table.safetensors")
    engine = engine or "auto"
    options = ("--engine", engine, "--max-latency", str(LIMIT_MS / 1e3))
    print(f"\n== fleet of RT-1 at full size at {RATE:g} Hz, {engine}", flush=True)
    with served(checkpoint, folder / "table.safetensors", *options) as server:
        figures = _most_robots(server.url, server.pid, server.room, images, seconds)
        cores = len(psutil.Process(server.pid).cpu_affinity() or [])
    robots = figures["robots"] if figures["carried"] else 0
    figures |= {"fleet_robots_per_core": robots / cores, "cores": cores}
    print(json.dumps({**figures, "matmul_ms": round(matmul_ms, 1), "cpu_isa": cpu_isa(), "engine": engine}))


def _most_robots(url: str, pid: int, room: int, images: NDArray[np.uint8], seconds: float) -> dict[str, Any]:
    """Find the number of robots with short runs, from the server's own estimate down; then measure it for long."""
    robots = room
    while robots > 1 and not _drive(url, pid, robots, images, seconds / 6)["carried"]:
        robots -= max(1, robots // 8)
    while not (figures := _drive(url, pid, robots, images, seconds))["carried"] and robots > 1:
        robots -= 1
    return figures


def _drive(url: str, pid: int, robots: int, images: NDArray[np.uint8], seconds: float) -> dict[str, Any]:
    """Drive robots for some seconds and print what became of their calls."""
    server, start = psutil.Process(pid), time.perf_counter()
    before = sum(server.cpu_times()[:2])
    driven = fleet(url, robots, images, seconds, RATE)
    spent = (sum(server.cpu_times()[:2]) - before) / (time.perf_counter() - start)
    milliseconds = _milliseconds(driven)
    p99 = float(np.percentile(milliseconds, 99)) if milliseconds else float("nan")
    requests = sum(len(robot.requests) for robot in driven)
    lost, refused = requests - len(milliseconds), refusals(driven)
    print(
        f"{robots} robots, {seconds:g} s: p50 p95 p99 max {percentiles(milliseconds)} ms, requests {requests}, "
        f"lost {lost}, late {sum(robot.late for robot in driven)}, refused robots {len(refused)}, {spent:.2f} cores",
        *refused[:1],
        sep="\n  ",
        flush=True,
    )
    carried = p99 < LIMIT_MS and lost == 0 and not refused
    return {
        "robots": robots,
        "carried": carried,
        "refused": len(refused),
        "requests": requests,
        "lost": lost,
        "p99_ms": round(p99, 1),
        "server_cpu_cores": round(spent, 2),
    }


def _milliseconds(driven: list[Robot]) -> list[float]:
    return [1e3 * request.seconds for robot in driven for request in robot.requests if request.action is not None]


def _matmul_ms() -> float:
    """Return how long a product of two float32 matrices of 2048 x 2048 takes with one thread, median of 9."""
    torch.set_num_threads(1)
    left, right = torch.randn(2, 2048, 2048)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        torch.mm(left, right)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))
