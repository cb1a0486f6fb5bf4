"""Files of paraphrases: read, or refused with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rt1.text.paraphrases import load_paraphrases


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"open the drawer": ["pull it open", "slide it out"], "wait": []}')
    (tmp_path / "p.toml").write_text('"open the drawer" = ["pull it open", "slide it out"]\nwait = []\n')
    expected = {"open the drawer": ("pull it open", "slide it out"), "wait": ()}
    assert load_paraphrases(tmp_path / "p.json") == load_paraphrases(tmp_path / "p.toml") == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([["a", "b"]], "holds a list. It must hold an object"),
        ({"open": "pull"}, "the paraphrases of 'open' are 'pull', must be a list of sentences"),
        ({"open": ["pull", 3]}, "must be a list of sentences"),
        ({"open": [" "]}, "instruction 1 is ' ', must say something"),
        ({"open": ["pull", "pull"]}, "the paraphrases of 'open' hold a sentence twice"),
        ({"open": ["open"]}, "the paraphrases of 'open' hold a sentence twice"),
    ],
)
def test_what_is_no_list_of_sentences_is_refused(data: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        load_paraphrases(tmp_path / "p.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{")
    (tmp_path / "p.txt").write_text("{}")
    with pytest.raises(ValueError, match=r"p\.json is not JSON"):
        load_paraphrases(tmp_path / "p.json")
    for name in ("p.txt", "absent.json"):
        with pytest.raises(ValueError, match=rf"{name} .*paraphrases.*\.json or \.toml"):
            load_paraphrases(tmp_path / name)
