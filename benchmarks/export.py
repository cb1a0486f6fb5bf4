"""How long does a control step take in each export? CPU time against the policy and one matrix product, one run.

Run it with nothing else running: ``python benchmarks/export.py``. RT-1 at full size with random weights brought to life
by one batch of generated images, or ``--checkpoint``. One thread; each round takes one step of every candidate in turn,
so that a busy machine slows all alike. The last line is a JSON object. Formats whose packages are not installed are
left out and named; ``aoti`` compiles for minutes and is asked for with ``--aoti``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rt1.export.compare import TrialSize, compare, generated_trials
from rt1.export.exporter import ExportSettings, export
from rt1.export.formats import PRECISIONS, check_possible
from rt1.policy.exported_torch import load_exported

from rt1.actions import rt1_action_spec
from rt1.checkpoint import CheckpointInfo, load_info, save_checkpoint
from rt1.common.system import describe_machine
from rt1.errors import ExportError
from rt1.model.rt1 import RT1, RT1Config
from rt1.policy.base import BasePolicy
from rt1.policy.exported_manifest import Comparison
from rt1.policy.policy import Policy
from rt1.policy.stepper import SETTINGS, Stepper

MATRIX = 2048
Images = Sequence[NDArray[np.uint8]]


def main() -> None:
    """Export to everything, measure everything, print a table and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: RT-1 at full size with random weights")
    parser.add_argument(
        "--folder", type=Path, help="where exports are kept for the next run; default: a folder removed"
    )
    parser.add_argument("--steps", type=int, default=20, help="rounds that are measured")
    parser.add_argument("--aoti", action="store_true", help="compile with AOTInductor, too")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="rt1-benchmark-") as scratch:
        folder = options.folder or Path(scratch)
        checkpoint = options.checkpoint or lively_checkpoint(folder / "checkpoint")
        policies = _candidates(checkpoint, folder, aoti=options.aoti)
        width = load_info(checkpoint).model.text_width
        size = TrialSize(episodes=2, steps=load_info(checkpoint).model.window + 9, text_width=width)
        eager = Policy.from_checkpoint(checkpoint)  # of its own: a policy cannot take each image twice
        agreement = {
            name: compare(eager, policy, generated_trials(size, 0), images="generated", tolerance=0.0)
            for name, policy in policies.items()
        }
        seconds = _measure(policies, generated_trials(size, 1)[0].images, width, options.steps)
    _report(seconds, agreement)


def lively_checkpoint(folder: Path) -> Path:
    """Save RT-1 at full size with random weights whose image tokens and logits depend on image and text."""
    torch.manual_seed(0)
    model = RT1(RT1Config())
    for parameter in model.parameters():
        if not parameter.any():  # FiLM and biases start at zero
            torch.nn.init.normal_(parameter, std=0.02)
    trials = generated_trials(TrialSize(episodes=8, steps=1, text_width=model.config.text_width), 2)
    image_XHWC = torch.from_numpy(np.stack([trial.images[0] for trial in trials]))
    text_XE = torch.from_numpy(np.stack([trial.embedding for trial in trials]))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the moving statistics become those of this batch
    with torch.no_grad():
        model.train().encode(model.prepare(image_XHWC), model.text(text_XE))
    info = CheckpointInfo(model=model.config, action_spec=rt1_action_spec(), text_encoder=None)
    return save_checkpoint(folder, model=model.eval(), info=info)


def _candidates(checkpoint: Path, folder: Path, *, aoti: bool) -> dict[str, BasePolicy]:
    policy = Policy.from_checkpoint(checkpoint)
    candidates: dict[str, BasePolicy] = {}
    for name in SETTINGS:
        if name.startswith("cuda"):
            continue
        try:
            candidates[f"policy {name}"] = Policy(Stepper(policy.model, setting=name), policy.action_spec)
        except ValueError as error:
            print(f"left out: policy {name}: {error}")
    for to, precisions in PRECISIONS.items():
        for precision in precisions if aoti or to != "aoti" else ():
            try:
                check_possible(to, precision)
            except ExportError as error:
                print(f"left out: {to} {precision}: {error}")
                continue
            out = folder / f"{to}-{precision}"
            if not out.exists():
                # Here the distance is a result, not a condition.
                export(checkpoint, out, ExportSettings(to=to, precision=precision, tolerance=1.0, agreement=0.0))
            candidates[f"{to} {precision}"] = load_exported(out, threads=1)
    return candidates


def _measure(policies: dict[str, BasePolicy], images: Images, text_width: int, rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of one step by name, the window being full, and of the matrix product."""
    left, right = torch.randn(2, MATRIX, MATRIX)
    work: dict[str, Callable[[int], object]] = {"matrix product": lambda _: left @ right}
    for name, policy in policies.items():
        policy.reset(np.full(text_width, text_width**-0.5, dtype=np.float32))
        for image in images:
            policy.act(image)
        work[name] = lambda step, policy=policy: policy.act(images[step % len(images)])  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in work}
    for step in range(rounds):
        for name, run in work.items():
            start = time.process_time()
            run(step)
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _report(seconds: dict[str, float], agreement: dict[str, Comparison]) -> None:
    product, eager = seconds["matrix product"], seconds["policy fp32"]
    print(f"{describe_machine()}; torch {torch.__version__}, 1 thread, CPU time of one control step")
    print(f"{'':20s}{'ms':>8s}{'/ product':>11s}{'/ policy':>10s}{'logits off':>12s}{'clear equal':>13s}")
    for name, value in seconds.items():
        line = f"{name:20s}{1e3 * value:8.1f}{value / product:11.3f}{value / eager:10.3f}"
        if name in agreement:
            line += f"{agreement[name].logit_difference:12.2g}{agreement[name].clear_agreement:13.2%}"
        print(line)
    result = {
        name.replace(" ", "_").replace("-", "_"): {
            "step_vs_matmul": round(seconds[name] / product, 3),
            "step_vs_policy": round(seconds[name] / eager, 3),
            "logit_difference": float(f"{found.logit_difference:.3g}"),
            "clear_agreement": round(found.clear_agreement, 4),
        }
        for name, found in agreement.items()
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
