"""What a run trains on: the split, the loaders, and each episode's text embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.data.episode import DataError, EpisodeSource
from rt1.data.loader import Loader
from rt1.data.sentences import Sentences
from rt1.data.windows import Windows, split_episodes
from rt1.model.rt1 import RT1Config
from rt1.text.encoder import TextEncoder, TextEncoderIdentity
from rt1.text.paraphrases import Paraphrases
from rt1.train.config import TrainConfig
from rt1.train.sentences import checksum, with_paraphrases


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A source made ready for a run."""

    source: EpisodeSource
    """The episodes."""
    text_encoder: TextEncoderIdentity | None
    """Where the text embeddings come from."""
    paraphrases: str | None
    """Hash of the paraphrases; None without."""
    train: Loader
    """Shuffled windows of the training episodes."""
    held_out: Loader | None
    """Windows of the held-out episodes; None where none are held out."""
    held_out_episodes: NDArray[np.int64]
    """Numbers of the held-out episodes."""

    def fit(self, model: RT1Config) -> RT1Config:
        """Return the network's configuration with the data's action dimensions, bins and text embeddings."""
        spec = self.source.action_spec
        width = self.train.take(np.array([0])).text_BE.shape[1]
        text, encoder = model.text, self.text_encoder
        if encoder is not None:
            text = dataclasses.replace(text, tokens=encoder.tokens, vocabulary=encoder.vocabulary)
        return dataclasses.replace(model, action_tokens=spec.size, bins=spec.bins, text_width=width, text=text)


def prepare_data(
    source: EpisodeSource,
    config: TrainConfig,
    *,
    encoder: TextEncoder | None = None,
    paraphrases: Paraphrases | None = None,
) -> TrainingData:
    """Split a source and build its loaders.

    Args:
        source: recorded episodes.
        config: window, batch size, seed, held-out share.
        encoder: encoder for the instructions; without it the embeddings stored with the episodes are used.
        paraphrases: sentences that training gives in place of an instruction now and then; they need an encoder.

    Raises:
        DataError: no episodes, episodes without an embedding where no encoder is given, or paraphrases that cannot be
            used.
    """
    episodes = len(source.lengths)
    if episodes == 0:
        raise DataError(f"{source.name} has no episodes; record some, or check the folder and the split")
    text: NDArray[np.float32] | Sentences
    text = with_paraphrases(source, encoder, paraphrases) if paraphrases else text_embeddings(source, encoder)
    identity = stored_text_encoder(source) if encoder is None else encoder.identity
    train, held_out = split_episodes(episodes, held_out=config.held_out, seed=config.seed)

    def loader(chosen: NDArray[np.int64]) -> Loader:
        windows = Windows(lengths=source.lengths, episodes=chosen, window=config.model.window)
        return Loader(
            source,
            windows,
            text=text,
            batch_size=config.batch_size,
            seed=config.seed,
            threads=config.loader_threads,
        )

    return TrainingData(
        source=source,
        text_encoder=identity,
        paraphrases=checksum(paraphrases) if paraphrases else None,
        train=loader(train),
        held_out=loader(held_out) if len(held_out) else None,
        held_out_episodes=held_out,
    )


def text_embeddings(source: EpisodeSource, encoder: TextEncoder | None) -> NDArray[np.float32]:
    """Return float32 (episodes, E): encoded instructions, or the embeddings stored with the episodes."""
    episodes = range(len(source.lengths))
    if encoder is not None:
        sentences = [source.instruction(episode) for episode in episodes]
        distinct = sorted(set(sentences))
        table = dict(zip(distinct, encoder.encode(distinct), strict=True))
        return np.stack([table[sentence] for sentence in sentences])
    rows = []
    for episode in episodes:
        row = source.text_embedding(episode)
        if row is None:
            raise DataError(
                f"{source.name}, episode {episode} has no text embedding; name a text encoder for its instructions"
            )
        rows.append(row)
    return np.stack(rows)


def stored_text_encoder(source: EpisodeSource) -> TextEncoderIdentity | None:
    """Return the identity of the encoder that a source says its embeddings come from, or None."""
    stored: Mapping[str, Any] | None = getattr(source, "text_encoder", None)
    return None if stored is None else TextEncoderIdentity.from_json(stored)
