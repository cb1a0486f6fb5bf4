"""Instruction to vector: the protocol every text encoder satisfies, and the table of precomputed vectors."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rt1.common.border import reading
from rt1.common.files import replacing
from rt1.common.json_config import check_at_least, from_json
from rt1.common.json_files import parse
from rt1.common.suggest import unknown_name
from rt1.errors import DataError

WORD_PIECES = "word-pieces"
"""Word pieces of the data's instructions: :class:`rt1.text.word_pieces.WordPieces`."""

HUGGING_FACE = "hf:"
"""What the name of an encoder of Hugging Face begins with."""

TABLE_FILE = "instructions.safetensors"
"""Text embeddings by sentence in the folder of a policy: a :class:`TableEncoder`."""

_METADATA_KEY = "rt1_text_table"


@dataclass(frozen=True, kw_only=True)
class TextEncoderIdentity:
    """Which encoder made a vector. Stored in checkpoints and data. Another one is refused."""

    name: str
    """Encoder name, e.g. ``all-MiniLM-L6-v2``."""
    sha256: str
    """Hash of its weights, or of a table's content. Empty where the weights are not known."""
    width: int
    """E: entries of a text embedding."""
    tokens: int = 1
    """Vectors that are laid end to end in a text embedding, one a token, zeros behind them. 1: it is one vector."""
    vocabulary: int = 0
    """Where a text embedding holds ids of word pieces: how many there are. 0: it holds vectors."""
    definition: str = ""
    """JSON of the encoder itself, where it is made of the data's instructions and has to travel with a checkpoint."""

    def __str__(self) -> str:
        weights = f"sha256 {self.sha256[:12]}" if self.sha256 else "weights not known"
        return f"{self.name!r} ({weights}, width {self.width})"

    def to_json(self) -> dict[str, Any]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TextEncoderIdentity:
        """Read what :meth:`to_json` wrote. Anything else raises ``ValueError``."""
        identity = from_json(TextEncoderIdentity, data, where="text encoder identity")
        check_at_least(identity, 1, "width", "tokens")
        check_at_least(identity, 0, "vocabulary")
        return identity


USE_LARGE_5 = TextEncoderIdentity(name="universal-sentence-encoder-large/5", sha256="", width=512)
"""Universal Sentence Encoder, the encoder of Google's RT-1 networks and of many Open X data sets.

It has no hash: it comes as a table of a data set's embeddings or as a file that the user exported.
"""


@runtime_checkable
class TextEncoder(Protocol):
    """Turns instructions into text embeddings, deterministically."""

    identity: TextEncoderIdentity
    """What it is. Two encoders with one identity give the same vectors."""

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, E), one row per instruction. An empty instruction raises ``ValueError``."""
        ...


def check_same_encoder(expected: TextEncoderIdentity, actual: TextEncoderIdentity) -> None:
    """Raise ``ValueError`` unless ``actual`` is ``expected``, the identity in a checkpoint or data set.

    The hash of the weights is not compared where the expected one is unknown, as in :data:`USE_LARGE_5`.
    """
    if actual != (expected if expected.sha256 else replace(expected, sha256=actual.sha256)):
        raise ValueError(
            f"the text encoder is {actual} but {expected} is needed. "
            "Vectors of two encoders do not mean the same. Load the one that is needed"
        )


def check_instructions(instructions: Sequence[str]) -> None:
    """Raise ``ValueError`` for a single string in place of a list, and for an empty or blank instruction."""
    if isinstance(instructions, str):
        raise ValueError(f"instructions is the string {instructions!r}. Give a list, one string per instruction")
    for index, instruction in enumerate(instructions):
        if not instruction.strip():
            raise ValueError(f"instruction {index} is {instruction!r}, must say something. Give a sentence")


class TableEncoder:
    """A table of precomputed text embeddings: encodes its own sentences, exactly as written, and no others.

    For data whose embeddings come from an encoder that is not available, e.g. the Universal Sentence Encoder.
    """

    def __init__(self, vectors: Mapping[str, NDArray[np.floating[Any]]], name: str) -> None:
        """Copy the vectors.

        Args:
            vectors: sentence to (E,), any float type, kept as float32. At least one sentence.
            name: what error messages and checkpoints call the table.

        Raises:
            ValueError: no sentence, a blank one, vectors of different widths, or values that are not finite.
        """
        check_instructions(list(vectors))
        self._vectors = {sentence: np.array(vector, dtype=np.float32) for sentence, vector in vectors.items()}
        shapes = {vector.shape for vector in self._vectors.values()}
        if len(shapes) != 1 or len(shape := next(iter(shapes))) != 1 or shape == (0,):
            raise ValueError(
                f"text table {name!r} has vectors of shapes {sorted(shapes)}. All must be one (E,), E >= 1"
            )
        for sentence, vector in self._vectors.items():
            if not np.isfinite(vector).all():
                raise ValueError(f"text table {name!r}: the vector of {sentence!r} is not finite. Compute it again")
        self.identity = TextEncoderIdentity(name=name, sha256=_content_hash(self._vectors), width=shape[0])

    @staticmethod
    def from_pairs(pairs: Iterable[tuple[str, NDArray[np.floating[Any]]]], name: str) -> TableEncoder:
        """Collect (sentence, vector) pairs, e.g. one per episode of a data set.

        A sentence may come again with the same vector. With another one it raises ``ValueError``.
        """
        vectors: dict[str, NDArray[np.float32]] = {}
        for sentence, values in pairs:
            vector = np.asarray(values, dtype=np.float32)
            if not np.array_equal(vectors.setdefault(sentence, vector), vector):
                raise ValueError(
                    f"text table {name!r}: the sentence {sentence!r} comes with two different vectors. "
                    "Keep those of one encoder"
                )
        return TableEncoder(vectors, name)

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(sorted(self._vectors))

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, E), one row per instruction. Another sentence raises ``ValueError``."""
        check_instructions(instructions)
        vectors = np.empty((len(instructions), self.identity.width), dtype=np.float32)
        for row, sentence in zip(vectors, instructions, strict=True):
            if sentence not in self._vectors:
                raise ValueError(self._unknown(sentence))
            row[:] = self._vectors[sentence]
        return vectors

    def save(self, path: Path) -> None:
        """Write a safetensors file: ``vectors`` float32 (N, E), name and sentences as JSON in its metadata.

        A file already there is replaced only once the new one is complete. See :func:`rt1.common.files.replacing`.
        """
        about = json.dumps({"name": self.identity.name, "sentences": self.sentences})
        with replacing(path) as temporary:
            save_file({"vectors": self.encode(self.sentences)}, temporary, metadata={_METADATA_KEY: about})

    @staticmethod
    def load(path: Path) -> TableEncoder:
        """Read what :meth:`save` wrote. Another or a damaged file raises :class:`DataError`."""
        cure = "Give a text table written by TableEncoder.save"
        with reading(path, cure=cure, also=(SafetensorError,)):
            with safe_open(path, framework="np") as file:
                text, vectors = (file.metadata() or {})[_METADATA_KEY], file.get_tensor("vectors")
            about = parse(text, name="its description", cure=cure)
            name, sentences = about["name"], about["sentences"]
            if not (isinstance(name, str) and all(isinstance(sentence, str) for sentence in sentences)):
                raise DataError("its name and sentences must be text. Write it again")
            if vectors.dtype.kind != "f":
                raise DataError(f"it holds vectors of {vectors.dtype}. Text embeddings are floats. Write it again")
            return TableEncoder.from_pairs(zip(sentences, vectors, strict=True), name)

    def unknown(self, sentence: str) -> str:
        """Return the message for a sentence that the table lacks, with the closest ones it has."""
        closest = difflib.get_close_matches(sentence, self._vectors, n=3, cutoff=0.3) or self.sentences[:3]
        others = len(self._vectors) - len(closest)
        return unknown_name("instruction", sentence, closest) + (f" and {others} more" if others else "")

    def _unknown(self, sentence: str) -> str:
        return (
            f"{self.unknown(sentence)} in text table {self.identity.name!r}. "
            "Only the table's sentences can be encoded. Give one of them, or train with MiniLM"
        )


def _content_hash(vectors: Mapping[str, NDArray[np.float32]]) -> str:
    """Hash sentences and vectors, whatever the order of the sentences and the machine."""
    digest = hashlib.sha256()
    for sentence in sorted(vectors):
        digest.update(json.dumps(sentence).encode() + b"\n")
        digest.update(vectors[sentence].astype("<f4").tobytes())
    return digest.hexdigest()
