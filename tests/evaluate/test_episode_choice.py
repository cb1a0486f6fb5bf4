"""Which episodes are evaluated, and what the policy is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.checkpoint import CheckpointInfo, load_info
from rt1.errors import DataError
from rt1.evaluate.episode_choice import choose_episodes, instruction_source
from rt1.text.encoder import TableEncoder

TRAINED = {"source": "memory", "episodes": 6, "held_out_episodes": [4, 1, 2]}


def test_the_held_out_episodes_of_the_training_are_taken(make_source: Callable[..., Any]) -> None:
    chosen = choose_episodes(make_source(*[2] * 6), TRAINED)
    assert chosen.numbers.tolist() == [1, 2, 4]
    assert chosen.reason == "the 3 episodes held out from training"
    alone = choose_episodes(make_source(*[2] * 6), TRAINED | {"held_out_episodes": [4]})
    assert alone.reason == "the 1 episode held out from training"
    assert chosen.held_out is True


def test_all_episodes_may_be_asked_for_and_those_trained_on_are_said(make_source: Callable[..., Any]) -> None:
    chosen = choose_episodes(make_source(*[2] * 6), TRAINED, "all")
    assert chosen.numbers.tolist() == [0, 1, 2, 3, 4, 5]
    assert chosen.reason == "all 6 episodes. The policy was trained on 3 of them"
    assert chosen.held_out is False


def test_some_episodes_are_spread_evenly_over_those_held_out(make_source: Callable[..., Any]) -> None:
    chosen = choose_episodes(make_source(*[2] * 6), TRAINED, 2)
    assert chosen.numbers.tolist() == [1, 4]
    assert chosen.reason == "2, evenly spaced, of the 3 episodes held out from training"
    assert choose_episodes(make_source(*[2] * 6), TRAINED, 9).numbers.tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("provenance", "reason", "held_out"),
    [
        ({}, "the checkpoint does not say what it was trained on", None),
        ({**TRAINED, "source": "other"}, "trained on other (6 episodes), this is memory (6). Whether it has", None),
        ({**TRAINED, "episodes": 60}, "trained on memory (60 episodes), this is memory (6)", None),
        ({**TRAINED, "held_out_episodes": []}, "trained on this data set with nothing held out", False),
    ],
)
def test_of_other_data_all_episodes_are_taken_and_why_is_said(
    make_source: Callable[..., Any], provenance: dict[str, Any], reason: str, held_out: Any
) -> None:
    source = make_source(*[2] * 6)
    chosen = choose_episodes(source, provenance)
    assert chosen.numbers.tolist() == list(range(6))
    assert chosen.reason.startswith("all 6 episodes: ")
    assert reason in chosen.reason
    assert chosen.held_out is held_out
    assert choose_episodes(source, provenance, 2).numbers.tolist() == [0, 5]
    with pytest.raises(DataError, match=r"held-out.*--episodes"):
        choose_episodes(source, provenance, "held-out")


def test_no_episodes_and_none_wanted_are_refused(make_source: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="memory has no episodes"):
        choose_episodes(make_source(), {})
    with pytest.raises(DataError, match="--episodes is 0, must be at least 1"):
        choose_episodes(make_source(2), {}, 0)


@pytest.fixture
def info(make_checkpoint: Callable[..., Path], tmp_path: Path) -> CheckpointInfo:
    """What a checkpoint says that was trained with the text encoder ``table``."""
    return load_info(make_checkpoint(tmp_path / "run"))


def test_stored_embeddings_of_the_checkpoints_encoder_or_an_unknown_one_are_told(
    make_source: Callable[..., Any], info: CheckpointInfo, table: TableEncoder
) -> None:
    source = make_source(2, 2)
    for identity, name in ((None, "not named"), (table.identity.to_json(), "table")):
        source.text_encoder = identity
        words = instruction_source(source, info)
        assert words.origin == f"stored with the data (encoder: {name})"
        np.testing.assert_array_equal(words.of(source, 1), source.embeddings[1])
    unknown = dataclasses.replace(info, text_encoder=None)
    assert instruction_source(source, unknown).stored


def test_the_sentence_is_told_where_the_stored_embedding_is_not_the_checkpoints(
    make_source: Callable[..., Any], info: CheckpointInfo, table: TableEncoder
) -> None:
    source = make_source(2, 2)
    assert instruction_source(source, info, table).of(source, 1) == "close the drawer"  # an encoder was given
    source.text_encoder = dataclasses.replace(table.identity, name="another").to_json()
    assert instruction_source(source, info).of(source, 0) == "open the drawer"
    source.text_encoder = None
    source.embeddings = source.embeddings[:, :5]
    assert instruction_source(source, info).origin == "the instructions, encoded by table"


def test_an_episode_without_words_has_none_and_one_without_its_embedding_is_an_error(
    make_source: Callable[..., Any], info: CheckpointInfo, table: TableEncoder
) -> None:
    source = make_source(2, 2)
    stored = instruction_source(source, info)
    source.instruction = lambda _: " "
    assert instruction_source(source, info, table).of(source, 0) is None
    source.text_embedding = lambda _: None
    with pytest.raises(DataError, match=r"memory, episode 1 .*text embedding"):
        stored.of(source, 1)
