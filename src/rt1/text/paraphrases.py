"""Other ways to say an instruction, read from a file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rt1.text.encoder import check_instructions

Paraphrases = Mapping[str, tuple[str, ...]]
"""Instruction -> other sentences that mean the same."""


def load_paraphrases(path: Path | str) -> Paraphrases:
    """Read a JSON or TOML file of instructions, each with a list of sentences that mean the same.

    Raises:
        ValueError: a file that is not there or is neither, or holds anything but lists of sentences.
    """
    path = Path(path)
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if path.suffix not in readers or not path.is_file():
        raise ValueError(f"{path} is no file of paraphrases; give a .json or .toml file of instructions with sentences")
    try:
        data = readers[path.suffix](path.read_text(encoding="utf-8"))
        return check_paraphrases(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_paraphrases(data: Any) -> Paraphrases:  # noqa: ANN401 (whatever a file held)
    """Return the data as paraphrases; anything but sentences with lists of other sentences raises ``ValueError``."""
    if not isinstance(data, Mapping):
        raise ValueError(f"paraphrases are {type(data).__name__}; they must be instructions with lists of sentences")
    for instruction, sentences in data.items():
        if not isinstance(sentences, list | tuple) or not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(f"the paraphrases of {instruction!r} are {sentences!r}; they must be a list of sentences")
        check_instructions([instruction, *sentences])
        if len({instruction, *sentences}) <= len(sentences):
            raise ValueError(
                f"the paraphrases of {instruction!r} hold a sentence twice; each counts once, the "
                "instruction itself too; leave the second out"
            )
    return {instruction: tuple(sentences) for instruction, sentences in data.items()}
