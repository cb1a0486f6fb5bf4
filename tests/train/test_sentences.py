"""Paraphrases in training: which are used, and what each sample is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rt1.data.sources.base import EpisodeSource
from rt1.errors import DataError, TrainingError
from rt1.evaluate.metrics import read_metrics
from rt1.text.encoder import TableEncoder
from rt1.train.config import TrainConfig
from rt1.train.data import prepare_data
from rt1.train.loop import train
from rt1.train.sentences import checksum, with_paraphrases

OPEN, CLOSE = "open the drawer", "close the drawer"
PARAPHRASES = {OPEN: ("pull it open", "slide it out")}
LENGTHS = (6, 5, 4, 7, 4, 5)

MakeSource = Callable[..., EpisodeSource]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def encoder() -> TableEncoder:
    """Four sentences as their numbers."""
    sentences = (OPEN, CLOSE, *PARAPHRASES[OPEN])
    return TableEncoder({s: np.array([number, 1.0]) for number, s in enumerate(sentences)}, "numbers")


def test_samples_get_all_sentences_of_their_instruction_and_no_others(
    make_source: MakeSource, short: MakeConfig, encoder: TableEncoder
) -> None:
    data = prepare_data(make_source(*LENGTHS), short(), encoder=encoder, paraphrases=PARAPHRASES)
    seen: dict[int, set[float]] = {0: set(), 1: set()}
    for number in range(20):
        batch = data.train.batch(number)
        for row, episode in enumerate(batch.episodes):
            seen[episode % 2].add(float(batch.text_BE[row, 0]))
    assert seen == {0: {0.0, 2.0, 3.0}, 1: {1.0}}


def test_ranks_together_are_given_what_one_process_is(
    make_source: MakeSource, short: MakeConfig, encoder: TableEncoder
) -> None:
    loader = prepare_data(make_source(*LENGTHS), short(), encoder=encoder, paraphrases=PARAPHRASES).train
    ranks = [loader.batch(5, rank=rank, world=2).text_BE for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(ranks), loader.batch(5).text_BE)


def test_validation_gives_the_instruction(make_source: MakeSource, short: MakeConfig, encoder: TableEncoder) -> None:
    data = prepare_data(make_source(*LENGTHS), short(held_out=0.5), encoder=encoder, paraphrases=PARAPHRASES)
    assert data.held_out is not None
    for batch in data.held_out.in_order():
        assert batch.text_BE[:, 0].tolist() == [episode % 2 for episode in batch.episodes]


def test_paraphrases_without_an_encoder_are_refused(make_source: MakeSource) -> None:
    with pytest.raises(DataError, match=r"paraphrases need a text encoder, .* name the encoder"):
        with_paraphrases(make_source(*LENGTHS), None, PARAPHRASES)


def test_paraphrases_of_no_instruction_are_refused_with_what_was_meant(
    make_source: MakeSource, encoder: TableEncoder
) -> None:
    with pytest.raises(
        DataError, match=r"no paraphrase fits an instruction of memory: .*did you mean 'open the drawer'"
    ):
        with_paraphrases(make_source(*LENGTHS), encoder, {"open the draw": ("pull it open",)})


def test_paraphrases_that_are_not_used_are_counted(make_source: MakeSource, encoder: TableEncoder) -> None:
    with pytest.warns(UserWarning, match="paraphrases of 1 of 2 instructions are not used: .*'wave'"):
        sentences = with_paraphrases(make_source(*LENGTHS), encoder, {**PARAPHRASES, "wave": ("wave a hand",)})
    assert sentences.counts.tolist() == [3, 1] * 3


def test_the_hash_knows_paraphrases_again_in_any_order_of_the_instructions() -> None:
    one, other = {OPEN: ("a", "b"), CLOSE: ("c",)}, {CLOSE: ("c",), OPEN: ("a", "b")}
    assert checksum(one) == checksum(other) != checksum({**one, CLOSE: ("d",)})


def test_a_run_with_paraphrases_goes_on_only_with_the_same(
    make_source: MakeSource, short: MakeConfig, encoder: TableEncoder, tmp_path: Path
) -> None:
    config, run = short(updates=6), tmp_path / "run"
    train(make_source(*LENGTHS), dataclasses.replace(config, updates=6), run, encoder=encoder, paraphrases=PARAPHRASES)
    train(make_source(*LENGTHS), config, tmp_path / "plain", encoder=encoder)
    last, plain = (read_metrics(folder)[-1]["loss"] for folder in (run, tmp_path / "plain"))
    assert last != plain
    with pytest.raises(TrainingError, match=r"data\.paraphrases: \w+ then, None now"):
        train(make_source(*LENGTHS), config, run, encoder=encoder)
