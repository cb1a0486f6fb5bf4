"""The demo: record experts, train one policy, run it closed loop, write the report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rt1.checkpoint import MODEL_FILE, resolve
from rt1.commands.options import Preset
from rt1.common import json_config
from rt1.common.border import reading
from rt1.common.files import write_text
from rt1.common.folders import check_folder, working_in
from rt1.common.json_config import MOST_EPISODES, check_at_least, check_between
from rt1.common.json_files import read_object
from rt1.common.progress import duration
from rt1.common.system import PeakMemory, commit
from rt1.data.rlds.reader import RLDSSource
from rt1.envs.base import check_tasks
from rt1.envs.registry import DEMO_TASKS, demo_suite
from rt1.evaluate.closed_loop import TrialSettings
from rt1.presets import TEXT_ENCODERS, preset
from rt1.report.closed_loop import evaluate_checkpoint
from rt1.report.provenance import ReportContext
from rt1.report.svg import require_figures
from rt1.simulate.record import RecordSettings, record
from rt1.text.load import load_text_encoder
from rt1.train.loop import train

T = TypeVar("T")
RESULTS_FILE = "results.json"
STATE_FILE = "demo.json"

NOISE = 0.8
"""Recording noise. The experts of these tasks recover from it, and the policy learns to recover."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo does. The defaults give the published result."""

    out: Path = Path("outputs/demo")
    """Folder of the recording, the run and the report."""
    tasks: tuple[str, ...] = DEMO_TASKS
    """Tasks. One policy learns all of them."""
    episodes: int = 100
    """Recorded expert episodes per task."""
    trials: int = 20
    """Trials per task."""
    updates: int | None = None
    """Optimizer updates. Default: those of the preset."""
    preset: Preset = "demo"
    seed: int = 0
    """Seed of recording, training and trials."""

    def __post_init__(self) -> None:
        check_between(self, 1, MOST_EPISODES, "episodes", "trials")
        check_at_least(self, 1, "updates")
        check_at_least(self, 0, "seed")


@dataclass(frozen=True, kw_only=True)
class DemoCommand(DemoSettings):
    """Record, train, evaluate and report in a simulator in one go. Run it again to reuse finished stages."""

    def run(self, command: str) -> int:
        """Run the demo."""
        require_figures()
        run_demo(self, command=command)
        print(summary(self.out))
        return 0


def run_demo(demo: DemoSettings, *, command: str = "rt1 demo") -> None:
    """Run all stages. A finished stage is reused, an interrupted one resumes.

    Raises:
        ValueError: the folder holds a demo with other settings.
        SaveError: the folder holds something else.
        LockedError: another process works in the folder.
    """
    check_folder(demo.out, ours=(STATE_FILE,))
    # All mistakes of a user show here, before the first file is written and before minutes of work.
    config = replace(preset(demo.preset), seed=demo.seed)
    if demo.updates is not None:
        config = replace(config, updates=demo.updates)
    suite = demo_suite(config.model.image_size[0])
    tasks = check_tasks(suite, demo.tasks)
    recording = RecordSettings(tasks=tasks, episodes=demo.episodes, seed=demo.seed, noise=NOISE)
    trials = TrialSettings(tasks=tasks, trials=demo.trials, seed=demo.seed)
    encoder = load_text_encoder("minilm")
    name = TEXT_ENCODERS.get(demo.preset)  # None: training uses the embeddings stored with the recording
    training_encoder = None if name is None else load_text_encoder(name)
    with working_in(demo.out, ours=(STATE_FILE,)):
        stages = _Stages(demo)
        stages.run("record", lambda: record(stages.data, suite=suite, settings=recording, encoder=encoder))
        source = RLDSSource(stages.data)
        result = stages.run("train", lambda: train(source, config, stages.training, encoder=training_encoder))
        if not result.finished:
            raise KeyboardInterrupt
        context = ReportContext(
            title=f"RT-1 on {suite.name}: the demo",
            command=command,
            seconds=stages.seconds,
            peak_gb=stages.peak_gb,
            settings={
                "episodes per task": str(demo.episodes),
                "recording noise": f"0..{NOISE:g} of the bounds",
                "updates": str(config.updates),
                "batch size": str(config.batch_size),
                "targets in training": f"spread over neighbouring bins, standard deviation {config.target_spread:g} "
                "bins. The held-out loss is on one-hot targets",
                "training seed": str(config.seed),
            },
        )
        if not stages.is_evaluated():
            evaluate_checkpoint(
                stages.training,
                demo.out,
                suite=suite,
                settings=trials,
                source=source,
                encoder=training_encoder or encoder,
                context=context,
            )
            stages.note_evaluated()


class _Stages:
    """The folder of the demo: the finished stages, and how long they took."""

    def __init__(self, demo: DemoSettings) -> None:
        self._demo, self._file = demo, demo.out / STATE_FILE
        self.data, self.training = demo.out / "data", demo.out / "run"
        free = ("out", "trials")
        settings = {name: value for name, value in json_config.to_json(demo).items() if name not in free}
        self._state: dict[str, Any] = {"settings": settings, "seconds": {}, "peak_gb": None, "evaluated": None}
        if self._file.is_file():
            with reading(self._file, cure="Remove it, or give another --out"):
                state = read_object(self._file)
                state["seconds"] = {str(name): float(seconds) for name, seconds in state["seconds"].items()}
                state["peak_gb"] = None if state["peak_gb"] is None else float(state["peak_gb"])
                self._state = {name: state[name] for name in self._state}
            if self._state["settings"] != json.loads(json.dumps(settings)):
                raise ValueError(
                    f"{demo.out} holds a demo with other settings ({self._state['settings']!r:.300}). Give another "
                    "--out, or remove it"
                )
        self._save()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, over all calls."""
        return dict(self._state["seconds"])

    @property
    def peak_gb(self) -> float | None:
        """Peak memory of the stages so far, GB."""
        peak: float | None = self._state["peak_gb"]
        return peak

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Run a stage, and store its seconds and peak memory until the evaluation is done."""
        started = time.monotonic()
        try:
            with PeakMemory() as memory:
                return work()
        finally:
            seconds = time.monotonic() - started
            before = self._state["seconds"].get(name, 0.0)
            if not self.is_evaluated():
                self._state["seconds"][name] = before + seconds
                self._state["peak_gb"] = max(self.peak_gb or 0.0, memory.gigabytes)
                self._save()

    def is_evaluated(self) -> bool:
        """Return whether this code evaluated this checkpoint with these trials."""
        is_written = all((self._demo.out / name).is_file() for name in (RESULTS_FILE, "report.html"))
        return is_written and self._state["evaluated"] == self._evaluation()

    def note_evaluated(self) -> None:
        """Store that the evaluation is done."""
        self._state["evaluated"] = self._evaluation()
        self._save()

    def _evaluation(self) -> list[Any]:
        if not (self.training / "last").is_dir():
            return []
        weights = (resolve(self.training) / MODEL_FILE).read_bytes()
        return [self._demo.trials, hashlib.sha256(weights).hexdigest(), commit()]

    def _save(self) -> None:
        write_text(self._file, json.dumps(self._state, indent=1))


def summary(folder: Path) -> str:
    """Return the results of the demo in a folder as lines for the terminal."""
    with reading(folder / RESULTS_FILE, cure="Remove it and run the demo again"):
        return "\n".join([*_summary(read_object(folder / RESULTS_FILE)), f"report: {folder / 'report.html'}"])


def _summary(figures: Mapping[str, Any]) -> list[str]:
    lines = [f"{'task':26s}{'policy':>8s}{'95 %':>14s}{'expert':>8s}{'blind':>8s}{'random':>8s}"]
    for task in figures["tasks"]:
        low, high = task["interval95"]
        lines.append(
            f"{task['task']:26s}{task['success']:8.0%}{f'{low:.0%}..{high:.0%}':>14s}"
            + "".join(f"{_rate(task[name]):>8s}" for name in ("expert", "blind", "random"))
        )
    lines.append(f"{'mean':26s}{figures['mean_success']:8.0%}{'':22s}{_rate(figures['mean_blind']):>8s}")
    lines.append(
        f"with the other task's instruction {_rate(figures['swapped_success'])}, with an unseen paraphrase "
        f"{_rate(figures['paraphrase_success'])}"
    )
    seconds = ", ".join(f"{name} {duration(value)}" for name, value in figures["seconds"].items())
    lines.append(f"{seconds}, peak memory {figures['peak_gb'] or 0:.1f} GB")
    return lines


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
