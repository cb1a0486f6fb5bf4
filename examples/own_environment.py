"""Your own robot or simulator: check it, record its expert, train and evaluate a policy, and watch it live."""

from pathlib import Path

import numpy as np

from rt1 import ActionSpec, Continuous, Policy
from rt1.data.rlds.reader import RLDSSource
from rt1.envs.base import Observation, ScriptedExpert, SingleTask, StepResult
from rt1.envs.registry import register_suite
from rt1.play.playground import Playground
from rt1.play.server import PlayServer, serve
from rt1.presets import preset
from rt1.report.policy_trials import evaluate_closed_loop
from rt1.simulate.record import RecordSettings, record
from rt1.testing import check_suite
from rt1.text.encoder import TableEncoder
from rt1.train.loop import train


class TouchTheSquare(SingleTask):
    """A green dot on a black table is to reach the red square."""

    name, instruction, image_size, control_rate = "touch", "touch the red square", (64, 64), 10.0  # Hz
    action_spec = ActionSpec(parts=(Continuous(name="move", low=(-5.0, -5.0), high=(5.0, 5.0)),))  # pixels per step
    max_steps = 40

    def start(self, seed: int) -> Observation:
        self.dot, self.square = np.random.default_rng(seed).uniform(0, 60, (2, 2))
        return self.observe()

    def apply(self, action: np.ndarray) -> StepResult:
        self.dot = np.clip(self.dot + action, 0, 60)
        success = bool(np.abs(self.dot - self.square).max() < 6)
        return StepResult(observation=self.observe(), success=success, done=success)

    def observe(self) -> Observation:
        image = np.zeros((64, 64, 3), dtype=np.uint8)
        for channel, (x, y) in enumerate(np.round([self.square, self.dot]).astype(int)):
            image[y : y + 4, x : x + 4, channel] = 255
        return Observation(image=image)

    def expert(self, _task: str) -> ScriptedExpert:
        return lambda env: np.clip(env.square - env.dot, -5, 5).astype(np.float32)


if __name__ == "__main__":
    suite, out, tasks = TouchTheSquare(), Path("outputs/touch"), ("touch",)
    encoder = TableEncoder({suite.instruction: np.ones(4)}, "one sentence")  # or load_text_encoder("minilm")
    register_suite(suite.name, lambda settings: TouchTheSquare(**settings))  # rt1 record --env MODULE:CLASS does it
    check_suite(suite)
    record(out / "data", suite=suite, settings=RecordSettings(tasks=tasks, episodes=20), encoder=encoder)
    train(RLDSSource(out / "data"), preset("debug"), out / "run")
    policy = Policy.from_checkpoint(out / "run", text_encoder=encoder)
    print(evaluate_closed_loop(policy, suite, tasks, trials=20, out=out).table)
    playground = Playground(policy, suite, tasks)
    serve(PlayServer(playground, title="touch"), lambda port: print(f"watch it: http://127.0.0.1:{port}", flush=True))
