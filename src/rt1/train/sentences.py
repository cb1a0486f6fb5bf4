"""The sentences that the episodes of a run may be given in training: their instructions and paraphrases of these."""

from __future__ import annotations

import hashlib
import json
import warnings

import numpy as np

from rt1.common.suggest import unknown_name
from rt1.data.pipeline.sentences import Sentences
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError
from rt1.text.encoder import TextEncoder
from rt1.text.paraphrases import Paraphrases


def with_paraphrases(source: EpisodeSource, encoder: TextEncoder | None, paraphrases: Paraphrases) -> Sentences:
    """Return each episode's instruction and its paraphrases, every different sentence encoded once.

    Raises:
        DataError: no text encoder, or paraphrases that fit no instruction of the data. Where some do and others do
            not, a warning says how many do not.
    """
    if encoder is None:
        raise DataError(
            "paraphrases need a text encoder, since only instructions have their text embeddings stored with the "
            "episodes; name the encoder that made these, minilm for instance"
        )
    instructions = [source.instruction(episode) for episode in range(len(source.lengths))]
    if unused := sorted(paraphrases.keys() - set(instructions)):
        message = unknown_name("instruction", unused[0], set(instructions))
        if len(unused) == len(paraphrases):
            raise DataError(f"no paraphrase fits an instruction of {source.name}: {message}")
        warnings.warn(
            f"paraphrases of {len(unused)} of {len(paraphrases)} instructions are not used: {message}", stacklevel=2
        )
    spoken = [(instruction, *paraphrases.get(instruction, ())) for instruction in instructions]
    distinct = sorted({sentence for own in spoken for sentence in own})
    numbers = {sentence: number for number, sentence in enumerate(distinct)}
    return Sentences(
        vector_RE=encoder.encode(distinct),
        rows=np.array([numbers[sentence] for own in spoken for sentence in own], dtype=np.int64),
        counts=np.array([len(own) for own in spoken], dtype=np.int64),
    )


def checksum(paraphrases: Paraphrases) -> str:
    """Return a hash of paraphrases, by which a run knows them again; the order of the instructions is none of it."""
    return hashlib.sha256(json.dumps(dict(paraphrases), sort_keys=True).encode()).hexdigest()
