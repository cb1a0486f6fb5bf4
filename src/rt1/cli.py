"""The command ``rt1``: demo, record, train, evaluate, inspect, serve, play, export, convert."""

from __future__ import annotations

import os
import sys

from rt1.errors import RT1Error, UsageError

# Before torch and its OpenMP start: idle threads that spin triple the CPU time of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from rt1.commands.convert import (
    ConvertDataCommand,
    ConvertFlaxCommand,
    ConvertImageNetCommand,
    ConvertTensorFlowCommand,
)
from rt1.commands.demo import DemoCommand
from rt1.commands.evaluate import EvaluateCommand
from rt1.commands.export import ExportCommand
from rt1.commands.harvest import HarvestCommand
from rt1.commands.improve import ImproveCommand
from rt1.commands.inspect import InspectCommand
from rt1.commands.play import PlayCommand
from rt1.commands.record import RecordCommand
from rt1.commands.serve import ServeCommand
from rt1.commands.train import TrainCommand, starting_config
from rt1.names import lookup
from rt1.parsing import parsed
from rt1.train.activations import RENAMED

EXPECTED = (RT1Error, ValueError, OSError, ModuleNotFoundError)
"""Errors that say all a user needs in one line; others are our own mistakes and keep their traceback."""

EXTRAS = {
    "av": "report",
    "datasets": "huggingface",
    "h5py": "hdf5",
    "matplotlib": "report",
    "msgpack": "serve",
    "onnxruntime": "use",
    "openvino": "openvino",
    "pyarrow": "lerobot",
    "wandb": "wandb",
    "websockets": "serve",
}
"""Package that a command may miss -> the extra that brings it."""

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": DemoCommand,
    "record": RecordCommand,
    "train": TrainCommand,
    "evaluate": EvaluateCommand,
    "improve": ImproveCommand,
    "inspect": InspectCommand,
    "harvest": HarvestCommand,
    "serve": ServeCommand,
    "play": PlayCommand,
    "export": ExportCommand,
    "convert tensorflow": ConvertTensorFlowCommand,
    "convert flax": ConvertFlaxCommand,
    "convert imagenet": ConvertImageNetCommand,
    "convert rlds": ConvertDataCommand,
    "convert lerobot": ConvertDataCommand,
}

PRESET_COMMANDS: dict[Callable[..., Any], str] = {TrainCommand: "--init", ImproveCommand: "--checkpoint"}
"""Commands whose options' defaults are those of a preset, and the option that names a network to go on with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors a user can mend are one line on stderr and exit status 1, or 2 for words amiss."""
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
        return 2 if isinstance(error, UsageError) else 1
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
    """Return the command object for command-line words; a preset gives the defaults of the options of its run."""
    name, words = _command_name(words)
    kind = lookup("command", name, COMMANDS)
    choices: dict[str, Any] = {}
    if kind in PRESET_COMMANDS:
        start = _option(words, PRESET_COMMANDS[kind], "")
        _refuse_old_names(words)
        config = starting_config(_option(words, "--preset", "demo"), start)
        choices["default"] = kind(data=tyro.MISSING, out=tyro.MISSING, preset=config.name, config=config)
    return parsed(kind, words, program=f"rt1 {name}", **choices)


def _command_name(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split command-line words into the command's name, one word or "convert" and another, and the rest."""
    count = 2 if words[0] == "convert" and len(words) > 1 and not words[1].startswith("-") else 1
    return " ".join(words[:count]), list(words[count:])


def _option(words: Sequence[str], name: str, default: str) -> str:
    """Return an option's value before the real parsing, which needs it for its defaults."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return default


def _refuse_old_names(words: Sequence[str]) -> None:
    for option in ("--activations", "--train.activations"):
        if (name := _option(words, option, "")) in RENAMED:
            raise UsageError(f"{option} is {name}, an old name; use {option} {RENAMED[name]}")


def _usage() -> str:
    lines = ["usage: rt1 COMMAND [options]; rt1 COMMAND --help explains its options", ""]
    return "\n".join(lines + [f"  {name:20s}{kind.__doc__}" for name, kind in COMMANDS.items()])
