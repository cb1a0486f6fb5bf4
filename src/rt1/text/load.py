"""A text encoder by name or by the path of a file."""

from __future__ import annotations

from pathlib import Path

from rt1.names import unknown_name
from rt1.text.encoder import USE_LARGE_5, TableEncoder, TextEncoder

MINILM_NAME = "all-MiniLM-L6-v2"
"""What checkpoints call it."""

_USE_IS_NOT_HERE = (
    "these instructions are Universal Sentence Encoder (large/5) vectors, and rt1 does not bring that encoder; "
    f"give the {USE_LARGE_5.width}-d embedding itself, or load the policy with text_encoder=TableEncoder.load(FILE), "
    "a table harvested from a data set that carries them (e.g. fractal), or with text_encoder=UseOnnx(FILE), "
    "an ONNX file of USE"
)


def load_text_encoder(name_or_path: str) -> TextEncoder:
    """Load ``minilm`` (also by the name in its identity), or the file at a path.

    A file ending in ``.onnx`` is Universal Sentence Encoder (:class:`rt1.text.use.UseOnnx`), any other a table
    (:class:`TableEncoder`).

    Raises:
        ValueError: neither that name nor a file, a file that cannot be used, no weights for ``minilm``, or the name of
            Universal Sentence Encoder, which can only be had from a file.
    """
    if name_or_path in ("minilm", MINILM_NAME):
        from rt1.text.minilm import MiniLM  # a table needs no torch

        return MiniLM()
    if name_or_path == USE_LARGE_5.name:
        raise ValueError(_USE_IS_NOT_HERE)
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"{unknown_name('text encoder', name_or_path, ['minilm'])}, "
            "or the path of a file written by TableEncoder.save, or of an .onnx file"
        )
    if path.suffix == ".onnx":
        from rt1.text.use import UseOnnx

        return UseOnnx(path)
    return TableEncoder.load(path)
