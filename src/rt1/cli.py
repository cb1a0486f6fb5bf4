"""The command ``rt1`` and the list of its commands."""

from __future__ import annotations

import os
import sys

from rt1.errors import RT1Error, UsageError

# Before torch and its OpenMP start: idle threads that spin triple the CPU time of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import importlib.util
import io
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import rt1
from rt1.common.suggest import printable, unknown_name

EXPECTED = (RT1Error, ValueError, OSError, ModuleNotFoundError)
"""Errors that say all a user needs in one line; others are our own mistakes and keep their traceback."""

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
    "av": "report",
    "datasets": "huggingface",
    "h5py": "hdf5",
    "matplotlib": "report",
    "msgpack": "serve",
    "onnxruntime": "use",
    "openvino": "openvino",
    "prometheus_client": "serve",
    "pyarrow": "lerobot",
    "wandb": "wandb",
    "websockets": "serve",
}
"""Package that a command may miss -> the extra that brings it."""

COMMANDS = {
    "demo": (
        "rt1.commands.demo:DemoCommand",
        "Record, train, evaluate and report in a simulator in one go. Run it again to reuse finished stages.",
    ),
    "record": (
        "rt1.commands.record:RecordCommand",
        "Record an environment's scripted experts as an RLDS data set. Run it again to resume.",
    ),
    "train": (
        "rt1.commands.train:TrainCommand",
        "Train a policy on a recorded data set. Run it again to resume exactly.",
    ),
    "evaluate": (
        "rt1.commands.evaluate:EvaluateCommand",
        "Run a policy closed loop in a simulator, count its successes, and write a report.",
    ),
    "evaluate-offline": (
        "rt1.commands.evaluate_offline:EvaluateOfflineCommand",
        "Compare a policy's actions with recorded episodes, without a simulator, and write a report.",
    ),
    "improve": (
        "rt1.commands.improve:ImproveCommand",
        "Train a policy on its own successes, in rounds. Run it again to resume, or to add rounds.",
    ),
    "inspect": ("rt1.commands.inspect:InspectCommand", "Show the contents of a checkpoint or a data set."),
    "text-table": (
        "rt1.commands.text_table:TextTableCommand",
        "Write the text embeddings of a data set to a table file, which is a text encoder for its sentences.",
    ),
    "serve": (
        "rt1.commands.serve:ServeCommand",
        "Serve a policy to robots over WebSockets, with openpi's protocol, until SIGTERM or Ctrl-C.",
    ),
    "play": (
        "rt1.commands.play:PlayCommand",
        "Watch and control a policy in a simulator, on a web page on this machine, until Ctrl-C.",
    ),
    "export": (
        "rt1.commands.export:ExportCommand",
        "Export a policy to ONNX Runtime, OpenVINO or torch, and compare it with the network step by step.",
    ),
    "convert tensorflow": (
        "rt1.commands.convert:ConvertTensorFlowCommand",
        "Convert Google's RT-1, a ckpt-NNN prefix or a SavedModel folder. TensorFlow is not needed.",
    ),
    "convert flax": (
        "rt1.commands.convert:ConvertFlaxCommand",
        "Convert Google's RT-1-X, a flax msgpack file or its folder. JAX is not needed.",
    ),
    "convert imagenet": (
        "rt1.commands.convert:ConvertImageNetCommand",
        "Convert ImageNet weights to a backbone: EfficientNet-B3 (Keras .h5, timm, torchvision) or MaxViT (timm).",
    ),
    **{
        f"convert {kind}": (
            "rt1.commands.convert:ConvertDataCommand",
            "Convert a data set to RLDS or LeRobot with unchanged image bytes. Run it again to resume.",
        )
        for kind in ("rlds", "lerobot", "hdf5", "npz", "huggingface")
    },
}
"""Command -> its class, imported only to run it or to explain its options, and the first line of its help."""

PRESET_COMMANDS = ("train", "improve")
"""Commands whose options take their defaults from a preset, or from the network of a checkpoint."""

RENAMED_COMMANDS = {"harvest": "text-table"}
"""Old name -> name."""

RENAMED_OPTIONS = {
    "--checkpoint": "a positional argument: rt1 {command} {value}",
    "--setting": "--backend",
    "--clip": "--windows-per-clip",
    "--train.clip": "--train.windows-per-clip",
}
"""Option that no command has any more -> what to write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. An error that the user can fix is one line on stderr, with status 1, or 2 for a usage error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _escape_what_cannot_be_printed()
    if answer := _answer(words):
        print(answer)
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
    """Let a character that the terminal's encoding lacks become an escape, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _answer(words: Sequence[str]) -> str | None:
    """Return what is printed without a command."""
    if not words or words[0] in ("-h", "--help"):
        return _usage(COMMANDS)
    if words in (["convert"], ["convert", "-h"], ["convert", "--help"]):
        return _usage([name for name in COMMANDS if name.startswith("convert ")])
    return f"rt1 {rt1.__version__}" if words[0] == "--version" else None


def _in_one_line(error: Exception, command: Any) -> str | None:  # noqa: ANN401 (one of the command classes)
    """Return what a user needs to know of an error; None for our own mistakes."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in EXTRAS:
        return f"{package} is not installed; run: pip install 'rt1[{EXTRAS[package]}]'"
    if isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
        return f"memory is short ({str(error) or type(error).__name__}); free some, raise `ulimit -v`, or ask for less"
    if not isinstance(error, EXPECTED):
        return None
    if isinstance(error, OSError) and not isinstance(error, RT1Error) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; give another path, or check who may use it"
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

    module, _, kind_name = COMMANDS[name][0].partition(":")
    kind = getattr(importlib.import_module(module), kind_name)

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
        raise MemoryError(f"the address space is limited to {limit / 1e9:.2g} GB; it must be at least 3 GB")


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
    from rt1.train.activations import RENAMED

    for option in ("--activations", "--train.activations"):
        if (name := _option(words, option, "")) in RENAMED:
            raise UsageError(f"{option} is {name}, an old name; use {option} {RENAMED[name]}")


def _usage(names: Iterable[str]) -> str:
    lines = ["usage: rt1 COMMAND [options]; rt1 COMMAND --help explains its options", ""]
    return "\n".join(lines + [f"  {name:20s}{COMMANDS[name][1]}" for name in names])
