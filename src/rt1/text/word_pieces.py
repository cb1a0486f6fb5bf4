"""Word pieces of the data's instructions: ids whose vectors the network learns."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from rt1.common.json_files import parse
from rt1.errors import DataError
from rt1.text.encoder import WORD_PIECES, TextEncoderIdentity, check_instructions
from rt1.text.pieces import Pieces, warn_of_unknown

_PADDING, _UNKNOWN = "[PAD]", "[UNK]"
# Words that no instruction of the data has are spelled with these, rather than all being the same unknown.
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-',."


class WordPieces:
    """Instructions to ids of word pieces, padded with 0 (``text.vocabulary`` of the network is :attr:`vocabulary`)."""

    def __init__(self, definition: str, *, tokens: int) -> None:
        """Load what :meth:`from_instructions` made. ``tokens`` is the longest instruction it takes.

        Raises:
            DataError: the definition is not that of a tokenizer with padding at 0.
        """
        self._tokenizer = _tokenizer(_vocabulary(definition))
        self.vocabulary = self._tokenizer.get_vocab_size()
        self.identity = TextEncoderIdentity(
            name=WORD_PIECES,
            sha256=hashlib.sha256(definition.encode()).hexdigest(),
            width=tokens,
            vocabulary=self.vocabulary,
            definition=definition,
        )

    @staticmethod
    def from_instructions(instructions: Sequence[str], *, tokens: int, size: int = 1000) -> WordPieces:
        """Build a vocabulary of ``size`` pieces: all letters, then the most frequent words of the instructions.

        ``tokens`` is the number of word pieces of the longest instruction. A repeated sentence counts once.
        """
        check_instructions(instructions)
        normalizer, splitter = _parts()
        counts = Counter(
            word
            for sentence in sorted(set(instructions))
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(sentence))
        )
        letters = sorted(set(_ALPHABET).union(*counts))
        # A letter within a word is another piece than one that starts a word. The package's trainer is not used: it
        # breaks ties differently from run to run, and a resumed run needs the same ids.
        pieces = [_PADDING, _UNKNOWN, *letters, *(f"##{letter}" for letter in letters)]
        words = sorted(counts.keys() - set(letters), key=lambda word: (-counts[word], word))
        vocabulary = {piece: index for index, piece in enumerate([*pieces, *words[: max(0, size - len(pieces))]])}
        return WordPieces(_tokenizer(vocabulary).to_str(), tokens=tokens)

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return ids as float32 (B, tokens), which holds them exactly, 0 behind the last piece.

        Raises:
            ValueError: an empty instruction, or one with more word pieces than ``tokens``.
        """
        check_instructions(instructions)
        warn_of_unknown(self, instructions)
        rows = np.zeros((len(instructions), self.identity.width), dtype=np.float32)
        encodings = self._tokenizer.encode_batch(list(instructions))
        for row, instruction, encoding in zip(rows, instructions, encodings, strict=True):
            ids = encoding.ids
            if len(ids) > self.identity.width:
                raise ValueError(
                    f"the instruction {instruction[:80]!r} has {len(ids)} word pieces. At most "
                    f"{self.identity.width} fit. Shorten it, or train with {WORD_PIECES}:tokens={len(ids)}"
                )
            row[: len(ids)] = ids
        return rows

    def pieces(self, instruction: str) -> Pieces:
        """Return the word pieces of an instruction."""
        return pieces_of(self._tokenizer, _UNKNOWN, instruction)


def pieces_of(tokenizer: Tokenizer, unknown: str, instruction: str) -> Pieces:
    """Return the pieces of an instruction. ``unknown`` is the piece that stands for all others."""
    encoding = tokenizer.encode(instruction, add_special_tokens=False)
    number = tokenizer.token_to_id(unknown)
    spans = [span for span, piece in zip(encoding.offsets, encoding.ids, strict=True) if piece == number]
    return Pieces(ids=tuple(encoding.ids), unknown=tuple(instruction[start:stop] for start, stop in spans))


def _parts() -> tuple[BertNormalizer, BertPreTokenizer]:
    return BertNormalizer(lowercase=True), BertPreTokenizer()


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _parts()
    return tokenizer


def _vocabulary(definition: str) -> dict[str, int]:
    """Return the pieces and ids of a definition. The rest is constant, and is never taken from a file."""
    cure = "Restore the checkpoint"
    data = parse(definition, name="the definition of word pieces", cure=cure)
    model = data.get("model") if isinstance(data, dict) else None
    pieces = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(pieces, dict) or pieces.get(_UNKNOWN) is None:
        raise DataError(f"this is no definition of word pieces with a vocabulary and {_UNKNOWN} in it. {cure}")
    if pieces.get(_PADDING) != 0 or set(map(repr, pieces.values())) != set(map(repr, range(len(pieces)))):
        raise DataError(
            f"these word pieces have no {_PADDING} at 0 or ids with gaps. Use those that rt1 made of the data"
        )
    return pieces
