"""What a run trains on: held-out episodes stay out, and each episode has its text embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError
from rt1.text.encoder import TableEncoder, TextEncoderIdentity
from rt1.train.config import TrainConfig
from rt1.train.data import prepare_data, stored_text_encoder, text_embeddings

LENGTHS = (6, 5, 1, 7, 4, 5, 6, 3, 2, 8)

MakeSource = Callable[..., EpisodeSource]
MakeConfig = Callable[..., TrainConfig]


class _CountingEncoder:
    """Encodes a sentence as its length, and remembers what it was asked."""

    identity = TextEncoderIdentity(name="counting", sha256="0" * 64, width=2)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, instructions: Sequence[str]) -> NDArray[np.float32]:
        self.asked += instructions
        return np.array([[len(sentence), 1] for sentence in instructions], dtype=np.float32)


def test_held_out_episodes_never_occur_in_training_batches(make_source: MakeSource, short: MakeConfig) -> None:
    data = prepare_data(make_source(*LENGTHS), short(held_out=0.3))
    assert data.held_out is not None
    seen = {episode for number in range(30) for episode in data.train.batch(number).episodes}
    held_out = {episode for batch in data.held_out.in_order() for episode in batch.episodes}
    assert held_out == set(data.held_out_episodes.tolist())
    assert len(held_out) == 3
    assert seen == set(range(10)) - held_out


def test_the_split_depends_on_the_seed_alone(make_source: MakeSource, short: MakeConfig) -> None:
    def held_out(seed: int, batch_size: int) -> list[int]:
        config = short(seed=seed, batch_size=batch_size, held_out=0.3)
        return prepare_data(make_source(*LENGTHS), config).held_out_episodes.tolist()

    assert held_out(0, 4) == held_out(0, 9)
    assert len({tuple(held_out(seed, 4)) for seed in range(5)}) > 1


def test_without_a_held_out_share_every_episode_is_trained_on(make_source: MakeSource, short: MakeConfig) -> None:
    data = prepare_data(make_source(*LENGTHS), short(held_out=0.0))
    assert data.held_out is None
    assert {episode for batch in data.train.in_order() for episode in batch.episodes} == set(range(10))


def test_the_network_gets_the_sizes_of_the_data(make_source: MakeSource, short: MakeConfig) -> None:
    config = short()
    fitted = prepare_data(make_source(*LENGTHS, bins=32), config).fit(config.model)
    assert (fitted.action_tokens, fitted.bins, fitted.text_width) == (3, 32, 8)
    assert fitted.window == config.model.window


def test_each_distinct_instruction_is_encoded_once(make_source: MakeSource) -> None:
    source, encoder = make_source(*LENGTHS), _CountingEncoder()
    text = text_embeddings(source, encoder)
    assert sorted(encoder.asked) == sorted({source.instruction(episode) for episode in range(10)})
    assert text[:, 0].tolist() == [len(source.instruction(episode)) for episode in range(10)]


def test_stored_embeddings_are_used_where_no_encoder_is_given(make_source: MakeSource, short: MakeConfig) -> None:
    source = make_source(*LENGTHS)
    data = prepare_data(source, short())
    batch = data.train.batch(0)
    for row, episode in zip(batch.text_BE, batch.episodes, strict=True):
        np.testing.assert_array_equal(row, source.text_embedding(episode))
    assert data.text_encoder is None


def test_a_given_encoder_goes_before_stored_embeddings(make_source: MakeSource, short: MakeConfig) -> None:
    source = make_source(*LENGTHS)
    encoder = TableEncoder({source.instruction(k): np.full(5, k, np.float32) for k in range(2)}, "numbers")
    data = prepare_data(source, short(), encoder=encoder)
    batch = data.train.batch(0)
    assert batch.text_BE[:, 0].tolist() == [episode % 2 for episode in batch.episodes]
    assert data.text_encoder == encoder.identity


def test_the_encoder_that_a_source_names_is_known(make_source: MakeSource) -> None:
    source = make_source(2)
    assert stored_text_encoder(source) is None
    identity = TextEncoderIdentity(name="table", sha256="1" * 64, width=8)
    source.text_encoder = identity.to_json()  # type: ignore[attr-defined]
    assert stored_text_encoder(source) == identity


def test_an_episode_without_embedding_needs_an_encoder(make_source: MakeSource, short: MakeConfig) -> None:
    source = make_source(*LENGTHS)
    source.text_embedding = lambda episode: None if episode == 4 else np.zeros(8, np.float32)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="memory, episode 4 has no text embedding; name a text encoder"):
        prepare_data(source, short())


def test_a_source_without_episodes_is_refused(make_source: MakeSource, short: MakeConfig) -> None:
    with pytest.raises(DataError, match="memory has no episodes; record some"):
        prepare_data(make_source(), short())


def test_a_single_episode_cannot_be_held_out(make_source: MakeSource, short: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"held_out is 0.2 of 1 episodes; at least one .* lower held_out"):
        prepare_data(make_source(9), short())
