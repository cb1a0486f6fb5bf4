"""Command-line words to a command's settings, by tyro; whatever is wrong with the words is said in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

from rt1.errors import UsageError
from rt1.names import unknown_name

_WIDE = "9999"
"""Columns of a page on which no message takes more than one line."""
_IN_WORDS = (
    (r"Error parsing (-\S+): invalid literal for int\(\) with base 10: (.+)", r"\1 is \2; it must be a whole number"),
    (r"Error parsing (-\S+): could not convert string to float: (.+)", r"\1 is \2; it must be a number"),
    (r"Error parsing (-\S+): no type matching (.+) could .* from \[(.+)\]\.", r"\1 is \3; it must be one of \2"),
    (r"Error parsing (-\S+): Could not find valid parse for arguments: (.+)", r"\1 cannot be \2"),
    (r"Error parsing (-\S+): (.+)", r"\1: \2"),
    (r"Error parsing \S+: (.+)", r"\1"),  # of several options together: the message names its own
    (r"invalid choice (.+) for argument '(.+)'\. Expected one of \((.+?),?\)\.", r"\2 is \1; it must be one of \3"),
    (r"Missing value for argument '(.+)'\. Expected (\d+) values\.", r"\1 lacks its value; give \2"),
    (r"Unrecognized options: (.+)", r"nothing is known of \1"),
)
"""What tyro says, and how we do."""


def parsed(kind: Callable[..., Any], words: Sequence[str], *, program: str, **choices: Any) -> Any:  # noqa: ANN401
    """Return a command made of command-line words.

    Args:
        kind: dataclass of the command.
        words: what follows the command's name.
        program: the command as it is typed.
        choices: as for ``tyro.cli``.

    Raises:
        UsageError: an option that is missing or unknown, or a value that cannot be.
        SystemExit: help was asked for, and given.
    """
    choices["prog"] = program
    if {"-h", "--help"} & set(words):
        return tyro.cli(kind, args=words, **choices)
    said = io.StringIO()
    drawn = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # tyro draws its boxes as the output's encoding allows
    try:
        with _columns(_WIDE), contextlib.redirect_stdout(drawn), contextlib.redirect_stderr(said):
            found = tyro.cli(kind, args=words, **choices)
    except SystemExit as stop:
        hints = _unknown_options(kind, words, choices)
        raise UsageError("; ".join(hints) or _in_one_line(said.getvalue(), program)) from stop
    sys.stderr.write(said.getvalue())  # warnings
    return found


@contextlib.contextmanager
def _columns(count: str) -> Iterator[None]:
    """Let pages be this wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = count
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _in_one_line(page: str, program: str) -> str:
    """Return what a page of tyro's says, a box whose first part is the message and whose last names the help page."""
    rows = [row[2:-1].rstrip() for row in page.splitlines() if row.startswith("│")]
    end = next((index for index, row in enumerate(rows) if not row or row.startswith("─")), len(rows))
    if rows and rows[0].startswith("Missing from"):
        names = [row.strip() for row in rows[1:end] if re.match(r" {4}\S", row)]
        return f"{program} needs {', '.join(names)}; {program} --help explains it"
    words = " ".join(row.strip() for row in rows[:end]) or " ".join(page.split())
    for theirs, ours in _IN_WORDS:
        if found := re.fullmatch(theirs, words):
            return found.expand(ours)
    return words


def _unknown_options(kind: Callable[..., Any], words: Sequence[str], choices: dict[str, Any]) -> list[str]:
    """Return "did you mean" for each option that a command does not have; the options are read off its help page."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], **choices)
    known = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", page.getvalue()))
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    return [unknown_name("option", name, known) for name in given if name not in known]
