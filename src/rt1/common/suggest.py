"""Errors about names a user typed: what was given, what exists, what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

_LONG = 12
_LONGEST = 200
"""Characters of a name that are shown. One out of a damaged file may have any number."""


def printable(text: str) -> str:
    """Return text in one line for a terminal: line breaks and control characters become escapes.

    >>> print(printable("data" + chr(10) + "set"))
    data\\nset
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text.strip())


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the one-line message for an unknown name, with "did you mean" where a known one is close.

    >>> unknown_name("task", "faucet-opne", ["faucet-open", "reach"])
    "unknown task 'faucet-opne'; did you mean 'faucet-open'? Known: faucet-open, reach"
    """
    known, name = sorted(known), name if len(name) <= _LONGEST else f"{name[:_LONGEST]} ..."
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    if close and len(known) > _LONG:
        return f"unknown {kind} {name!r}{hint}"  # a long list would bury the answer
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}"


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``. A name that is not there raises ``ValueError`` with a suggestion."""
    if name not in table:
        raise ValueError(unknown_name(kind, name, table))
    return table[name]
