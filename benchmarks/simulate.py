"""How much processor time do recording and trials in Meta-World take? A sample of tasks, scaled to all 50.

Run it with nothing else running: ``python benchmarks/simulate.py``. All figures are CPU time of one process, with all
threads of the software renderer. Trials are those of the protocol metaworld-mt50-b without baselines, on the demo's
images. The policy has the demo's network with random weights. It hardly ever succeeds, so its trials have the largest
number of steps. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.envs.base import action_spec_of
from rt1.envs.metaworld import MetaWorldConfig, MetaWorldSuite
from rt1.envs.protocol import protocol_of
from rt1.envs.registry import demo_suite
from rt1.model.rt1 import RT1
from rt1.presets import preset
from rt1.simulate.record import RecordSettings, record
from rt1.simulate.trials import TrialPolicy, plan_trials, run_trials
from rt1.text.encoder import TableEncoder

EPISODES = 50
"""Recorded episodes of a task."""
VECTOR = np.ones(384, np.float32)
"""The text embedding of every sentence."""
SUITE = MetaWorldSuite(config=MetaWorldConfig(image_size=96, control_rate=20.0))
TRIALS_SUITE = demo_suite(preset("demo").model.image_size[0])
PROTOCOL = protocol_of(TRIALS_SUITE, "metaworld-mt50-b")
ENCODER = TableEncoder({sentence: VECTOR for task in SUITE.tasks for sentence in SUITE.sentences(task)}, "constant")
TARGETS = {"record_cpu_minutes": 25.0, "trials_cpu_minutes": 15.0}


def main() -> None:
    """Measure a sample of tasks, print a line for each, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=5, help="measure every n-th task")
    parser.add_argument("--episodes", type=int, default=10, help="recorded episodes of each of them, 0: none")
    parser.add_argument("--trials", type=int, default=PROTOCOL.trials, help="trials of each of them")
    options = parser.parse_args()
    tasks = SUITE.tasks[:: options.every]
    figures = {name: 0.0 for name in TARGETS if options.episodes or name != "record_cpu_minutes"}
    with tempfile.TemporaryDirectory(prefix="rt1-benchmark-") as temporary:
        folder = Path(temporary)
        policy = save_policy(folder / "checkpoint")
        for task in tasks:
            if options.episodes:
                episode_s, rejected = measure_recording(folder / task, task, options.episodes)
                figures["record_cpu_minutes"] += episode_s * EPISODES * options.every / 60
                print(f"{task:30} {episode_s:5.2f} s an episode, {rejected:3} rejected", flush=True)
            trial_s = measure_trials(task, policy, options.trials)
            figures["trials_cpu_minutes"] += trial_s * PROTOCOL.trials * options.every / 60
            print(f"{task:30} {trial_s:5.2f} s a trial", flush=True)
    for name, value in figures.items():
        print(f"{name:30} {value:5.1f}  target {TARGETS[name]}: {'met' if value <= TARGETS[name] else 'MISSED'}")
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def measure_recording(folder: Path, task: str, episodes: int) -> tuple[float, int]:
    """Record a task; return the CPU seconds of a kept episode, rejected ones included, and their number."""
    settings = RecordSettings(tasks=(task,), episodes=episodes, noise=0.3, workers=1)
    begun = time.process_time()
    report = record(folder, suite=SUITE, settings=settings, encoder=ENCODER)
    return (time.process_time() - begun) / episodes, sum(report.rejected.values())


def measure_trials(task: str, policy: TrialPolicy, trials: int) -> float:
    """Return the CPU seconds of a trial of a policy."""
    instruction = SUITE.sentences(task)[0]
    plans = plan_trials("policy", task, instruction, trials=trials, seed=PROTOCOL.seed)
    begun = time.process_time()
    list(run_trials(plans, suite=TRIALS_SUITE, policy=policy, embeddings={instruction: VECTOR}, workers=1))
    return (time.process_time() - begun) / trials


def save_policy(folder: Path) -> TrialPolicy:
    """Save a policy with the demo's network and random weights."""
    torch.manual_seed(0)
    spec = action_spec_of(SUITE, SUITE.tasks[0])
    sizes = {"action_tokens": spec.size, "bins": spec.bins, "text_width": VECTOR.size}
    model = RT1(replace(preset("demo").model, **sizes))
    info = CheckpointInfo(
        model=model.config,
        action_spec=spec,
        text_encoder=ENCODER.identity,
        control_rate=SUITE.control_rate,
        provenance={},
    )
    return TrialPolicy(checkpoint=save_checkpoint(folder, model=model, info=info))


if __name__ == "__main__":
    main()
