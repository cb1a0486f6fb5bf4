"""How fast does it learn, and in how much memory? Full-size RT-1, 300x300, six images a window, fp32, two threads.

Run it on two cores with nothing else running: ``python benchmarks/train.py``. Speeds are CPU time (seconds of one core,
all threads added) as ratios to other work of the same process and run; the peak of each kind of update is taken in a
process of its own. The data is made up (benchmarks/fractal.py). ``--gpu`` measures a GPU instead. The last line is a
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from fractal import NAME, FractalSize, write_fractal

from rt1.common.system import peak_memory, tune_allocator
from rt1.data.pipeline.loader import Batch
from rt1.data.rlds.open_x import open_x_source
from rt1.presets import preset
from rt1.train.run import Run, begin
from rt1.train.update import do_update

THREADS = 2
CLIP = 16
SIZE = FractalSize(episodes=40, episodes_per_shard=20, distinct_images=40)

TARGETS: dict[str, Callable[[float], bool]] = {
    "clip_vs_window": lambda value: value >= 2.2,
    "window_b4_vs_matmul": lambda value: value <= 30.0,
    "peak_gb_b2": lambda value: value <= 3.0,
    "peak_gb_b2_checkpointing": lambda value: value <= 1.2,
    "data_wait": lambda value: value < 0.05,
    "two_ranks_loss_difference": lambda value: value <= 1e-4,
}
ASKED = ("clip_vs_window", "window_b4_vs_matmul", "clip_vs_matmul_per_4_windows", "peak_gb_b2",
         "peak_gb_b2_checkpointing", "data_wait")  # fmt: skip


def main() -> None:
    """Measure everything, print a table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=3, help="updates of each kind, after one that is not counted")
    parser.add_argument("--gpu", action="store_true", help="measure a GPU instead")
    parser.add_argument("--folder", type=Path, help="where data and runs are kept; default: a folder that is removed")
    parser.add_argument("--peak", help="print the peak of this process in GB with these activations; used by itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rt1-benchmark-") as temporary:
        folder = options.folder or Path(temporary)
        write_fractal(folder / "data", SIZE)
        if options.peak:
            print(json.dumps(measure_peak(folder, options.peak)))
        elif options.gpu:
            measure_gpu(folder)
        else:
            report(measure(folder, options.updates))


def measure(folder: Path, updates: int) -> dict[str, float]:
    """Return all figures."""
    torch.set_num_threads(THREADS)
    tune_allocator(keep=True)  # as rt1 train does
    window, clip = start(folder, "window", batch_size=4), start(folder, "clip", batch_size=CLIP, windows_per_clip=CLIP)
    window_costs, clip_costs, matmul_costs, waits = [], [], [], []
    with closing(stream(window)) as windows, closing(stream(clip)) as clips:
        for number in range(updates + 1):  # in turns, so that all see the same machine
            batch, wait = timed(lambda: next(windows), wall=True)
            window_cost, spent = both_times(window, batch)
            clip_cost, _ = both_times(clip, next(clips))
            matmul_cost = matmul()
            if number:
                window_costs.append(window_cost)
                clip_costs.append(clip_cost)
                matmul_costs.append(matmul_cost)
                waits.append(wait / (wait + spent))
    window_s, clip_s, matmul_s = (statistics.median(costs) for costs in (window_costs, clip_costs, matmul_costs))
    return {
        "matmul_cpu_s": matmul_s,
        "window_b4_cpu_s": window_s,
        "clip_cpu_s": clip_s,
        "clip_vs_window": (CLIP / clip_s) / (4 / window_s),
        "window_b4_vs_matmul": window_s / matmul_s,
        "clip_vs_matmul_per_4_windows": clip_s / matmul_s * 4 / CLIP,
        "peak_gb_b2": peak(folder, "selective"),
        "peak_gb_b2_checkpointing": peak(folder, "full"),
        "data_wait": statistics.median(waits),
        "two_ranks_loss_difference": compare_ranks(folder),
    }


def start(folder: Path, name: str, **changes: object) -> Run:
    """Begin a run of the full-size network with the paper's settings."""
    config = replace(
        preset("paper"), **{"threads": THREADS, "loader_threads": 1, "held_out": 0.0, "device": "cpu", **changes}
    )
    return begin(open_x_source(folder / "data", dataset=NAME), config, folder / name)


def stream(run: Run) -> Iterator[Batch]:
    """Return the run's batches, read ahead as in training."""
    return run.data.train.stream(run.update)


def both_times(run: Run, batch: Batch) -> tuple[float, float]:
    """Return the CPU and the wall-clock seconds of an update: forward, backward, optimizer."""
    begun = time.perf_counter()
    _, cpu = timed(lambda: do_update(run, batch))
    return cpu, time.perf_counter() - begun


def timed(work: Callable[[], Any], *, wall: bool = False) -> tuple[Any, float]:
    """Return what some work returns, and its CPU or wall-clock seconds."""
    clock = time.perf_counter if wall else time.process_time
    begun = clock()
    result = work()
    return result, clock() - begun


def matmul(size: int = 2048) -> float:
    """Return the CPU seconds of a product of two matrices, the median of several."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    return statistics.median(timed(lambda: one @ other)[1] for _ in range(5))


def peak(folder: Path, activations: str) -> float:
    """Return the peak memory, GB, of a process that does updates of two windows."""
    words = [sys.executable, __file__, "--peak", activations, "--folder", str(folder)]
    return float(json.loads(subprocess.run(words, check=True, capture_output=True, text=True, encoding="utf-8").stdout))  # noqa: S603 (our own words)


def measure_peak(folder: Path, activations: str) -> float:
    """Do two updates of two windows in this process, and return its peak memory, GB (1e9 bytes)."""
    torch.set_num_threads(THREADS)
    tune_allocator(keep=activations != "full")  # as rt1 train does
    run = start(folder, f"peak-{activations}", batch_size=2, activations=activations)
    for _ in range(2):
        do_update(run, run.data.train.batch(run.update))
    peak = peak_memory()
    assert peak is not None  # there are no figures on Windows
    return peak / 1e9


def compare_ranks(folder: Path) -> float:
    """Return how far the losses of 20 updates of two ranks (gloo, BatchNorm over both) lie from those of one, at most.

    The preset is debug; dropout and drop-connect are on.
    """
    words = ["-m", "rt1", "train", "--data", str(folder / "data"), "--open-x", NAME, "--preset", "debug"]
    words += ["--batch-norm", "sync", "--log-every", "1", "--device", "cpu"]
    losses = []
    for ranks in (1, 2):
        out = folder / f"ranks-{ranks}"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        subprocess.run([sys.executable, *launcher, *words, "--out", str(out)], check=True, capture_output=True)  # noqa: S603
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        losses.append([record["loss"] for record in records])
    assert len(losses[0]) == len(losses[1]) == 20
    return max(abs(one - two) for one, two in zip(*losses, strict=True))


def measure_gpu(folder: Path) -> None:
    """Print images per second and the share of a measured matmul ceiling for precision, compilation and batch."""
    if not torch.cuda.is_available():
        print(json.dumps({"gpu": "not run: there is no CUDA device"}))
        return
    rows = []
    for precision, compiled in (("fp32", False), ("bf16", False), ("bf16", True)):
        ceiling = gpu_ceiling(torch.float32 if precision == "fp32" else torch.bfloat16)
        for batch_size in (8, 32, 128):
            name = f"gpu-{precision}-{compiled}-{batch_size}"
            run = start(folder, name, device="cuda", precision=precision, compile=compiled, batch_size=batch_size,
                        activations="kept", threads=0)  # fmt: skip
            batch = run.data.train.batch(0)
            for _ in range(5):
                do_update(run, batch)
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(10):
                do_update(run, batch)
            torch.cuda.synchronize()
            images = 10 * batch_size * run.model.config.window / (time.perf_counter() - begun)
            # 3.7 GFLOP an image forward and 4.8 GFLOP a step of the transformer's window, backward twice as much.
            share = images * 3 * (3.7e9 + 4.8e9 / 6) / ceiling
            rows.append({"precision": precision, "compile": compiled, "batch_size": batch_size,
                         "images_per_s": round(images), "share_of_matmul": round(share, 3)})  # fmt: skip
            print(rows[-1], flush=True)
            del run
            torch.cuda.empty_cache()
    print(json.dumps({"gpu": torch.cuda.get_device_name(), "rows": rows}))


def gpu_ceiling(kind: torch.dtype) -> float:
    """Return the operations per second of a large matrix product."""
    one = torch.randn(8192, 8192, device="cuda", dtype=kind)
    for _ in range(3):
        one @ one
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(10):
        one @ one
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - begun)


def report(figures: dict[str, float]) -> None:
    """Print the table and the JSON object."""
    print(f"{'figure':30} {'value':>12}  target")
    for name, value in figures.items():
        verdict = ("met" if TARGETS[name](value) else "MISSED") if name in TARGETS else ""
        print(f"{name:30} {value:>12.4g}  {verdict}")
    print(json.dumps({name: round(figures[name], 4) for name in ASKED}))


if __name__ == "__main__":
    main()
