"""Files of JSON and TOML from anybody: what is sound is read, anything else is one line with the file's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt1.common import json_files
from rt1.common.json_files import check_size, parse, read_object
from rt1.errors import CheckpointError, DataError


def test_an_object_is_read_from_json_and_from_toml(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"name": "Schüssel", "sizes": [1, 2.5]}', encoding="utf-8")
    (tmp_path / "a.toml").write_text('name = "Schüssel"\nsizes = [1, 2.5]\n', encoding="utf-8")
    expected = {"name": "Schüssel", "sizes": [1, 2.5]}
    assert read_object(tmp_path / "a.json") == read_object(tmp_path / "a.toml") == expected


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"half": ', "JSON"),
        (b"\xff\xfe{}", "JSON"),
        (b"[" * 100_000, "nested"),
        (b"[" * 60 + b"]" * 60, "nested"),
        (b'{"a": ' * 60 + b"1" + b"}" * 60, "nested"),
        (b'{"half a character": "\\ud800"}', "Unicode"),
        (b'{"number": ' + b"1" * 5000 + b"}", "JSON"),
        (b"[1, 2]", "list"),
        (b"null", "null"),
    ],
)
def test_anything_but_a_sound_object_is_one_line_with_the_file(tmp_path: Path, content: bytes, word: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=word) as caught:
        read_object(file, error=CheckpointError)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_toml_is_refused() -> None:
    with pytest.raises(DataError, match="nested"):
        parse("a = " + "[" * 5000, name="settings.toml", toml=True)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MAX_BYTES", 10)
    (tmp_path / "x.json").write_text('{"a": "long enough"}')
    with pytest.raises(DataError, match="20 bytes"):
        read_object(tmp_path / "x.json")
    check_size(tmp_path / "missing.json")


def test_a_missing_file_or_a_folder_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(DataError) as caught:
            read_object(path)
        assert str(path) in str(caught.value)
