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
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rt1.actions import rt1_action_spec
from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.common.system import describe_machine, tree_memory
from rt1.errors import ExportError
from rt1.model.rt1 import RT1, RT1Config
from rt1.policy.auto import compare_engines
from rt1.policy.engines.base import CHOICES
from rt1.policy.engines.program import instruction_set
from rt1.policy.engines.torch import TorchEngine
from rt1.policy.export.compare import TrialSize, generated_trials
from rt1.policy.export.exporter import ExportSettings, export
from rt1.policy.exported import open_export
from rt1.policy.stepper import Stepper
from rt1.presets import preset

ROBOT_RATE = 3.0
"""Steps per second of one robot, Hz."""


def main() -> None:
    """Measure everything, print a table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120, help="steps of the comparison")
    parser.add_argument("--latency-steps", type=int, default=500, help="steps of the spread of latencies")
    parser.add_argument("--updates", type=int, default=80, help="updates of the transformer before the comparison")
    parser.add_argument("--preset", help="a network of this preset in place of RT-1 at full size")
    parser.add_argument("--folder", type=Path, help="where the exports stay for the next run; default: removed")
    parser.add_argument("--long", action="store_true", help="10,000 steps at full size instead of with a small network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = network(RT1Config() if options.preset is None else preset(options.preset).model)
    teach_colors(model, updates=options.updates)
    with tempfile.TemporaryDirectory(prefix="rt1-benchmark-") as scratch:
        steppers, megabytes = make_steppers(model, options.folder or Path(scratch))
        results = compare_engines(steppers, megabytes, steps=options.steps, seed=5, clock=time.process_time)
        agreeing = [name for name, result in results.items() if result.agrees] or ["torch"]
        fastest = min(agreeing, key=lambda name: results[name].milliseconds)
        spread = measure_spread(steppers[fastest], options.latency_steps)
        growth = measure_growth(steppers[fastest] if options.long else Stepper(RT1(preset("debug").model)))
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
        **measure_gpu(model),
    }
    print(f"{describe_machine()}, torch {torch.__version__}, one thread, CPU time of a step")
    print(f"{'engine':16s}{'ms':>8s}{'products':>10s}{'agreement':>11s}{'clear tokens':>14s}{'MB':>7s}")
    for name, result in results.items():
        times = f"{name:16s}{result.milliseconds:8.1f}{result.products:10.3f}{result.agreement:11.2%}"
        print(f"{times}{result.clear_tokens:14d}{result.megabytes:7.0f}")
    print(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in figures.items()}))


def cpu_isa() -> str:
    """Return the vector instructions that matter: what torch names them, and whether they have bfloat16."""
    file = Path("/proc/cpuinfo")
    flags = file.read_text(encoding="utf-8") if file.is_file() else ""
    return instruction_set() + (" BF16" if "avx512_bf16" in flags else "")


def _trials(config: RT1Config, *, episodes: int, seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Return episodes of a text embedding and images two longer than the window."""
    size = TrialSize(
        episodes=episodes, steps=config.window + 2, text_width=config.text_width, vocabulary=config.text.vocabulary
    )
    return [(trial.embedding, np.stack(trial.images)) for trial in generated_trials(size, seed)]


def network(config: RT1Config) -> RT1:
    """Return a network whose random weights keep the variance: no layer's output fades or explodes.

    FiLM is zero at first and batch normalization has no statistics yet: with both left so, the text would change
    nothing and the image hardly anything. FiLM gets small random weights; one pass over images gives the statistics.
    """
    torch.manual_seed(0)
    model = RT1(config)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    text, images = zip(*_trials(config, episodes=16, seed=1), strict=True)
    with torch.no_grad():
        image = model.prepare(torch.from_numpy(np.stack([of_episode[0] for of_episode in images])))
        model.train().encode(image, model.text(torch.from_numpy(np.stack(text))))
    return model.eval()


def teach_colors(model: RT1, *, updates: int, episodes: int = 40, batch: int = 8) -> None:
    """Train the transformer to name each image's colors: sixteen levels of the mean of parts of it, a bin each.

    The images are encoded once, as the network stands; only the transformer learns, in float32.
    """
    stepper, window = Stepper(TorchEngine(model)), model.config.window
    tokens, targets, texts = [], [], []
    for text, image_THWC in _trials(model.config, episodes=episodes, seed=7):
        state = stepper.start(text)
        prepared = np.stack([stepper.prepare(image).image_HWC for image in image_THWC])
        condition = np.repeat(state.condition[None], len(prepared), axis=0)
        tokens.append(torch.from_numpy(stepper.engine.encode(prepared, condition)[0]))
        targets.append(_levels(image_THWC, model.config))
        texts.append(torch.from_numpy(text))
    random, optimizer = np.random.default_rng(0), torch.optim.AdamW(model.transformer.parameters(), lr=3e-4)
    for update in range(updates):
        windows = [(int(random.integers(episodes)), int(random.integers(3))) for _ in range(batch)]
        token_BTKE = torch.stack([tokens[number][first : first + window] for number, first in windows])
        target_BTA = torch.stack([targets[number][first : first + window] for number, first in windows])
        condition = model.text(torch.stack([texts[number] for number, _ in windows])).detach()
        loss = F.cross_entropy(model.decode(token_BTKE, condition).flatten(0, 2), target_BTA.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.transformer.parameters(), 1.0)
        optimizer.step()
        if update % 20 == 0 or update == updates - 1:
            print(f"update {update + 1} of {updates}: loss {loss.item():.2f}", flush=True)


def _levels(image_THWC: NDArray[np.uint8], config: RT1Config) -> Tensor:
    """Return bins (T, A): the mean red, green and blue of the image's eight parts, in sixteen levels."""
    rows, columns = image_THWC.shape[1] // 2, image_THWC.shape[2] // 4
    part_TRHSWC = image_THWC[:, : 2 * rows, : 4 * columns].reshape(len(image_THWC), 2, rows, 4, columns, 3)
    level = (part_TRHSWC.mean((2, 4)).reshape(len(image_THWC), -1)[:, : config.action_tokens] / 16).astype(np.int64)
    return torch.from_numpy(level * (config.bins // 16))


def make_steppers(model: RT1, folder: Path) -> tuple[dict[str, Stepper], dict[str, float]]:
    """Return a stepper of every engine that runs here, with one thread, and the memory that each has added, MB."""
    spec = replace(rt1_action_spec(), bins=model.config.bins)
    info = CheckpointInfo(model=model.config, action_spec=spec, text_encoder=None)
    checkpoint = save_checkpoint(folder / "checkpoint", model=model, info=info)
    steppers: dict[str, Stepper] = {}
    megabytes: dict[str, float] = {}
    for choice in CHOICES:
        before = tree_memory()
        try:
            if choice.name == "torch":
                steppers[str(choice)] = Stepper(TorchEngine(model, precision=choice.precision))
            else:
                out = folder / f"{choice.name}-{choice.precision}"
                settings = ExportSettings(to=choice.name, precision=choice.precision, tolerance=1.0, agreement=0.0)  # type: ignore[arg-type]
                export(checkpoint, out, settings)
                before = tree_memory()
                steppers[str(choice)] = Stepper(open_export(out, threads=1)[0])
        except (ExportError, ValueError) as error:
            print(f"left out: {choice}: {error}")
            continue
        megabytes[str(choice)] = (tree_memory() - before) / 1e6
    return steppers, megabytes


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
