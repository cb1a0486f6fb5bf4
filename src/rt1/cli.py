"""The command ``rt1``: demo, record, train, evaluate, inspect, serve, play, export, convert."""

from __future__ import annotations

import os
import sys

from rt1.errors import RT1Error, UsageError

# Before torch and its OpenMP start: idle threads that spin triple the CPU time of a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import importlib.util
import io
import shlex
from collections.abc import Sequence
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
"""Bytes of address space that torch, MuJoCo and the video libraries need. Measured: crashes up to 2 GB."""

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

COMMANDS = {
    "demo": (
        "rt1.commands.demo:DemoCommand",
        "Record, train, evaluate and report on Meta-World in one go; run again to reuse what is done.",
    ),
    "record": (
        "rt1.commands.record:RecordCommand",
        "Record an environment's scripted experts as an RLDS data set; run again to resume.",
    ),
    "train": (
        "rt1.commands.train:TrainCommand",
        "Train a policy on a recorded data set; run again to resume exactly.",
    ),
    "evaluate": (
        "rt1.commands.evaluate:EvaluateCommand",
        "Run a policy closed loop and count its successes, or hold it against recorded episodes; write a report.",
    ),
    "improve": (
        "rt1.commands.improve:ImproveCommand",
        "Let a policy learn from its own successes in rounds; run again to resume, or with more rounds.",
    ),
    "inspect": ("rt1.commands.inspect:InspectCommand", "Show what is in a checkpoint or a data set."),
    "harvest": (
        "rt1.commands.harvest:HarvestCommand",
        "Write the text embeddings that a data set carries as a table, which then is a text encoder for its sentences.",
    ),
    "serve": (
        "rt1.commands.serve:ServeCommand",
        "Serve a policy to robots over WebSockets, in openpi's protocol, until SIGTERM or Ctrl-C.",
    ),
    "play": (
        "rt1.commands.play:PlayCommand",
        "Watch and drive a policy in a simulator, on a web page on this machine, until Ctrl-C.",
    ),
    "export": (
        "rt1.commands.export:ExportCommand",
        "Write a policy as two graphs for ONNX Runtime, OpenVINO or torch, compared with the network step by step.",
    ),
    "convert tensorflow": (
        "rt1.commands.convert:ConvertTensorFlowCommand",
        "Convert Google's RT-1: a ckpt-NNN prefix or a SavedModel folder; needs no TensorFlow.",
    ),
    "convert flax": (
        "rt1.commands.convert:ConvertFlaxCommand",
        "Convert Google's RT-1-X: a flax msgpack file or the folder it lies in; needs no JAX.",
    ),
    "convert imagenet": (
        "rt1.commands.convert:ConvertImageNetCommand",
        "Convert ImageNet weights to our backbone: EfficientNet-B3 of Keras (.h5), timm, torchvision; MaxViT of timm.",
    ),
    "convert rlds": (
        "rt1.commands.convert:ConvertDataCommand",
        "Convert a data set between RLDS and LeRobot, image bytes unchanged; run again to resume.",
    ),
    "convert lerobot": (
        "rt1.commands.convert:ConvertDataCommand",
        "Convert a data set between RLDS and LeRobot, image bytes unchanged; run again to resume.",
    ),
}
"""Command -> its class, imported only to run it or to explain its options, and the first line of its help."""

PRESET_COMMANDS = {"train": "--init", "improve": "--checkpoint"}
"""Commands whose options' defaults are those of a preset, and the option that names a network to go on with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors a user can mend are one line on stderr and exit status 1, or 2 for words amiss."""
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
        print("rt1: interrupted; run the same command to go on", file=sys.stderr)
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
        return _usage()
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
    """Return the command object for command-line words; a preset gives the defaults of the options of its run."""
    name, words = _command_name(words)
    if name not in COMMANDS:
        raise UsageError(unknown_name("command", name, COMMANDS))
    _check_address_space()
    from rt1.commands.parsing import parsed  # with tyro, which a page of commands does not need

    module, _, kind_name = COMMANDS[name][0].partition(":")
    kind = getattr(importlib.import_module(module), kind_name)

    choices: dict[str, Any] = {}
    if name in PRESET_COMMANDS:
        import tyro

        from rt1.commands.train import starting_config

        start = _option(words, PRESET_COMMANDS[name], "")
        config = starting_config(_option(words, "--preset", "demo"), start)
        choices["default"] = kind(data=tyro.MISSING, out=tyro.MISSING, preset=config.name, config=config)
    return parsed(kind, words, program=f"rt1 {name}", **choices)


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


def _usage() -> str:
    lines = ["usage: rt1 COMMAND [options]; rt1 COMMAND --help explains its options", ""]
    return "\n".join(lines + [f"  {name:20s}{explanation}" for name, (_, explanation) in COMMANDS.items()])
