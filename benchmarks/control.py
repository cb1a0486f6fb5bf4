"""How fast is a control step in each engine? RT-1 at full size, one robot, one thread, against a matrix product.

Run it with nothing else running: ``python benchmarks/control.py``. Ratios are of CPU time, medians over steps that all
engines take in turns with the product. The last line is a JSON object. ``agreement`` is the share of clear tokens that
are the network's, as torch computes it in fp32, for a network whose transformer has learned to name the colors of an
image (``--updates``), on images it has not learned from.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin would count as CPU time

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trained import cpu_isa, trained_checkpoint

from rt1.actions import rt1_action_spec
from rt1.checkpoint import load_model
from rt1.common.system import describe_machine, tree_memory
from rt1.errors import ExportError, first_line
from rt1.model.rt1 import RT1, RT1Config
from rt1.policy.auto import compare_engines
from rt1.policy.engines.base import CHOICES, Engine, EngineChoice
from rt1.policy.engines.torch import TorchEngine, network_sizes
from rt1.policy.export.formats import check_possible, quantize, write_graphs
from rt1.policy.export.graphs import Programs, trace
from rt1.policy.exported import load_graphs
from rt1.policy.exported_manifest import Manifest
from rt1.policy.stepper import Stepper
from rt1.presets import preset

ROBOT_RATE = 3.0
"""Steps per second of one robot, Hz."""


def main() -> None:
    """Measure everything, print a table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=64, help="steps of the comparison")
    parser.add_argument("--latency-steps", type=int, default=500, help="steps of the spread of latencies")
    parser.add_argument("--updates", type=int, default=60, help="updates of the transformer before the comparison")
    parser.add_argument("--preset", help="a network of this preset in place of RT-1 at full size")
    parser.add_argument("--folder", type=Path, help="where network and exports stay for the next run")
    parser.add_argument("--long", action="store_true", help="10,000 steps at full size instead of with a small network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = options.preset or "full"
    config = RT1Config() if options.preset is None else preset(options.preset).model
    with tempfile.TemporaryDirectory(prefix="rt1-benchmark-") as scratch:
        folder = (options.folder or Path(scratch)) / name
        checkpoint = trained_checkpoint(folder, config, updates=options.updates)
        steppers, megabytes = make_steppers(checkpoint, folder)
        results = compare_engines(steppers, megabytes, steps=options.steps, seed=5, clock=time.process_time)
        agreeing = [name for name, result in results.items() if result.agrees] or ["torch"]
        fastest = min(agreeing, key=lambda name: results[name].milliseconds)
        spread = measure_spread(steppers[fastest], options.latency_steps)
        growth = measure_growth(steppers[fastest] if options.long else Stepper(RT1(preset("debug").model)))
        gpu = measure_gpu(load_model(checkpoint))
    figures: dict[str, Any] = {
        "torch_vs_matmul": results["torch"].products,
        "onnx_fp32_vs_matmul": results["onnx"].products if "onnx" in results else None,
        "fastest_vs_matmul": results[fastest].products,
        "fastest_agreement": results[fastest].agreement,
        "fastest_engine": fastest,
        "cpu_isa": cpu_isa(),
        "matmul_ms": results["torch"].milliseconds / results["torch"].products,
        "p99_over_p50": spread,
        "memory_growth": growth,
        **gpu,
    }
    print(f"{describe_machine()}, torch {torch.__version__}, one thread, CPU time of a step")
    print(f"{'engine':16s}{'ms':>8s}{'products':>10s}{'agreement':>11s}{'clear tokens':>14s}{'MB':>7s}")
    for name, result in results.items():
        times = f"{name:16s}{result.milliseconds:8.1f}{result.products:10.3f}{result.agreement:11.2%}"
        print(f"{times}{result.clear_tokens:14d}{result.megabytes:7.0f}")
    print(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in figures.items()}))


def make_steppers(checkpoint: Path, folder: Path) -> tuple[dict[str, Stepper], dict[str, float]]:
    """Return a stepper of every engine that runs here, with one thread, and the memory that each has added, MB."""
    model, programs = load_model(checkpoint), None
    steppers: dict[str, Stepper] = {}
    megabytes: dict[str, float] = {}
    for choice in CHOICES:
        try:
            if choice.name == "torch":
                before = tree_memory()
                engine: Engine = TorchEngine(model, precision=choice.precision)
            else:
                out = folder / f"{checkpoint.name}-{choice.name}-{choice.precision}"
                if not out.is_dir():
                    programs = programs or trace(model)
                    write(programs, out, choice)
                before = tree_memory()
                engine = load_graphs(out, description(model, choice), threads=1)
        except (ExportError, ValueError, RuntimeError, ModuleNotFoundError) as error:
            print(f"left out: {choice}: {first_line(error)}")
            continue
        stepper = steppers[str(choice)] = Stepper(engine)
        state, image = stepper.start(np.ones(engine.sizes.text_width, np.float32)), np.zeros((256, 320, 3), np.uint8)
        for _ in range(engine.sizes.window):
            stepper.step([state], [image])
        megabytes[str(choice)] = (tree_memory() - before) / 1e6
    return steppers, megabytes


def write(programs: Programs, out: Path, choice: EngineChoice) -> None:
    """Write the graphs of an engine, whole or not at all. They are not compared here: the benchmark does it."""
    check_possible(choice.name, choice.precision)  # type: ignore[arg-type]
    print(f"exporting for {choice}", flush=True)
    half = out.with_name(f".{out.name}")
    shutil.rmtree(half, ignore_errors=True)
    fp32 = out.with_name(out.name.replace(choice.precision, "fp32"))
    if choice.precision != "fp32" and fp32.is_dir():  # the same graphs, quantized or loaded otherwise
        shutil.copytree(fp32, half)
        if choice.precision == "int8":
            quantize(half / "decoder.onnx")
    else:
        half.mkdir()
        write_graphs(programs, half, to=choice.name, precision=choice.precision)  # type: ignore[arg-type]
    half.rename(out)


def description(model: RT1, choice: EngineChoice) -> Manifest:
    """Return what an engine must know to load graphs."""
    return Manifest(
        kind=choice.name,  # type: ignore[arg-type]
        precision=choice.precision,
        sizes=network_sizes(model),
        action_spec=replace(rt1_action_spec(), bins=model.config.bins),
        text_encoder=None,
        control_rate=None,
        comparison=None,
        versions={},
        files={},
        weights="",
    )


def measure_spread(stepper: Stepper, steps: int) -> float:
    """Return the 99th percentile of a step's time over the median."""
    sizes = stepper.engine.sizes
    state, image = stepper.start(np.ones(sizes.text_width, np.float32)), np.zeros((256, 320, 3), np.uint8)
    seconds = []
    for _ in range(sizes.window + steps):
        start = time.perf_counter()
        stepper.step([state], [image])
        seconds.append(time.perf_counter() - start)
    full = seconds[sizes.window :]
    return float(np.percentile(full, 99) / np.median(full))


def measure_growth(stepper: Stepper) -> float:
    """Return the growth of the process's memory from 1,000 to 10,000 steps, as a share."""
    image, held = np.zeros((256, 320, 3), np.uint8), []
    state = stepper.start(np.ones(stepper.engine.sizes.text_width, np.float32))
    for number in range(1, 10_001):
        stepper.step([state], [image])
        if number in (1_000, 10_000):
            held.append(tree_memory())
    return held[1] / held[0] - 1.0


def measure_gpu(model: RT1) -> dict[str, float | str | None]:
    """Return a step's latency on a GPU and how many robots it serves, or say that it was not run."""
    if not torch.cuda.is_available():
        return {"gpu": "not run: no CUDA device is there", "gpu_step_ms": None, "gpu_robots_at_3_hz": None}
    stepper = Stepper(TorchEngine(model, precision="bf16", device="cuda"))
    text, image = np.ones(model.config.text_width, np.float32), np.zeros((300, 300, 3), np.uint8)

    def seconds(robots: int) -> float:
        states, times = [stepper.start(text) for _ in range(robots)], []
        prepared = stepper.prepare(image)  # a server prepares images in other threads
        for _ in range(model.config.window + 10):
            start = time.perf_counter()
            stepper.step(states, [prepared] * robots)
            times.append(time.perf_counter() - start)
        return float(np.median(times[model.config.window :]))

    robots, one = 1, seconds(1)
    while robots < 1024 and seconds(2 * robots) <= 1.0 / ROBOT_RATE:
        robots *= 2
    return {"gpu": torch.cuda.get_device_name(), "gpu_step_ms": 1e3 * one, "gpu_robots_at_3_hz": float(robots)}


if __name__ == "__main__":
    main()
