"""Other ways to say an instruction, read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rt1.common.json_files import read_value
from rt1.errors import DataError
from rt1.text.encoder import check_instructions

Paraphrases = Mapping[str, tuple[str, ...]]
"""Instruction -> other sentences that mean the same."""


def load_paraphrases(path: Path | str) -> Paraphrases:
    """Read a JSON or TOML file of instructions, each with a list of sentences that mean the same.

    Raises:
        DataError: the file is missing, is neither, or holds anything but lists of sentences.
    """
    path = Path(path)
    if path.suffix not in (".json", ".toml") or not path.is_file():
        raise DataError(f"{path} is no file of paraphrases; give a .json or .toml file of instructions with sentences")
    data = read_value(path, cure="correct it")
    try:
        return check_paraphrases(data)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def check_paraphrases(data: Any) -> Paraphrases:  # noqa: ANN401 (whatever a file held)
    """Return the data as paraphrases; anything but sentences with lists of other sentences raises ``ValueError``."""
    if not isinstance(data, Mapping):
        raise ValueError(f"paraphrases are {type(data).__name__}; they must be instructions with lists of sentences")
    for instruction, sentences in data.items():
        if not isinstance(sentences, list | tuple) or not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(
                f"the paraphrases of {instruction!r} are {sentences!r:.200}; they must be a list of sentences"
            )
        check_instructions([instruction, *sentences])
        if len({instruction, *sentences}) <= len(sentences):
            raise ValueError(
                f"the paraphrases of {instruction!r} hold a sentence twice; each counts once, the "
                "instruction itself too; leave the second out"
            )
    return {instruction: tuple(sentences) for instruction, sentences in data.items()}
