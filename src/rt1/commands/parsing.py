"""Command-line words to a command's settings, by tyro; whatever is wrong with the words is said in one line."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from rt1.common.json_config import LARGEST
from rt1.common.suggest import unknown_name
from rt1.errors import UsageError

_WIDE = "9999"
"""Columns of a page on which no message takes more than one line."""
_IN_WORDS = (
    (r"Error parsing (-\S+): (is .+)", r"\1 \2"),  # our own rules, see _plain_value
    (
        r"Error parsing (-\S+): no type matching \{None\}\|INT could .* from \[(.+)\]\.",
        rf"\1 is \2; it must be a whole number in -{LARGEST}..{LARGEST}",
    ),
    (r"Error parsing (-\S+): no type matching \{None\}\|(.+) could .* from \[(.+)\]\.", r"\1 is \3; give a \2"),
    (r"Error parsing (-\S+): no type matching (.+) could .* from \[(.+)\]\.", r"\1 is \3; it must be one of \2"),
    (r"Error parsing (-\S+): Could not find valid parse for arguments: (.+)", r"\1 cannot be \2"),
    (r"Error parsing (-\S+): Could not parse arguments (.+) into tuple .*", r"\1 cannot be \2"),
    (r"Error parsing (-\S+): (.+)", r"\1: \2"),
    (r"invalid choice (.+) for argument '(.+)'\. Expected one of \((.+?),?\)\.", r"\2 is \1; it must be one of \3"),
    (r"Missing value for argument '(.+)'\. Expected (\d+) values\.", r"\1 lacks its value; give \2"),
    (r"Unrecognized options: (.+)", r"nothing is known of \1"),
)
"""What tyro says, and how we do."""
_SETTING = re.compile(r"(?<![\w./'\"=(-])([a-z]\w*(?:\.[a-z]\w*)*)(=[^\s;,)]+)?(?![\w/'\"(])")
"""A setting as the library names it, with the value it is to get."""


_VALUES = tyro.constructors.ConstructorRegistry()
"""How a word becomes a number or a path."""


@_VALUES.primitive_rule
def _plain_value(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    makers: dict[Any, Callable[[str], Any]] = {int: _whole_number, float: _number, Path: _path}
    if info.type not in makers:
        return None
    kind, make = info.type, makers[info.type]
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: make(words[0]),
        is_instance=lambda value: isinstance(value, kind) or ("~" if kind is float and type(value) is int else False),
        str_from_instance=lambda value: [str(value)],
    )


def _whole_number(word: str) -> int:
    try:
        value = int(word)
    except ValueError as error:
        raise ValueError(f"is {word!r}; it must be a whole number") from error
    if abs(value) > LARGEST:
        raise ValueError(f"is {word}; it must lie in -{LARGEST}..{LARGEST}")
    return value


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError as error:
        raise ValueError(f"is {word!r}; it must be a number") from error
    if not math.isfinite(value):
        raise ValueError(f"is {word}; it must be a finite number")
    return value


def _path(word: str) -> Path:
    if not word:
        raise ValueError("is empty; give a path")
    return Path(word)


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
    choices.update(prog=program, registry=_VALUES)
    if {"-h", "--help"} & set(words):
        return tyro.cli(kind, args=words, **choices)
    said = io.StringIO()
    drawn = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # tyro draws its boxes as the output's encoding allows
    try:
        with _columns(_WIDE), contextlib.redirect_stdout(drawn), contextlib.redirect_stderr(said):
            found = tyro.cli(kind, args=words, **choices)
    except SystemExit as stop:
        known = options_of(kind, **choices)
        hints = _unknown_options(words, known)
        raise UsageError("; ".join(hints) or _in_one_line(said.getvalue(), program, known)) from stop
    except ValueError as error:  # a rule of a dataclass whose options have no prefix
        raise UsageError(as_typed(str(error), options_of(kind, **choices))) from error
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


def _in_one_line(page: str, program: str, known: Collection[str]) -> str:
    """Return what a page of tyro's says, a box whose first part is the message and whose last names the help page."""
    rows = [row[2:-1].rstrip() for row in page.splitlines() if row.startswith("│")]
    end = next((index for index, row in enumerate(rows) if not row or row.startswith("─")), len(rows))
    if rows and rows[0].startswith("Missing from"):
        names = [row.strip() for row in rows[1:end] if re.match(r" {4}\S", row)]
        return f"{program} needs {', '.join(names)}; {program} --help explains it"
    words = " ".join(row.strip() for row in rows[:end]) or " ".join(page.split())
    if found := re.fullmatch(r"Error parsing ([^-]\S*): (.+)", words):  # a rule of the dataclass at this path
        path, message = found.groups()
        return f"{path} {message}" if message.startswith("is ") else as_typed(message, known, path=path)
    for theirs, ours in _IN_WORDS:
        if found := re.fullmatch(theirs, words):
            return found.expand(ours)
    return words


def _unknown_options(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Return "did you mean" for each option that a command does not have."""
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    return [unknown_name("option", name, known) for name in given if name not in known]


def options_of(kind: Callable[..., Any], **choices: Any) -> set[str]:  # noqa: ANN401 (as for tyro.cli)
    """Return the options of a command, read off its help page."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], **choices)
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", page.getvalue()))


def as_typed(message: str, known: Collection[str], *, path: str = "") -> str:
    """Return a message with the settings that it names spelled as the options of a command.

    A setting is a name with an underscore, one with a value (``name=value``), or the message's first word before "is".

    Args:
        message: one line, in the words of the library.
        known: the options.
        path: dotted path of the dataclass that complains, for a name that several options end with.

    >>> as_typed("max_batch is 0, or pass skip=True", {"--max-batch", "--skip"})
    '--max-batch is 0, or pass --skip'
    """
    owner = path.rpartition(".")[2].replace("_", "-")

    def option(match: re.Match[str]) -> str:
        name, value = match[1].replace("_", "-"), (match[2] or "").replace("=", " ", 1)
        plain = not value and "_" not in match[1]
        if plain and (match.start() or not message[match.end() :].startswith(" is ")):
            return match[0]
        fits = [known_one for known_one in known if f".{known_one[2:]}".endswith(f".{name}")]
        near = [fit for fit in fits if f".{fit[2:]}".endswith(f".{owner}.{name}")]
        return min(near or fits, key=len) + value.removesuffix(" True") if fits else match[0]

    return _SETTING.sub(option, message)
