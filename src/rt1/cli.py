"""The command ``rt1``: demo, record, train, evaluate, inspect, serve, convert."""

from __future__ import annotations

import os
import sys

# Before torch and its OpenMP start: idle threads that spin triple the CPU time of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from rt1 import settings
from rt1.checkpoint import INFO_FILE, RUN_ORDER, load_info, resolve
from rt1.convert_commands import (
    ConvertDataCommand,
    ConvertFlaxCommand,
    ConvertImageNetCommand,
    ConvertTensorFlowCommand,
)
from rt1.data.open_data import DataOptions, open_data
from rt1.demo import DemoSettings, run_demo, summary
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.envs.metaworld import RenderingError
from rt1.evaluate.envs.open import EnvSettings
from rt1.evaluate.record import RecordSettings, record
from rt1.evaluate.run import ReportContext, evaluate_checkpoint
from rt1.evaluate.workers import WorkerError
from rt1.inspection.page import write_page
from rt1.inspection.survey import show_episode, survey_data
from rt1.inspection.terminal import checkpoint_text, data_text
from rt1.names import lookup, unknown_name
from rt1.policy import Policy
from rt1.presets import preset
from rt1.serve.settings import ServerSettings
from rt1.text.load import load_text_encoder
from rt1.train.config import TrainConfig
from rt1.train.loop import TrainingError, train

EXPECTED = (ValueError, OSError, RenderingError, TrainingError, WorkerError, ModuleNotFoundError)
"""Errors that say all a user needs in one line; others are our own mistakes and keep their traceback."""


@dataclass(frozen=True, kw_only=True)
class RecordCommand:
    """Record an environment's scripted experts as an RLDS data set; run again to resume."""

    out: Path
    """Folder of the data set."""
    record: tyro.conf.OmitArgPrefixes[RecordSettings]
    """What to record."""
    env: tyro.conf.OmitArgPrefixes[EnvSettings] = field(default_factory=EnvSettings)
    """Where to record."""
    text_encoder: str = "minilm"
    """Text encoder of the instructions: minilm, a table file, or an .onnx file."""

    def run(self, _command: str) -> int:
        """Record."""
        report = record(self.out, env=self.env, settings=self.record, encoder=load_text_encoder(self.text_encoder))
        rejected = ", ".join(f"{task} {count}" for task, count in report.rejected.items() if count) or "none"
        print(
            f"recorded {report.recorded} episodes into {report.folder}; rejected because the expert failed: {rejected}"
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a policy on a recorded data set; run again to resume exactly."""

    data: Path
    """Folder of the data set: RLDS, an Open X set, or LeRobot."""
    out: Path
    """Run folder: last/, best/, metrics.jsonl, tensorboard/."""
    preset: str = "demo"
    """Preset the settings below start from: demo, paper, debug."""
    options: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """What the data set does not say of itself."""
    text_encoder: str | None = None
    """minilm, a table file, or an .onnx file; the embeddings stored with the data if not given."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Settings of the run."""

    def run(self, _command: str) -> int:
        """Train."""
        source = open_data(self.data, self.options)
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        result = train(source, self.config, self.out, encoder=encoder)
        best = "" if result.best is None else f", lowest held-out loss {result.best:.3f}"
        state = "finished" if result.finished else "stopped; run the same command to go on"
        print(f"{state} at update {result.updates}{best}; checkpoints: {result.run}/last and {result.run}/best")
        return 0 if result.finished else 130


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Run a policy closed loop, count its successes, write a report."""

    checkpoint: Path
    """Checkpoint or run folder."""
    tasks: tuple[str, ...] = ()
    """Task names; those it was trained on if not given."""
    env: str = "metaworld"
    """Environment name."""
    trials: int = 20
    """Trials per task."""
    seed: int = 0
    """Seed of the trials."""
    out: Path | None = None
    """Folder of the report; beside last/ and best/ in a run folder, else in the checkpoint's folder, if not given."""
    data: Path | None = None
    """The data set it was trained on, for plots on held-out episodes."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file; the one the checkpoint names if not given."""
    baselines: bool = True
    """Run the expert, the blind floor and random actions beside it."""
    workers: int = 0
    """Processes; 0 means one per core."""

    def run(self, command: str) -> int:
        """Evaluate."""
        provenance = load_info(self.checkpoint).provenance
        recorded = provenance.get("env")
        env = EnvSettings() if recorded is None else settings.from_json(EnvSettings, recorded)
        tasks = self.tasks or tuple(provenance.get("tasks", ()))
        trials = TrialSettings(
            tasks=tasks, trials=self.trials, seed=self.seed, baselines=self.baselines, workers=self.workers
        )
        out = self.out or _report_folder(resolve(self.checkpoint))
        source = None if self.data is None else open_data(self.data, DataOptions())
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        report = evaluate_checkpoint(
            self.checkpoint,
            out,
            env=replace(env, env=self.env),
            settings=trials,
            source=source,
            encoder=encoder,
            context=ReportContext(command=command),
        )
        for task in report.tasks:
            low, high = task.interval95
            print(f"{task.task}: {task.successes} of {task.trials} ({task.success:.0%}, 95 % {low:.0%}..{high:.0%})")
        print(f"mean {report.task_mean('success'):.0%}; report: {out / 'report.html'}")
        return 0


def _report_folder(checkpoint: Path) -> Path:
    """Return where a checkpoint's report goes: not into last/ or best/, which the next saving replaces."""
    if checkpoint.name in RUN_ORDER:
        return checkpoint.parent / f"evaluation-{checkpoint.name}"
    return checkpoint / "evaluation"


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Show what is in a checkpoint or a data set."""

    path: tyro.conf.Positional[Path]
    """Checkpoint, run or data folder."""
    out: Path | None = None
    """HTML file to write about a data set, with histograms and images; none if not given."""
    episode: int | None = None
    """Episode the page shows; one of median length if not given."""
    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """How to read a data set."""

    def run(self, command: str) -> int:
        """Inspect."""
        if any((self.path / name / INFO_FILE).is_file() for name in ("", *RUN_ORDER)):
            if self.out is not None:
                raise ValueError(f"{self.path} is a checkpoint, which has no page; leave out --out {self.out}")
            print(checkpoint_text(self.path))
            return 0
        source = open_data(self.path, self.data)
        survey = survey_data(source)
        print(data_text(survey))
        if self.out is None:
            print("histograms and images: add --out PAGE.html")
        else:
            print(f"page: {write_page(self.out, survey, show_episode(source, self.episode), command=command)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Serve a policy to robots over WebSockets, in openpi's protocol, until SIGTERM or Ctrl-C."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    server: tyro.conf.OmitArgPrefixes[ServerSettings] = field(default_factory=ServerSettings)
    """Where it listens and what it lets happen."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file; the one the checkpoint names if not given."""

    def run(self, _command: str) -> int:
        """Serve."""
        try:
            from rt1.serve.server import PolicyServer, serve
        except ModuleNotFoundError as error:
            raise ValueError(f"rt1 serve needs {error.name}; run: pip install 'rt1[serve]'") from error
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        policy = Policy.from_checkpoint(self.checkpoint, text_encoder=encoder)
        server = PolicyServer(policy, self.server, metadata={"control_rate": load_info(self.checkpoint).control_rate})
        scheme = "ws" if self.server.certificate is None else "wss"
        serve(
            server, lambda port: print(f"serving {self.checkpoint} on {scheme}://{self.server.host}:{port}", flush=True)
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Record, train, evaluate and report on Meta-World in one go; run again to reuse what is done."""

    demo: tyro.conf.OmitArgPrefixes[DemoSettings] = field(default_factory=DemoSettings)
    """What the demo does."""

    def run(self, command: str) -> int:
        """Run the demo."""
        print(summary(run_demo(self.demo, command=command)))
        return 0


EXTRAS = {
    "av": "report",
    "datasets": "huggingface",
    "h5py": "hdf5",
    "matplotlib": "report",
    "onnxruntime": "use",
    "pyarrow": "lerobot",
    "websockets": "serve",
}
"""Package that a command may miss -> the extra that brings it."""

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": DemoCommand,
    "record": RecordCommand,
    "train": TrainCommand,
    "evaluate": EvaluateCommand,
    "inspect": InspectCommand,
    "serve": ServeCommand,
    "convert tensorflow": ConvertTensorFlowCommand,
    "convert flax": ConvertFlaxCommand,
    "convert imagenet": ConvertImageNetCommand,
    "convert rlds": ConvertDataCommand,
    "convert lerobot": ConvertDataCommand,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors a user can mend are one line on stderr and exit status 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    try:
        command = parse(words)
        return int(command.run(shlex.join(["rt1", *words])))
    except BrokenPipeError:  # the reader of a pipe, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except EXPECTED as error:
        if os.environ.get("RT1_TRACEBACK"):
            raise
        print(f"rt1: {_in_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rt1: interrupted; run the same command to go on", file=sys.stderr)
        return 130


def _in_one_line(error: Exception) -> str:
    """Return an error's message; for a missing package, which extra brings it."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in EXTRAS:
        return f"{package} is not installed; run: pip install 'rt1[{EXTRAS[package]}]'"
    return str(error)


def parse(words: Sequence[str]) -> Any:  # noqa: ANN401 (one of the command classes)
    """Return the command object for command-line words; the preset of ``train`` gives the defaults of its options."""
    name, words = _command_name(words)
    kind = lookup("command", name, COMMANDS)
    choices: dict[str, Any] = {"prog": f"rt1 {name}"}
    if kind is TrainCommand:
        config = preset(_option(words, "--preset", "demo"))
        choices["default"] = TrainCommand(data=tyro.MISSING, out=tyro.MISSING, preset=config.name, config=config)
    try:
        return tyro.cli(kind, args=words, **choices)
    except SystemExit as stop:
        if stop.code:
            for hint in _option_hints(kind, words, choices):
                print(f"rt1: {hint}", file=sys.stderr)
        raise


def _command_name(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split command-line words into the command's name, one word or "convert" and another, and the rest."""
    count = 2 if words[0] == "convert" and len(words) > 1 and not words[1].startswith("-") else 1
    return " ".join(words[:count]), list(words[count:])


def _option_hints(kind: Callable[..., Any], words: Sequence[str], choices: Mapping[str, Any]) -> list[str]:
    """Return "did you mean" for each option that a command does not have; the options are read off its help page."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], **choices)
    known = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", page.getvalue()))
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    return [unknown_name("option", name, known) for name in given if name not in known]


def _option(words: Sequence[str], name: str, default: str) -> str:
    """Return an option's value before the real parsing, which needs it for its defaults."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return default


def _usage() -> str:
    lines = ["usage: rt1 COMMAND [options]; rt1 COMMAND --help explains its options", ""]
    return "\n".join(lines + [f"  {name:20s}{kind.__doc__}" for name, kind in COMMANDS.items()])
