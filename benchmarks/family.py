"""What does streaming save? For each network: one step against encoding its whole window again.

Encoding all images of the window at every step, without a cache, is how other PyTorch versions are used. Ratios are
of CPU time (seconds of one core, all threads added), medians over rounds that take everything in turns. The last line
is a JSON object.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin would count as CPU time

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from rt1.common.system import describe_machine
from rt1.model.heads import parameter_counts
from rt1.model.rt1 import RT1
from rt1.policy.stepper import Stepper
from rt1.presets import preset


def main() -> None:
    """Measure, print a table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["paper", "sentence", "maxvit", "robocat"])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    matrix = torch.randn(2048, 2048)
    calls: dict[str, Callable[[], object]] = {"matmul": lambda: matrix @ matrix}
    millions = {}
    for name in options.presets:
        model = RT1(preset(name).model).eval()
        millions[name] = parameter_counts(model)["total"] / 1e6
        calls[name], calls[f"{name} again"] = _streaming(model), _from_scratch(model)
    with torch.inference_mode():
        seconds = _measure(calls, options.rounds)
    print(describe_machine())
    print(f"{'preset':12s}{'M parameters':>14s}{'step / matmul':>15s}{'step / whole window':>21s}")
    ratios = {}
    for name in options.presets:
        ratios[name] = seconds[name] / seconds[f"{name} again"]
        print(f"{name:12s}{millions[name]:14.1f}{seconds[name] / seconds['matmul']:15.2f}{ratios[name]:21.3f}")
    against = {f"{name}_step_vs_matmul": round(seconds[name] / seconds["matmul"], 3) for name in options.presets}
    print(json.dumps({f"{name}_step_vs_window": round(ratio, 3) for name, ratio in ratios.items()} | against))


def _streaming(model: RT1) -> Callable[[], object]:
    """Return one step of a policy whose window is full."""
    stepper = Stepper(model)
    state = stepper.start(np.ones(model.config.text_width, dtype=np.float32))
    images = list(np.random.default_rng(0).integers(0, 256, (8, *model.config.image_size, 3), dtype=np.uint8))
    for image in images[: model.config.window]:
        stepper.step([state], [image])
    return lambda: stepper.step([state], [images[-1]])


def _from_scratch(model: RT1) -> Callable[[], object]:
    """Return the same decision by a forward over the whole window."""
    shape = (1, model.config.window, *model.config.image_size, 3)
    window = torch.randint(0, 256, shape, dtype=torch.uint8)
    text = torch.ones(1, model.config.text_width)
    return lambda: model.predict(window, text)[:, -1]


def _measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.process_time()
            call()
            seconds[name].append(time.process_time() - started)
    return {name: median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
