"""Words of a command line: what they become, and the one line that says what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from rt1.commands.parsing import as_typed, parsed
from rt1.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings with a rule of their own."""

    size: tuple[int, int] = (8, 8)
    """Size."""

    def __post_init__(self) -> None:
        if min(self.size) < 4:
            raise ValueError(f"size is {self.size}, in the folder {'x' * 300}, must be at least 4. Use a larger one")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command."""

    file: tyro.conf.Positional[Path]
    """A file."""
    out: Path
    """Where to."""
    count: int = 1
    """How many."""
    share: float = 0.5
    """A share."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers."""
    several: tuple[int, ...] = ()
    """Some numbers."""
    episodes: Literal["all"] | int | None = None
    """Which."""
    inner: Inner = field(default_factory=Inner)
    """More."""


def _parse(words: Sequence[str]) -> Command:
    found = parsed(Command, words, program="rt1 do")
    assert isinstance(found, Command)
    return found


def test_words_become_settings() -> None:
    found = _parse(["data", "--out", "here", "--inner.size", "5", "6", "--episodes", "3"])
    assert found == Command(file=Path("data"), out=Path("here"), inner=Inner(size=(5, 6)), episodes=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "rt1 do needs PATH, --out PATH. rt1 do --help explains it"),
        (["data"], "rt1 do needs --out PATH. rt1 do --help explains it"),
        (["data", "--out", "o", "--count", "many"], "--count is 'many', must be a whole number"),
        (["data", "--out", "o", "--share", "half"], "--share is 'half', must be a number"),
        (["data", "--out", "o", "--precision", "fp16"], "--precision is 'fp16', must be one of 'fp32', 'bf16'"),
        (["data", "--out", "o", "--several", "a", "b"], "--several is 'a', 'b', must be "),
        (["data", "--out", "o", "--episodes", "some"], "--episodes is 'some', must be one of {None,all}|INT"),
        (["data", "--out", "o", "--inner.size", "5"], "--inner.size lacks its value. Give 2"),
        (["data", "more", "words", "--out", "o"], "nothing is known of more, words"),
        (["data", "--out", "o", "--cuont", "3"], "unknown option '--cuont', did you mean '--count'? Known: --count"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], words: Sequence[str], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        _parse(words)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [None, "60"])
def test_a_rule_of_the_settings_comes_through_whole_with_the_name_of_its_option(
    monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(ValueError, match="must be") as rule:
        Inner(size=(2, 8))
    with pytest.raises(UsageError) as refused:
        _parse(["data", "--out", "o", "--inner.size", "2", "8"])
    assert str(refused.value) == f"--inner.{rule.value}"
    assert os.environ.get("COLUMNS") == columns


@pytest.mark.parametrize("word", ["inf", "-inf", "nan", "1e400", "many", "", "9" * 5000])
def test_a_number_must_be_finite(word: str) -> None:
    for option in ("--share", "--count"):
        with pytest.raises(UsageError, match=f"^{option} is .*, must be a"):
            _parse(["data", "--out", "o", option, word])


@pytest.mark.parametrize("word", [str(10**23), str(-(10**23)), "2147483648"])
def test_a_whole_number_must_fit_into_31_bits(word: str) -> None:
    for words in (["--count", word], ["--episodes", word], ["--several", "1", word], ["--inner.size", word, "9"]):
        with pytest.raises(UsageError, match=f"^{words[0]} .*{word}"):
            _parse(["data", "--out", "o", *words])
    assert _parse(["data", "--out", "o", "--count", "2147483647"]).count == 2**31 - 1


def test_a_path_must_not_be_empty() -> None:
    with pytest.raises(UsageError, match=r"^--out is empty"):
        _parse(["data", "--out="])


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("batch_wait is 3, must be", "--batch-wait is 3, must be"),
        ("record it again, or pass skip_corrupt=True to read", "record it again, or pass --skip-corrupt to read"),
        ("name one with seed=..., or none", "name one with --seed ..., or none"),
        ("seed is -1", "--seed is -1"),
        ("closed_loop.every is 0", "--closed-loop.every is 0"),
        ("warmup is -1", "--optimizer.warmup is -1"),
        ("the seed is 3, and optimizer too", "the seed is 3, and optimizer too"),
        ("d/batch_wait is no folder, 'batch_wait' neither", "d/batch_wait is no folder, 'batch_wait' neither"),
        ("other_thing=3 is unknown", "other_thing=3 is unknown"),
    ],
)
def test_a_message_names_settings_as_options(message: str, typed: str) -> None:
    known = {"--batch-wait", "--skip-corrupt", "--seed", "--closed-loop.every", "--optimizer.warmup"}
    assert as_typed(message, known) == typed


def test_of_two_settings_with_one_name_the_nearer_one_is_named() -> None:
    known = {"--seed", "--closed-loop.seed", "--train.closed-loop.every"}
    assert as_typed("seed is -1", known, path="config.closed_loop") == "--closed-loop.seed is -1"
    assert as_typed("seed is -1", known, path="config") == "--seed is -1"
    assert as_typed("every is -1", known, path="config.closed_loop") == "--train.closed-loop.every is -1"


def test_help_is_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _parse(["--help"])
    assert not stop.value.code
    assert "How many. (default: 1)" in capsys.readouterr().out
