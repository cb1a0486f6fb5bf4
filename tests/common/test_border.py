"""Tests of ``rt1.common.border``."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rt1.common.border import check_no_pointer, reading
from rt1.errors import DataError, ExportError

PATH = Path("data") / "episodes.bin"


@pytest.mark.parametrize(
    "reason",
    [KeyError("x"), TypeError("two\nlines"), RecursionError(), MemoryError(), OverflowError("big"), struct.error("4")],
)
def test_what_a_parser_raises_becomes_one_line_that_names_the_file(reason: Exception) -> None:
    with pytest.raises(DataError, match=r"episodes\.bin") as caught, reading(PATH):
        raise reason
    assert "\n" not in str(caught.value)
    assert type(reason).__name__ in str(caught.value)
    assert "Restore it from a copy" in str(caught.value)


def test_an_error_of_ours_gets_the_file_where_it_lacks_it_and_keeps_its_cause() -> None:
    with pytest.raises(DataError) as caught, reading(PATH):
        raise DataError("no feature at byte 3")
    assert str(caught.value) == f"{PATH}: no feature at byte 3"
    complete = ExportError(f"{PATH} has format 3")
    with pytest.raises(ExportError) as same, reading(PATH):
        raise complete
    assert same.value is complete


def test_the_caller_names_the_class_the_cure_and_the_errors_of_a_library() -> None:
    class LibraryError(Exception):
        pass

    with (
        pytest.raises(ExportError, match="Export again"),
        reading(PATH, error=ExportError, cure="export again", also=(LibraryError,)),
    ):
        raise LibraryError("no magic")


def test_our_own_mistakes_pass_unchanged() -> None:
    with pytest.raises(AssertionError), reading(PATH):
        raise AssertionError("two writers")
    with pytest.raises(NameError), reading(PATH):
        raise NameError("spce")


def test_a_git_lfs_pointer_is_named_in_place_of_what_the_parser_raised(tmp_path: Path) -> None:
    path = tmp_path / "file-000.parquet"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(DataError, match=r"file-000\.parquet is a git-lfs pointer.*git lfs pull"), reading(path):
        raise ValueError("no magic bytes")
    with pytest.raises(ExportError, match="git-lfs pointer"):
        check_no_pointer(path, error=ExportError)
    check_no_pointer(tmp_path / "missing")
    path.write_bytes(path.read_bytes() + bytes(2000))
    check_no_pointer(path)
