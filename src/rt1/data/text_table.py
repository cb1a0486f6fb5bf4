"""A table of the text embeddings stored in a data set, for encoders that are not available."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from rt1.actions import FloatArray
from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError
from rt1.text.encoder import TableEncoder


def harvest_text_table(source: EpisodeSource, out_path: Path | str, *, encoder_name: str) -> TableEncoder:
    """Save every instruction of a source with its stored text embedding as a table, and return the table.

    Episodes without an instruction are skipped with one warning. ``encoder_name`` is the encoder of the embeddings,
    such as ``USE_LARGE_5.name`` of :mod:`rt1.text.encoder`: checkpoints of that encoder then accept the table.

    Raises:
        DataError: no episode has an instruction, or one with an instruction has no embedding.
        ValueError: an instruction has two different embeddings.
        SaveError: the disk is full or read-only.
    """
    episodes = [episode for episode in range(len(source.lengths)) if source.instruction(episode).strip()]
    if not episodes:
        raise DataError(f"{source.name}: none of its {len(source.lengths)} episodes has an instruction. Use another")
    table = TableEncoder.from_pairs(_pairs(source, episodes), encoder_name)
    table.save(Path(out_path))
    if left_out := len(source.lengths) - len(episodes):
        warnings.warn(f"{source.name}: {left_out} episodes without an instruction were left out", stacklevel=2)
    return table


def _pairs(source: EpisodeSource, episodes: list[int]) -> Iterator[tuple[str, FloatArray]]:
    for episode in episodes:
        vector = source.text_embedding(episode)
        if vector is None:
            raise DataError(
                f"{source.name}, episode {episode} has no text embedding to harvest. Name the key that holds it "
                "(RLDSLayout's embedding_key), or use another data set"
            )
        yield source.instruction(episode), vector
