"""Errors about names that a user typed: the name, the names that exist, and the closest of them."""

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


def unknown_name(kind: str, name: str, names: Iterable[str]) -> str:
    """Return the one-line message for an unknown name, with "did you mean" where a known one is close.

    >>> unknown_name("task", "faucet-opne", ["faucet-open", "reach"])
    "unknown task 'faucet-opne', did you mean 'faucet-open'? Known: faucet-open, reach"
    """
    names, name = sorted(names), name if len(name) <= _LONGEST else f"{name[:_LONGEST]} ..."
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f", did you mean {close[0]!r}?" if close else "."
    if close and len(names) > _LONG:
        return f"unknown {kind} {name!r}{hint}"  # a long list would bury the answer
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names) or 'none'}"


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``. A name that is not there raises ``ValueError`` with a suggestion."""
    if name not in table:
        raise ValueError(unknown_name(kind, name, table))
    return table[name]
