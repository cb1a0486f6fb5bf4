"""The command ``rt1`` and the list of its commands."""

from __future__ import annotations

import os
import sys

from rt1.errors import RT1Error, UsageError

# Before torch and its OpenMP start: idle threads that spin triple the CPU time of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ast
import importlib.util
import io
import logging
import shlex
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import rt1
from rt1.common.suggest import printable, unknown_name

EXPECTED = (RT1Error, ValueError, OSError, ModuleNotFoundError)
"""Errors that say all a user needs in one line. Others are our own mistakes and keep their traceback."""

OUT_OF_MEMORY = (
    "can't start new thread",
    "failed to map segment",
    "can't allocate memory",
    "Cannot allocate memory",
    "CUDA out of memory",
)
"""What an error of Python, torch or the system says where memory, or room for a thread's stack, is short."""

LEAST_ADDRESS_SPACE = 3_000_000_000
"""Bytes of address space that torch, simulators and the video libraries need. Measured: crashes up to 2 GB."""

EXTRAS = {
    "aiohttp": "http",
    "av": "report",
    "datasets": "huggingface",
    "dm_control": "dm_control",
    "fsspec": "http",
    "gcsfs": "gcs",
    "gymnasium": "gym",
    "h5py": "hdf5",
    "huggingface_hub": "hub",
    "matplotlib": "report",
    "mcap": "mcap",
    "msgpack": "serve",
    "onnxruntime": "use",
    "openvino": "openvino",
    "prometheus_client": "serve",
    "pyarrow": "lerobot",
    "rerun": "viz",
    "s3fs": "s3",
    "trackio": "trackio",
    "wandb": "wandb",
    "websockets": "serve",
    "yaml": "hub",
}
"""Package that a command may miss -> the extra that brings it."""

COMMANDS = {
    "demo": "demo_pipeline:DemoCommand",
    "record": "record:RecordCommand",
    "train": "train:TrainCommand",
    "evaluate": "evaluate:EvaluateCommand",
    "evaluate-offline": "evaluate_offline:EvaluateOfflineCommand",
    "improve": "improve:ImproveCommand",
    "inspect": "inspect:InspectCommand",
    "fetch": "fetch:FetchCommand",
    "text-table": "text_table:TextTableCommand",
    "serve": "serve:ServeCommand",
    "envs": "envs:EnvsCommand",
    "play": "play:PlayCommand",
    "engines": "engines:EnginesCommand",
    "export": "export:ExportCommand",
    "package": "publish:PackageCommand",
    "push": "publish:PushCommand",
    "convert tensorflow": "convert:ConvertTensorFlowCommand",
    "convert flax": "convert:ConvertFlaxCommand",
    "convert imagenet": "convert:ConvertImageNetCommand",
    "convert checkpoint": "convert:ConvertCheckpointCommand",
    **{f"convert {kind}": "convert:ConvertDataCommand" for kind in ("rlds", "lerobot", "hdf5", "npz", "huggingface")},
}
"""Command -> its file in rt1.commands and its class, imported only to run it or to explain its options."""

PRESET_COMMANDS = ("train", "improve")
"""Commands whose options take their defaults from a preset, or from the network of a checkpoint."""

RENAMED_COMMANDS = {"harvest": "text-table"}
"""Old name -> name."""

RENAMED_OPTIONS = {
    "--checkpoint": "a positional argument: rt1 {command} {value}",
    "--setting": "--engine",
    "--backend": "--engine",
    "--tune": "the command rt1 engines RUN",
    "--action-leads-here": "--action-is-previous",
    "--clip": "--windows-per-clip",
    "--train.clip": "--train.windows-per-clip",
}
"""Option that no command has any more -> what to write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. An error that the user can fix is one line on stderr, with status 1, or 2 for a usage error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _escape_what_cannot_be_printed()
    logging.basicConfig(format="%(message)s")  # else a library that logs first sets its own format for all lines
    if not words or words[0] in ("-h", "--help", "--version"):
        print(f"rt1 {rt1.__version__}" if words == ["--version"] else _usage(COMMANDS))
        return 0
    if words in (["convert"], ["convert", "-h"], ["convert", "--help"]):
        print(_usage([name for name in COMMANDS if name.startswith("convert ")]))
        return 0
    command: Any = None
    try:
        command = parse(words)
        return int(command.run(shlex.join(["rt1", *words])))
    except BrokenPipeError:  # the reader of a pipe, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("rt1: interrupted. Run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        line = _in_one_line(error, command)
        if line is None or os.environ.get("RT1_TRACEBACK"):
            raise
        print(f"rt1: {printable(line)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _escape_what_cannot_be_printed() -> None:
    """Print an escape for a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _in_one_line(error: Exception, command: Any) -> str | None:  # noqa: ANN401 (one of the command classes)
    """Return what a user needs to know of an error, None for our own mistakes."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in EXTRAS:
        return f"{package} is not installed. Run: pip install 'rt1[{EXTRAS[package]}]'"
    if isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
        return f"memory is short ({str(error) or type(error).__name__}). Free some, raise `ulimit -v`, or ask for less"
    if not isinstance(error, EXPECTED):
        return None
    if isinstance(error, OSError) and not isinstance(error, RT1Error) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Give another path, or check who may use it"
    if command is None:
        return str(error)
    from rt1.commands.parsing import as_typed, options_of

    return as_typed(str(error), options_of(type(command)))


def parse(words: Sequence[str]) -> Any:  # noqa: ANN401 (one of the command classes)
    """Return the command object for command-line words. A preset gives the defaults of a run's settings."""
    name, words = _command_name(words)
    if name in RENAMED_COMMANDS:
        raise UsageError(f"{name} is now called {RENAMED_COMMANDS[name]}: rt1 {RENAMED_COMMANDS[name]}")
    if name not in COMMANDS:
        raise UsageError(unknown_name("command", name, COMMANDS))
    _check_renamed_options(name, words)
    _check_address_space()
    from rt1.commands.parsing import parsed  # with tyro, which a page of commands does not need

    module, _, kind_name = COMMANDS[name].partition(":")
    kind = getattr(importlib.import_module(f"rt1.commands.{module}"), kind_name)
    choices: dict[str, Any] = {}
    if name in PRESET_COMMANDS:
        import tyro

        from rt1.commands.train import starting_config

        start = _option(words, "--init", "") if name == "train" else next(iter(words), "")
        _refuse_old_names(words)
        config = starting_config(_option(words, "--preset", "demo"), "" if start.startswith("-") else start)
        choices["default"] = kind(data=tyro.MISSING, out=tyro.MISSING, preset=config.name, config=config)
    command = parsed(kind, words, program=f"rt1 {name}", **choices)
    if name == "improve" and command.checkpoint is not None and words[0].startswith("-"):
        raise UsageError(f"{command.checkpoint} must come before the options: rt1 improve {command.checkpoint} ...")
    return command


def _check_renamed_options(command: str, words: Sequence[str]) -> None:
    for option in (word.partition("=")[0] for word in words):
        if option in RENAMED_OPTIONS:
            value = shlex.quote(_option(words, option, "RUN"))
            raise UsageError(f"{option} is now {RENAMED_OPTIONS[option].format(command=command, value=value)}")


def _check_address_space() -> None:
    """Refuse a limit under which libraries crash while they are loaded, which nothing can catch."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise MemoryError(f"the address space is limited to {limit / 1e9:.2g} GB, must be at least 3 GB")


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
    from rt1.train.config import RENAMED

    for option in ("--activations", "--train.activations"):
        if (name := _option(words, option, "")) in RENAMED:
            raise UsageError(f"{option} is {name}, an old name. Use {option} {RENAMED[name]}")


def _usage(names: Iterable[str]) -> str:
    lines = ["usage: rt1 COMMAND [options]. rt1 COMMAND --help explains its options", ""]
    return "\n".join(lines + [f"  {name:20s}{_explanation(COMMANDS[name])}" for name in names])


def _explanation(command: str) -> str:
    """Return the docstring of a command's class, read from its file because an import would load torch."""
    module, _, kind_name = command.partition(":")
    source = files("rt1.commands").joinpath(f"{module}.py").read_text(encoding="utf-8")
    (kind,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == kind_name)
    return ast.get_docstring(kind) or ""
