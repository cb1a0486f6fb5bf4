"""A command's settings from command-line words, by tyro, with errors in one line."""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro import _errors
from tyro._arguments import ArgumentDefinition

from rt1.common.json_config import LARGEST
from rt1.common.suggest import unknown_name
from rt1.errors import UsageError

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
        raise ValueError(f"is {word!r}, must be a whole number") from error
    if abs(value) > LARGEST:
        raise ValueError(f"is {word}, must lie in -{LARGEST}..{LARGEST}")
    return value


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError as error:
        raise ValueError(f"is {word!r}, must be a number") from error
    if not math.isfinite(value):
        raise ValueError(f"is {word}, must be a finite number")
    return value


def _path(word: str) -> Path:
    if not word:
        raise ValueError("is empty. Give a path")
    return Path(word)


def parsed(kind: Callable[..., Any], words: Sequence[str], *, program: str, **choices: Any) -> Any:  # noqa: ANN401
    """Return a command made of command-line words.

    Raises:
        UsageError: an option that is missing or unknown, or a value that cannot be.
        SystemExit: help was asked for, and given.
    """
    choices.update(prog=program, registry=_VALUES)

    def refuse(event: _errors.ParseErrorEvent) -> None:
        known = options_of(kind, **choices)
        raise UsageError("; ".join(_unknown_options(words, known)) or _in_one_line(event, known))

    try:
        with _errors.on_parse_error(refuse):
            return tyro.cli(kind, args=words, **choices)
    except UsageError:
        raise
    except ValueError as error:  # a rule of a dataclass whose options have no prefix
        raise UsageError(as_typed(str(error), options_of(kind, **choices))) from error


def _in_one_line(event: _errors.ParseErrorEvent, known: Collection[str]) -> str:
    """Return what is wrong with the words: the option, its value, the rule."""
    if isinstance(event, _errors.MissingArgs):
        names = ", ".join(missing.arg.get_invocation_text()[1].as_str_no_ansi() for missing in event.missing_arguments)
        return f"{event.prog} needs {names}. {event.prog} --help explains it"
    if isinstance(event, _errors.UnrecognizedArgs):
        return f"nothing is known of {', '.join(event.tokens)}"
    message = getattr(event, "message", "")
    argument = getattr(event, "argument", None)
    if argument is None:  # a rule of a dataclass, whose path tyro's own exception has
        return as_typed(message, known, path=getattr(sys.exception(), "arg", ""))
    return f"{argument.display_name()} {_rule(event, argument, message)}"


def _rule(event: _errors.ParseErrorEvent, argument: ArgumentDefinition, message: str) -> str:
    """Return what an option is, and what it must be."""
    if isinstance(event, _errors.InvalidChoice):
        return f"is {event.value!r}, must be one of {', '.join(map(repr, event.choices))}"
    if isinstance(event, _errors.BadValue):
        return f"lacks its value. Give {argument.lowered.nargs}"
    if message.startswith("is "):  # our own rules, see _plain_value
        return message
    first, form = message.partition("\n")[0], (argument.lowered.metavar or "").removeprefix("{None}|")
    form = f"a whole number in -{LARGEST}..{LARGEST}" if form == "INT" else form
    return f"is {first[first.find('[') + 1 : first.rfind(']')]}, must be {'one of ' * ('|' in form)}{form}"


def _unknown_options(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Return "did you mean" for each option that a command does not have."""
    options = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    return [unknown_name("option", name, known) for name in options if name not in known]


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
