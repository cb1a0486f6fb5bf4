"""The border to files from elsewhere: what a parser raises on a damaged one becomes one line that names the file."""

from __future__ import annotations

import struct
import tokenize
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
    tokenize.TokenError,  # numpy, on the header of an array
    zlib.error,
)
"""What parsers and numpy raise on content of another form. The other built-in errors are our own mistakes."""

_LONGEST = 1000


GIT_LFS_START = b"version https://git-lfs"
"""What a file begins with that git-lfs has put in the place of a large one."""
_LARGEST_POINTER = 1024


def check_no_pointer(path: Path, *, error: Callable[[str], RT1Error] = DataError) -> None:
    """Raise one line for a file that is a git-lfs pointer. A file that cannot be read passes: its reader says why."""
    try:
        if path.stat().st_size > _LARGEST_POINTER:
            return
        with path.open("rb") as file:
            start = file.read(len(GIT_LFS_START))
    except OSError:
        return
    if start == GIT_LFS_START:
        raise error(f"{path} is a git-lfs pointer, not the file itself. Run git lfs pull in its repository")


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
        RT1Error: of the class ``error``. An ``RT1Error`` that names the file already passes unchanged.
    """
    kinds: tuple[type[Exception], ...] = (RT1Error, *DAMAGE, *also)
    try:
        yield
    except kinds as reason:
        if isinstance(name, Path):
            check_no_pointer(name, error=error)
        text = _one_line(reason)
        if isinstance(reason, RT1Error) and str(name) in str(reason) == text:
            raise
        if isinstance(reason, RT1Error | ValueError) and str(name) in text:
            raise error(text) from reason
        if isinstance(reason, RT1Error):
            raise error(f"{name}: {text}") from reason
        raise error(f"{name} is damaged or not in the expected form ({describe(reason)}). {sentence(cure)}") from reason


def describe(reason: BaseException) -> str:
    """Return an exception in one line: its text, and its class where the text needs it."""
    text = _one_line(reason)
    return text if text and type(reason) is ValueError else f"{type(reason).__name__}: {text}".removesuffix(": ")


def sentence(text: str) -> str:
    """Return a text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def _one_line(reason: BaseException) -> str:
    """Return an exception's text in one line. A value in it that is too long to read is cut."""
    text = " ".join(str(reason).splitlines())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
