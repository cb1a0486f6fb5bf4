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
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch

from rt1.checkpoint import CheckpointInfo, save_checkpoint
from rt1.envs.base import action_spec_of
from rt1.envs.gymnasium import GymConfig, GymnasiumEnv
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
TARGETS = {"record_cpu_minutes": 25.0, "trials_cpu_minutes": 15.0, "gym_overhead_ms": 0.3}
GYM_STEPS = 2000


class Still(gymnasium.Env):  # type: ignore[misc] # it has no types
    """A Gymnasium environment that does nothing: what a step takes is the adapter's time."""

    observation_space = gymnasium.spaces.Box(0, 255, (480, 480, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
    metadata: ClassVar[dict[str, Any]] = {"render_fps": 20}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, ...]:
        super().reset(seed=seed, options=options)
        self._picture = np.zeros(self.observation_space.shape, np.uint8)
        return self._picture, {}

    def step(self, _action: object) -> tuple[Any, ...]:
        return self._picture, 0.0, False, False, {"is_success": False}


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
    figures["gym_overhead_ms"] = measure_gym_overhead()
    for name, value in figures.items():
        print(f"{name:30} {value:5.2f}  target {TARGETS[name]}: {'met' if value <= TARGETS[name] else 'MISSED'}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def measure_recording(folder: Path, task: str, episodes: int) -> tuple[float, int]:
    """Record a task; return the CPU seconds of a kept episode, rejected ones included, and their number."""
    settings = RecordSettings(tasks=(task,), episodes=episodes, noise=0.3, workers=1)
    begun = time.process_time()
    report = record(folder, suite=SUITE, settings=settings, encoder=ENCODER)
    return (time.process_time() - begun) / episodes, sum(report.rejected.values())


def measure_trials(task: str, policy: TrialPolicy, trials: int) -> float:
    """Return the CPU seconds of a trial of a policy."""
    instruction = SUITE.sentences(task)[0]
    plans = plan_trials("policy", task, instruction, trials=trials, seed=0)
    begun = time.process_time()
    list(run_trials(plans, suite=TRIALS_SUITE, policy=policy, embeddings={instruction: VECTOR}, workers=1))
    return (time.process_time() - begun) / trials


def measure_gym_overhead() -> float:
    """Return the milliseconds that the adapter of Gymnasium adds to a step, with its picture of 480 x 480 pixels."""
    plain, adapted = (
        Still(),
        GymnasiumEnv(Still(), GymConfig(sentence="stand still", max_steps=2 * GYM_STEPS), name="still"),
    )
    plain.reset(seed=0)
    adapted.reset(0)
    action = np.zeros(4, np.float32)
    seconds = {}
    for name, step in (("plain", plain.step), ("adapted", lambda action: adapted.step(action).observation.image)):
        begun = time.process_time()
        for _ in range(GYM_STEPS):
            step(action)
        seconds[name] = time.process_time() - begun
    return 1000 * (seconds["adapted"] - seconds["plain"]) / GYM_STEPS


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
