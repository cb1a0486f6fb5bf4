"""Other ways to say an instruction, read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rt1.common.json_files import read_object
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
        raise DataError(f"{path} is no file of paraphrases. Give a .json or .toml file of instructions with sentences")
    data = read_object(path, cure="Correct it")
    for instruction, sentences in data.items():
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise DataError(
                f"{path}: the paraphrases of {instruction!r} are {sentences!r:.200}, must be a list of sentences"
            )
        try:
            check_instructions([instruction, *sentences])
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        if len({instruction, *sentences}) <= len(sentences):
            raise DataError(
                f"{path}: the paraphrases of {instruction!r} hold a sentence twice. Each counts once, the instruction "
                "itself too. Leave the second out"
            )
    return {instruction: tuple(sentences) for instruction, sentences in data.items()}
