"""The border to files from elsewhere: what a parser raises on a damaged one becomes one line that names the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rt1.errors import DataError, RT1Error

DAMAGE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What parsers and numpy raise on content of another form. The other built-in errors are our own mistakes."""

_LONGEST = 300


@contextmanager
def reading(
    name: Path | str,
    *,
    error: Callable[[str], RT1Error] = DataError,
    cure: str = "restore it from a copy",
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Raise one line that names the file for what a block that parses its content raises.

    Use it around the code that parses, nowhere else: in other code a ``TypeError`` is our own mistake.

    Args:
        name: the file, and the record in it where known.
        error: class of the error to raise.
        cure: what the user can do, the end of the error's line.
        also: error classes of a library that are not built in.

    Raises:
        RT1Error: of the class ``error``. An ``RT1Error`` of the block that names the file already passes unchanged.
    """
    try:
        yield
    except RT1Error as reason:
        if str(name) in str(reason):
            raise
        raise error(f"{name}: {reason}") from reason
    except (*DAMAGE, *also) as reason:
        raise error(f"{name} is damaged or not in the expected form ({describe(reason)}); {cure}") from reason


def describe(reason: BaseException) -> str:
    """Return an exception in one line: its text cut to a readable length, and its class where the text needs it."""
    text = " ".join(str(reason).split())[:_LONGEST]
    if type(reason) is ValueError and text:
        return text
    return f"{type(reason).__name__}: {text}" if text else type(reason).__name__
