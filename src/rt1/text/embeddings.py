"""Text embeddings by sentence, for processes that run episodes."""

from __future__ import annotations

from collections.abc import Iterable

from rt1.actions import FloatArray
from rt1.text.encoder import TextEncoder


class SentenceEmbeddings(dict[str, FloatArray]):
    """Text embedding, float32 (E,), of each sentence, computed once."""

    def __init__(self, sentences: Iterable[str], encoder: TextEncoder, *, more: bool = False) -> None:
        """Encode the sentences. With ``more``, others are encoded when they are first looked up."""
        names = sorted(set(sentences))
        super().__init__(zip(names, encoder.encode(names), strict=True) if names else ())
        self._encoder = encoder if more else None

    def __missing__(self, sentence: str) -> FloatArray:
        if self._encoder is None:
            raise ValueError(f"{sentence!r} has no text embedding here. The task suite must list it in sentences()")
        self[sentence] = self._encoder.encode([sentence])[0]
        return self[sentence]
