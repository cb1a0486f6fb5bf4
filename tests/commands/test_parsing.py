"""Words of a command line: what they become, and the one line that says what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from rt1.commands.parsing import parsed
from rt1.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings with a rule of their own."""

    size: tuple[int, int] = (8, 8)
    """Size."""

    def __post_init__(self) -> None:
        if min(self.size) < 4:
            raise ValueError(f"size is {self.size}, in the folder {'x' * 300}; it must be at least 4; use a larger one")


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
        ([], "rt1 do needs PATH, --out PATH; rt1 do --help explains it"),
        (["data"], "rt1 do needs --out PATH; rt1 do --help explains it"),
        (["data", "--out", "o", "--count", "many"], "--count is 'many'; it must be a whole number"),
        (["data", "--out", "o", "--share", "half"], "--share is 'half'; it must be a number"),
        (["data", "--out", "o", "--precision", "fp16"], "--precision is 'fp16'; it must be one of 'fp32', 'bf16'"),
        (["data", "--out", "o", "--several", "a", "b"], "--several cannot be ['a', 'b']"),
        (["data", "--out", "o", "--episodes", "some"], "--episodes is 'some'; it must be one of {None,all}|INT"),
        (["data", "--out", "o", "--inner.size", "5"], "--inner.size lacks its value; give 2"),
        (["data", "more", "words", "--out", "o"], "nothing is known of more, words"),
        (["data", "--out", "o", "--cuont", "3"], "unknown option '--cuont'; did you mean '--count'? Known: --count"),
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
def test_a_rule_of_the_settings_comes_through_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(ValueError, match="it must be") as rule:
        Inner(size=(2, 8))
    with pytest.raises(UsageError) as refused:
        _parse(["data", "--out", "o", "--inner.size", "2", "8"])
    assert str(refused.value) == str(rule.value)
    assert os.environ.get("COLUMNS") == columns


def test_help_is_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _parse(["--help"])
    assert not stop.value.code
    assert "How many. (default: 1)" in capsys.readouterr().out
