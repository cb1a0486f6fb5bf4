"""The command line: what it prints, what it returns, and one clear line for whatever a user can get wrong."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import math
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rt1
from rt1.checkpoint import load_info
from rt1.cli import COMMANDS, main, parse
from rt1.commands import train as train_command
from rt1.commands.inspect import InspectCommand
from rt1.data.rlds.reader import RLDSSource
from rt1.envs import gl
from rt1.errors import ClientError, RT1Error
from rt1.presets import PRESETS, preset
from rt1.serve.client import Client
from rt1.train.loop import train

FAUCET = [
    "--tasks",
    "faucet-open",
    "--image-size",
    "16",
    "--episodes",
    "2",
    "--episodes-per-shard",
    "1",
    "--workers",
    "1",
]


def _status(*words: object) -> int:
    """Run a command; the exit status is what it returns or, from the parser, what it leaves with."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; return its one line of complaint."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert _status(*words) not in (0, 130)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "╭" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("rt1: ")]
        return line

    return run


@pytest.fixture
def data(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    """A recording of four episodes in two shards."""
    return write_recording(tmp_path / "data", make_source(4, 6, 5, 4))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Help


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_the_command_alone_lists_its_commands_with_what_they_do(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    page = capsys.readouterr().out
    for name, command in COMMANDS.items():
        module, _, kind = command.partition(":")
        explanation = getattr(importlib.import_module(f"rt1.commands.{module}"), kind).__doc__
        assert re.search(rf"^  {name} +{re.escape(explanation)}$", page, re.MULTILINE)


@pytest.mark.parametrize("words", [["convert"], ["convert", "-h"], ["convert", "--help"]])
def test_convert_alone_lists_what_converts(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    page = capsys.readouterr().out
    listed = [name for name in COMMANDS if f"  {name} " in page]
    assert listed == [name for name in COMMANDS if name.startswith("convert ")]
    assert {"convert hdf5", "convert npz", "convert huggingface"} < set(listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # wider pages stand in two columns
    assert _status(*command.split(), "--help") == 0
    page = capsys.readouterr().out.partition("\n\n")[2]  # without the line of usage
    page = " ".join(re.sub("[│╭╮╰╯─]|-{3,}", " ", page).split())
    # "--on, --off  What it does." is one option; "--help" is explained by the parser.
    options = re.sub(r", --", ",--", page).split(" --")[1:]
    assert len(options) >= (0 if command == "inspect" else 1)
    unexplained = [option for option in options if not re.search(r"[\w)/]\. \((?:default|required)", option)]
    assert unexplained == []


def test_the_preset_of_a_training_gives_the_defaults_of_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for name in PRESETS:
        assert parse(["train", "--data", "d", "--out", "o", "--preset", name]).config == preset(name)
        assert parse(["train", "--data", "d", f"--preset={name}", "--out", "o"]).config == preset(name)
    changed = parse(["train", "--data", "d", "--out", "o", "--preset", "debug", "--optimizer.warmup", "7"]).config
    assert (changed.optimizer.warmup, changed.updates) == (7, preset("debug").updates)
    assert _status("train", "--preset", "debug", "--help") == 0
    assert f"(default: {preset('debug').batch_size})" in capsys.readouterr().out


def test_help_lists_every_preset_and_begins_with_the_options_that_matter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # wider pages stand in two columns
    assert _status("train", "--help") == 0
    page = capsys.readouterr().out
    for name in PRESETS:
        assert re.search(rf"- {name}: \S+ ", page)
    options = re.findall(r"^[│ ]+--(\w[\w.-]*)", page, re.MULTILINE)
    assert options[:4] == ["data", "out", "preset", "text-encoder"]
    assert set(options[4:10]) == {"updates", "batch-size", "seed", "init", "device", "precision"}
    nested = [name for name in options if "." in name]
    assert options.index(nested[0]) > options.index("name")  # after all settings of the run itself
    assert options[-1] == "episode-key"  # how to read a data set comes last


# Documents

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for folder in ("docs", "packages") for page in sorted((ROOT / folder).rglob("*.md"))),
]


def _commands_in(page: Path) -> Iterator[str]:
    """Yield the commands of rt1 in a page's code blocks, fenced or indented."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [*"\n".join(blocks).splitlines(), *re.findall(r"(?:\A|\n\n) {4}(\S.*)", text)]
    for line in lines:
        if match := re.search(r"(?:^|/|-m )rt1 (.*)", line.strip()):
            yield match[1]


DOCUMENTED = [(page.name, command) for page in PAGES if page.name != "results.md" for command in _commands_in(page)]


def test_commands_are_found_in_documents() -> None:
    assert {"README.md", "evaluation.md", "training.md", "weights.md"} <= {page for page, _ in DOCUMENTED}
    assert any("--preset paper" in command for _, command in DOCUMENTED)  # of several lines


@pytest.mark.parametrize(("page", "command"), DOCUMENTED)
def test_a_documented_command_can_be_typed_as_it_stands(
    page: str, command: str, make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)
    for before in {"--init", "improve"} & set(words):  # it is read to learn the network's settings
        if not (path := words[words.index(before) + 1]).startswith("-"):
            make_checkpoint(tmp_path / path)
    assert dataclasses.is_dataclass(parse(words)), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_in_running_text_exist(page: Path) -> None:
    if page.name == "results.md":  # what was typed then
        return
    for span in re.findall(r"`rt1 ([^`]*)`", page.read_text(encoding="utf-8")):
        words = [word for word in span.split() if word not in ("|", "...")]
        if words[0] in ("COMMAND", "--version", "--help") or words == ["convert"]:
            continue
        name = " ".join(words[: 2 if words[0] == "convert" else 1])
        assert any(known.startswith(name) for known in COMMANDS), span
        assert not re.search("unknown (?!policy)|is now", _complaint(words)), span


def _complaint(words: list[str]) -> str:
    """Return what is said of a command with too few words, or with files that are not there."""
    try:
        parse(words)
    except RT1Error as error:
        return str(error)
    except SystemExit:  # --help
        pass
    return ""


# Old spellings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate --checkpoint x --trials 2", "--checkpoint is now a positional argument: rt1 evaluate x"),
        ("evaluate --checkpoint=x", "--checkpoint is now a positional argument: rt1 evaluate x"),
        ("improve --data d --out o --checkpoint x", "--checkpoint is now a positional argument: rt1 improve x"),
        ("evaluate x --trials 0", "rt1 evaluate-offline RUN --data DATA"),
        ("serve x --setting int8", "--setting is now --engine"),
        ("play x --backend int8", "--backend is now --engine"),
        ("serve x --tune", "--tune is now the command rt1 engines RUN"),
        ("train --data d --out o --clip 2", "--clip is now --windows-per-clip"),
        ("improve --data d --out o --train.clip 2", "--train.clip is now --train.windows-per-clip"),
        ("harvest d --out o", "harvest is now called text-table"),
        ("improve --data d --out o x", "x must come before the options: rt1 improve x"),
    ],
)
def test_an_old_spelling_ends_with_the_new_one(refused: Callable[..., str], words: str, message: str) -> None:
    assert message in refused(*words.split())


# Mistyped words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recordd"], "unknown command 'recordd', did you mean 'record'"),
        (["convert", "tensorflw"], "unknown command 'convert tensorflw', did you mean 'convert tensorflow'"),
        (["demo", "--episods", "3"], "unknown option '--episods', did you mean '--episodes'"),
        (["train", "--optimizer.learning-rat=3"], "unknown option '--optimizer.learning-rat', did you mean '--opt"),
        (["train", "--data", "d", "--out", "o", "--preset", "dmeo"], "unknown preset 'dmeo', did you mean 'demo'"),
        (["train", "--activations", "lean"], "--activations is lean, an old name. Use --activations selective"),
        (["demo", "--preset", "deebug"], "unknown preset 'deebug', did you mean 'debug'"),
        (["record", "--out", "o", "--tasks", "faucet-opne"], "unknown metaworld task 'faucet-opne', did you mean 'f"),
        (["demo", "--out", "o", "--tasks", "raech"], "unknown metaworld task 'raech', did you mean 'reach'"),
        (
            ["record", "--out", "o", "--tasks", "reach", "--text-encoder", "minillm"],
            "unknown text encoder 'minillm', did you mean 'minilm'",
        ),
    ],
)
def test_a_mistyped_word_is_answered_with_the_one_that_was_meant(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["record", "--out", "o", "--tasks", "reach", "--env", "metawrld"], "did you mean 'metaworld'"),
        (["record", "--out", "o", "--tasks", "reach", "--camera", "corner22"], "did you mean 'corner2'"),
        (["record", "--out", "o", "--tasks", "reach", "--episodes", "many"], "'many'"),
        (["record", "--out", "o", "--tasks", "reach", "--episodes", "0"], "--episodes is 0"),
        (["record", "--tasks", "reach"], "--out"),
        (["train", "--data", "d", "--out", "o", "--precision", "fp16"], "--precision is 'fp16', must be one of"),
        (
            ["train", "--data", "d", "--out", "o", "--model.backbone", "maxvit", "--model.image-size", "100", "100"],
            "--model.image-size is (100, 100). This MaxViT takes multiples of 224",
        ),
        (["train", "--data", "d", "--out", "o", "--model.image-size", "2", "2"], "Use a larger image"),
        (["train", "--data", "d", "--out", "o", "--model.backbone", "maxvitt"], "did you mean 'maxvit'?"),
        (["serve", "d", "--port", "70000"], "--port is 70000"),
        (["inspect", ""], "path is empty"),
        (["train", "--data", "", "--out", "o"], "--data is ''"),
        (["train", "--data", "=2", "--out", "o"], "--data is '=2'"),
        (["evaluate", "c", "--trials", "1000000000000"], "--trials is 1000000000000, must"),
        (["improve", "--data", "d", "--out", "o", "--own-share", "1"], "--own-share is 1.0"),
    ],
)
def test_a_value_that_cannot_be_is_named(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --data d --out o --threads 100000", "--threads is 100000, must be at most 512"),
        ("train --data d --out o --held-out inf", "--held-out is inf, must be a finite number"),
        ("train --data d --out o --model.window 1000000000", "--model.window is 1000000000, --model.image-tokens"),
        (
            "train --data d --out o --model.transformer.width 60000 --model.transformer.layers 400",
            "together 36,864,000,000 weights",
        ),
        ("improve --data d --out o --train.model.bins 60000 --train.model.transformer.width 60000", "weights"),
        ("record --out o --tasks reach --seed 100000000000000000000000", "--seed is 100000000000000000000000, must"),
        ("record --out o --tasks reach --workers 100000", "--workers is 100000, must be at most 512"),
        ("serve c --max-message-mb 1e400", "--max-message-mb is 1e400, must be a finite number"),
        ("serve c --port -1", "--port is -1"),
        ("evaluate c --seed -1", "--seed is -1, must be at least 0"),
        ("evaluate-offline c --data d --episodes 1e400", "--episodes is '1e400', must be one of"),
        ("evaluate c --cond-scale nan", "--cond-scale is nan, must be a finite number"),
        ("demo --episodes 0", "--episodes is 0, must be at least 1"),
        ("play c --seed -1", "--seed is -1, must be at least 0"),
        ("inspect d --episode -1", "--episode is -1, must be at least 0"),
        ("convert lerobot d --out o --to lerobot --fps 0", "--fps is 0, must be at least 1"),
        ("export c --out o --to onnx --steps -5", "--steps is -5, must be at least 1"),
        ("train --data d --out=", "--out is empty. Give a path"),
    ],
)
def test_a_number_out_of_bounds_is_one_line_with_its_option(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert re.fullmatch("rt1: [^\n]*\n", err)
    assert list(tmp_path.iterdir()) == []


SMALLEST_CALL = {
    "record": "--out o --tasks reach",
    "train": "--data d --out o",
    "evaluate": "c",
    "evaluate-offline": "c --data d",
    "improve": "--data d --out o",
    "inspect": "d",
    "fetch": "gs://d --out o",
    "text-table": "d --out o",
    "serve": "c",
    "play": "c",
    "engines": "c",
    "package": "c --out o",
    "push": "c user/name",
    "convert checkpoint": "c --to rt1 --out o",
    "export": "c --out o --to onnx",
    "convert tensorflow": "c --out o",
    "convert flax": "c --out o",
    "convert imagenet": "c --out o",
    "convert rlds": "d --out o --to lerobot",
    "convert lerobot": "d --out o --to rlds",
    "convert hdf5": "d --out o --to rlds",
    "convert npz": "d --out o --to rlds",
    "convert huggingface": "d --out o --to rlds",
}


def _settings_in(value: Any) -> Iterator[Any]:
    """Yield every dataclass of a command's settings."""
    if isinstance(value, tuple):
        for item in value:
            yield from _settings_in(item)
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from _settings_in(getattr(value, field.name))


def _hostile(settings: Any, name: str) -> Iterator[Any]:
    """Yield values that no number of these settings may have, in the field's own form."""
    hint = str(type(settings).__dataclass_fields__[name].type)
    value = getattr(settings, name)
    for number in (math.inf, -math.inf, math.nan, -1, -0.5, 10**23, -(10**23)):
        if type(number) is int or "float" in hint:
            yield (number,) * max(1, len(value or ())) if "tuple" in hint else number


@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_of_a_command_may_be_negative_infinite_or_nan(command: str) -> None:
    for settings in _settings_in(parse([*command.split(), *SMALLEST_CALL.get(command, "").split()])):
        for field in dataclasses.fields(settings):
            if not re.search(r"\b(int|float|EpisodeChoice)\b", str(field.type)) or field.name == "success_return":
                continue  # a return may be negative
            for value in _hostile(settings, field.name):
                with pytest.raises(ValueError, match=" ") as refused:
                    dataclasses.replace(settings, **{field.name: value})
                assert "\n" not in str(refused.value)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["recordd"], ["convert"]])
def test_what_needs_no_command_imports_no_library(words: list[str]) -> None:
    code = f"import sys; from rt1.cli import main; main({words}); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert not {"torch", "numpy", "tyro"} & set(ended.stderr.split())


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rt1 {rt1.__version__}\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [["inspect", "\u00e4\u2713"], ["\u00e4\u2713"], ["--help"], ["train", "--help"]])
def test_a_terminal_without_unicode_gets_escapes(
    monkeypatch: pytest.MonkeyPatch, encoding: str, words: list[str]
) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert _status(*words) in (0, 1, 2)
    for stream in streams:
        stream.flush()
    printed = b"".join(bytes(stream.buffer.getvalue()) for stream in streams)
    assert printed.decode(encoding).count("\\u2713") == (0 if "--help" in words else 1)


def test_a_line_break_in_a_path_is_escaped(refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"{tmp_path}/two\\nlines\\x1b is not" in refused("inspect", tmp_path / "two\nlines\x1b")


def test_a_setting_is_named_as_its_option(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    shard = data / "memory-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-50])
    for words in (["train", "--data", data, "--out", tmp_path / "run", "--preset", "debug"], ["inspect", data]):
        line = refused(*words)
        assert "--skip-corrupt" in line
        assert "skip_corrupt" not in line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_a_lack_of_memory_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def run(*_: object) -> int:
        raise error

    monkeypatch.setattr(InspectCommand, "run", run)
    assert refused("inspect", "d").startswith("rt1: memory is short (")


def test_an_address_space_in_which_libraries_crash_is_refused() -> None:
    resource = pytest.importorskip("resource", reason="only Unix can limit the address space")
    limit = 1_000_000 * 1024
    ended = subprocess.run(
        [sys.executable, "-m", "rt1", "serve", "c"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert ended.returncode == 1
    assert re.fullmatch("rt1: memory is short .*\n", ended.stderr)


def test_an_unknown_environment_or_task_of_an_evaluation_is_named(
    refused: Callable[..., str], make_checkpoint: Callable[..., Path], tmp_path: Path, table_file: Path
) -> None:
    words = ["evaluate", make_checkpoint(tmp_path / "run"), "--text-encoder", table_file]
    assert "did you mean 'metaworld'" in refused(*words, "--env", "metawrld")
    assert "did you mean 'faucet-close'" in refused(*words, "--tasks", "faucet-clsoe")


# Data


def test_a_missing_or_empty_data_folder_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, problem in ((tmp_path / "none", "is not a folder or"), (tmp_path / "empty", "has no features.json")):
        for words in (["train", "--out", tmp_path / "run", "--preset", "debug", "--data", folder], ["inspect", folder]):
            assert f"{folder} {problem}" in refused(*words)
    assert not (tmp_path / "run").exists()


def test_a_split_that_is_not_there_is_named(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    words = ["train", "--data", data, "--out", tmp_path / "run", "--preset", "debug", "--split", "test"]
    assert "test" in refused(*words)


def test_a_truncated_record_is_named_by_file(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    shard = data / "memory-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-50])
    for words in (["train", "--data", data, "--out", tmp_path / "run", "--preset", "debug"], ["inspect", data]):
        line = refused(*words)
        assert str(shard) in line
        assert "truncated" in line or "ends" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("episode", "step"), [(0, 0), (1, 0), (1, 3), (3, 2)])
def test_an_image_that_does_not_decode_is_named_by_episode_and_step(
    refused: Callable[..., str],
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    tmp_path: Path,
    episode: int,
    step: int,
) -> None:
    source = make_source(4, 6, 5, 4)
    whole = source.images[episode][step]
    source.images[episode][step] = whole[: len(whole) - 60]  # the header, and with it the size, is there
    folder = write_recording(tmp_path / "data", source)
    words = ["train", "--data", folder, "--out", tmp_path / "run", "--preset", "debug", "--updates", "40"]
    assert f"memory, episode {episode}, step {step}: " in refused(*words)


def test_inspect_names_the_image_it_cannot_decode(
    refused: Callable[..., str], make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_source(4, 6)
    source.images[0][0] = source.images[0][0][:-60]
    assert "memory, episode 0, step 0: " in refused("inspect", write_recording(tmp_path / "data", source))


# Checkpoints


@pytest.mark.parametrize("command", ["evaluate", "inspect"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not there|not a folder"),
        (lambda folder: (folder / "checkpoint.json").unlink(), r"holds no checkpoint\.json|has no features\.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "is not a whole safetensors file"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), r"checkpoint\.json is not JSON"),
        (lambda folder: _change_info(folder, format=2), "has format 2. This version of rt1 reads format 1. Use"),
    ],
    ids=["nothing", "no description", "no weights", "torn weights", "torn description", "another format"],
)
def test_a_checkpoint_that_cannot_be_used_is_named_with_the_reason(
    refused: Callable[..., str],
    make_checkpoint: Callable[..., Path],
    table_file: Path,
    tmp_path: Path,
    command: str,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    damage(folder)
    words = ["inspect", folder]
    if command == "evaluate":
        words = ["evaluate", folder, "--text-encoder", table_file, "--trials", "1"]
    line = refused(*words)
    assert str(folder) in line
    assert re.search(message, line)


def _change_info(folder: Path, **changes: object) -> None:
    file = folder / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# Rendering


@pytest.fixture
def no_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GL library."""
    pytest.importorskip("metaworld", reason="Meta-World is not installed")
    monkeypatch.setattr(gl, "find_library", lambda _: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)


@pytest.mark.usefixtures("no_gl")
def test_without_a_gl_library_one_line_says_what_to_install(
    refused: Callable[..., str], make_checkpoint: Callable[..., Path], table_file: Path, tmp_path: Path
) -> None:
    options = ["--text-encoder", table_file, "--workers", "1", "--tasks", "faucet-open"]
    evaluate = ["evaluate", make_checkpoint(tmp_path / "run"), "--trials", "1"]
    for words in (["record", "--out", tmp_path / "set", "--episodes", "1"], evaluate):
        line = refused(*words, *options)
        assert line.startswith("rt1: no GL library for headless rendering")
        assert "apt-get install -y --no-install-recommends libosmesa6" in line


# A full disk


def test_a_disk_that_fills_up_while_recording_loses_no_shard(
    gl: str, refused: Callable[..., str], full_disk: Callable[[int], None], table_file: Path, tmp_path: Path
) -> None:
    assert gl
    words = ["record", "--out", tmp_path / "set", *FAUCET, "--text-encoder", table_file]
    assert _status(*words) == 0
    whole = _bytes(tmp_path / "set")
    second = next(name for name in whole if name.endswith("-00001-of-00002"))
    (tmp_path / "set" / second).unlink()
    full_disk(4_000)
    line = refused(*words)
    full_disk(-1)
    assert re.search(rf"could not save .*{second}: .*. What was there before is untouched. Free space", line)
    assert _bytes(tmp_path / "set") == {name: data for name, data in whole.items() if name != second}
    assert _status(*words) == 0
    assert _bytes(tmp_path / "set") == whole


def test_a_disk_that_fills_up_while_training_loses_no_checkpoint(
    refused: Callable[..., str],
    full_disk: Callable[[int], None],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    words = ["train", "--data", data, "--out", run, "--preset", "debug"]
    done = _train_a_little(data, run)
    before = _bytes(run / "last")
    full_disk(20_000)
    line = refused(*words)
    full_disk(-1)
    assert re.search(rf"could not save {run}/(?:last|best): .*. What was there before is untouched. Free space", line)
    assert _bytes(run / "last") == before
    assert not list(run.glob(".*writing*"))
    assert 0 < done < 20
    assert _status(*words) == 0
    assert "finished at update 20" in capsys.readouterr().out


def _train_a_little(data: Path, run: Path) -> int:
    """Train until the episodes were read a few times, then press Ctrl-C; return the updates done."""
    source: Any = RLDSSource(data)
    read, reads = source.actions, iter(range(10_000))

    def actions(episode: int, start: int, stop: int) -> Any:
        if threading.current_thread().name.startswith("rt1-loader") and next(reads) == 20:
            signal.raise_signal(signal.SIGINT)
        return read(episode, start, stop)

    source.actions = actions
    result = train(source, preset("debug"), run)
    assert not result.finished
    return result.updates


def test_an_out_folder_that_cannot_be_made_is_one_line(refused: Callable[..., str], data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused("train", "--data", data, "--preset", "debug", "--out", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in line


def test_a_name_that_the_system_refuses_is_one_line_without_its_number(
    refused: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    line = refused("train", "--data", data, "--preset", "debug", "--out", tmp_path / ("x" * 300))
    assert "too long" in line
    assert "Errno" not in line


# What goes well


def test_train_says_where_the_checkpoints_are_and_inspect_shows_them(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert _status("train", "--data", data, "--out", run, "--preset", "debug", "--updates", "2") == 0
    said = capsys.readouterr().out
    assert "finished at update 2, best held-out loss" in said
    assert f"{run}/last" in said
    assert _status("inspect", run) == 0
    assert "transformer" in capsys.readouterr().out
    assert _status("inspect", data) == 0
    assert "open the drawer" in capsys.readouterr().out


def test_train_can_take_another_text_encoder_than_the_datas(data: Path, tmp_path: Path, table_file: Path) -> None:
    words = ["train", "--data", data, "--out", tmp_path / "run", "--preset", "debug", "--updates", "1"]
    assert _status(*words, "--text-encoder", table_file) == 0
    encoder = load_info(tmp_path / "run").text_encoder
    assert encoder is not None
    assert encoder.name == "table"


def test_record_and_evaluate_say_what_they_counted(
    gl: str, make_checkpoint: Callable[..., Path], table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gl
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed")
    assert _status("record", "--out", tmp_path / "set", *FAUCET, "--text-encoder", table_file) == 0
    recorded = capsys.readouterr().out
    assert recorded.startswith(f"recorded 2 episodes into {tmp_path / 'set'}. Rejected because the expert failed: none")
    folder = make_checkpoint(tmp_path / "run" / "last")
    words = ["evaluate", folder.parent, "--text-encoder", table_file, "--trials", "1", "--workers", "1"]
    assert _status(*words, "--no-baselines") == 0
    said = capsys.readouterr().out
    for task in ("faucet-open-v3", "faucet-close-v3"):  # those it was trained on
        assert re.search(rf"^{task}: [01] of 1 \(\d+%, 95 % \d+%\.\.\d+%\)$", said, re.MULTILINE)
    assert f"report: {folder.parent / 'evaluation-last' / 'report.html'}" in said
    results = json.loads((folder.parent / "evaluation-last" / "results.json").read_text())
    assert results["command"].startswith("rt1 evaluate /")


# What is neither


def test_an_interrupted_command_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "open_mixture", interrupt)
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path), "--preset", "debug"]) == 130
    assert capsys.readouterr().err == "rt1: interrupted. Run the same command again to resume\n"


def test_the_traceback_of_an_expected_error_is_there_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RT1_TRACEBACK", "1")
    with pytest.raises(ValueError, match="is not a folder"):
        main(["inspect", str(tmp_path / "none")])


def test_the_module_runs_as_the_command_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rt1", "recordd"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("rt1", run_name="__main__")
    assert stop.value.code == 2
    assert "did you mean 'record'" in capsys.readouterr().err


def _ask_until_refused(url: str) -> str:
    """Ask for actions as fast as they come; return the error that ends it."""
    try:
        with Client(url) as client:
            client.reset("open the drawer")
            while True:
                assert client.act_vector(np.zeros((8, 8, 3), np.uint8)).shape == (4,)
    except ClientError as error:
        return str(error)


def test_a_served_policy_acts_until_told_to_stop(
    make_checkpoint: Callable[..., Path], table_file: Path, tmp_path: Path
) -> None:
    words = ["serve", make_checkpoint(tmp_path / "run"), "--port", "0", "--text-encoder", table_file]
    command = [sys.executable, "-m", "rt1", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"ws://127\.0\.0\.1:\d+", line)
            assert found is not None, line
            with Client(found[0]) as client, ThreadPoolExecutor(2) as pool:
                client.reset("open the drawer")
                assert list(client.act(np.zeros((8, 8, 3), np.uint8))) == ["all"]
                loads = [pool.submit(_ask_until_refused, found[0]) for _ in range(2)]
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0
                for load in loads:  # while it worked or before it could
                    assert re.search("the server stops|is lost|cannot be reached", load.result(timeout=30))
            assert process.stdout.read() == ""
        finally:
            process.kill()


def test_what_cannot_be_served_is_one_line(
    refused: Callable[..., str], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    assert "holds no checkpoint.json" in refused("serve", tmp_path)
    folder = make_checkpoint(tmp_path / "run")
    assert "did you mean '--max-sessions'" in refused("serve", folder, "--max-session", "2")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write_recording: Any,
    make_source: Any,
) -> None:
    folder = write_recording(tmp_path / "set", make_source(2))
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    words = ["convert", "rlds", folder, "--to", "lerobot", "--out", tmp_path / "out", "--fps", "20"]
    assert _status(*words) == 1
    assert "pyarrow is not installed. Run: pip install 'rt1[lerobot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["evaluate-offline", "nowhere", "--data", "nowhere"], "matplotlib", "report"),
        (["evaluate", "nowhere"], "matplotlib", "report"),
        (["inspect", "HDF5", "--out", "page.html"], "matplotlib", "report"),
        (["demo"], "matplotlib", "report"),
        (["improve", "--data", "nowhere", "--out", "out"], "matplotlib", "report"),
        (["inspect", "HDF5", "--instruction", "go"], "h5py", "hdf5"),
    ],
)
def test_a_missing_package_is_reported_before_any_work(
    words: list[str],
    package: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"never read")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main([word.replace("HDF5", "a.hdf5") for word in words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert package in line
    assert line.endswith(f"pip install 'rt1[{extra}]'")
    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]


def test_a_server_without_its_packages_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "rt1.serve.server", raising=False)
    monkeypatch.setitem(sys.modules, "websockets.asyncio.server", None)
    line = refused("serve", make_checkpoint(tmp_path / "run"))
    assert line == "rt1: websockets is not installed. Run: pip install 'rt1[serve]'"
