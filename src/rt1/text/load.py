"""A text encoder by name or by the path of a table file."""

from __future__ import annotations

from pathlib import Path

from rt1.names import unknown_name
from rt1.text.encoder import TableEncoder, TextEncoder

MINILM_NAME = "all-MiniLM-L6-v2"
"""What checkpoints call it."""


def load_text_encoder(name_or_path: str) -> TextEncoder:
    """Load ``minilm`` (also by the name in its identity) or the table file at a path (:class:`TableEncoder`).

    Raises:
        ValueError: neither that name nor a file, a file that is no table, or no weights for ``minilm``.
    """
    if name_or_path in ("minilm", MINILM_NAME):
        from rt1.text.minilm import MiniLM  # a table needs no torch

        return MiniLM()
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"{unknown_name('text encoder', name_or_path, ['minilm'])}, "
            "or the path of a file written by TableEncoder.save"
        )
    return TableEncoder.load(path)
