"""What a run trains on: held-out episodes stay out, and each episode has its text embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from rt1.checkpoint import CheckpointInfo, SharedInfo, load_info, load_model, load_whole_info, load_whole_model
from rt1.data.open_mixture import WeightedSource
from rt1.data.pipeline.augment import AugmentSettings
from rt1.data.sources.images import decode_image
from rt1.errors import CheckpointError, DataError, TrainingError
from rt1.evaluate.metrics import read_metrics
from rt1.policy.policy import Policy
from rt1.report.dataset_terminal import checkpoint_text
from rt1.text.encoder import TableEncoder, TextEncoderIdentity
from rt1.text.pieces import UNKNOWN_KEY
from rt1.text.word_pieces import WordPieces
from rt1.train.config import TrainConfig
from rt1.train.data import (
    checkpoint_info,
    checksum,
    prepare_data,
    several_sentences,
    stored_text_encoder,
    text_embeddings,
)
from rt1.train.loop import train
from rt1.train.optim import OptimizerSettings
from rt1.train.run import begin
from rt1.train.update import do_update

LENGTHS = (6, 5, 1, 7, 4, 5, 6, 3, 2, 8)

MakeSource = Callable[..., Any]
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
    source.text_encoder = identity.to_json()
    assert stored_text_encoder(source) == identity


def test_an_episode_without_embedding_needs_an_encoder(make_source: MakeSource, short: MakeConfig) -> None:
    source = make_source(*LENGTHS)
    source.text_embedding = lambda episode: None if episode == 4 else np.zeros(8, np.float32)
    with pytest.raises(DataError, match=r"memory, episode 4 has no text embedding. Name a text encoder"):
        prepare_data(source, short())


def test_a_source_without_episodes_is_refused(make_source: MakeSource, short: MakeConfig) -> None:
    with pytest.raises(DataError, match=r"memory has no episodes\. Record some"):
        prepare_data(make_source(), short())


def test_a_single_episode_cannot_be_held_out(make_source: MakeSource, short: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"held_out is 0.2 of 1 episodes. At least one .* Lower held_out"):
        prepare_data(make_source(9), short())


OPEN, CLOSE = "open the drawer", "close the drawer"
PARAPHRASES = {OPEN: ("pull it open", "slide it out")}
SIX = (6, 5, 4, 7, 4, 5)


@pytest.fixture
def encoder() -> TableEncoder:
    """Four sentences as their numbers."""
    sentences = (OPEN, CLOSE, *PARAPHRASES[OPEN])
    return TableEncoder({s: np.array([number, 1.0]) for number, s in enumerate(sentences)}, "numbers")


def test_samples_get_all_sentences_of_their_instruction_and_no_others(
    make_source: MakeSource, short: MakeConfig, encoder: TableEncoder
) -> None:
    data = prepare_data(make_source(*SIX), short(), encoder=encoder, paraphrases=PARAPHRASES)
    seen: dict[int, set[float]] = {0: set(), 1: set()}
    for number in range(20):
        batch = data.train.batch(number)
        for row, episode in enumerate(batch.episodes):
            seen[episode % 2].add(float(batch.text_BE[row, 0]))
    assert seen == {0: {0.0, 2.0, 3.0}, 1: {1.0}}


def test_ranks_together_are_given_what_one_process_is(
    make_source: MakeSource, short: MakeConfig, encoder: TableEncoder
) -> None:
    loader = prepare_data(make_source(*SIX), short(), encoder=encoder, paraphrases=PARAPHRASES).train
    ranks = [loader.batch(5, rank=rank, world=2).text_BE for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(ranks), loader.batch(5).text_BE)


def test_validation_gives_the_instruction(make_source: MakeSource, short: MakeConfig, encoder: TableEncoder) -> None:
    data = prepare_data(make_source(*SIX), short(held_out=0.5), encoder=encoder, paraphrases=PARAPHRASES)
    assert data.held_out is not None
    for batch in data.held_out.in_order():
        assert batch.text_BE[:, 0].tolist() == [episode % 2 for episode in batch.episodes]


def test_paraphrases_without_an_encoder_are_refused(make_source: MakeSource) -> None:
    with pytest.raises(DataError, match=r"paraphrases .*need a text encoder, .* Name the encoder"):
        several_sentences(make_source(*SIX), None, PARAPHRASES)


def test_paraphrases_of_no_instruction_are_refused_with_what_was_meant(
    make_source: MakeSource, encoder: TableEncoder
) -> None:
    with pytest.raises(
        DataError, match=r"no paraphrase fits an instruction of memory: .*did you mean 'open the drawer'"
    ):
        several_sentences(make_source(*SIX), encoder, {"open the draw": ("pull it open",)})


def test_paraphrases_that_are_not_used_are_counted(make_source: MakeSource, encoder: TableEncoder) -> None:
    with pytest.warns(UserWarning, match="paraphrases of 1 of 2 instructions are not used: .*'wave'"):
        sentences = several_sentences(make_source(*SIX), encoder, {**PARAPHRASES, "wave": ("wave a hand",)})
    assert sentences.counts.tolist() == [3, 1] * 3


def test_the_hash_knows_paraphrases_again_in_any_order_of_the_instructions() -> None:
    one, other = {OPEN: ("a", "b"), CLOSE: ("c",)}, {CLOSE: ("c",), OPEN: ("a", "b")}
    assert checksum(one) == checksum(other) != checksum({**one, CLOSE: ("d",)})


def test_a_run_several_sentences_goes_on_only_with_the_same(
    make_source: MakeSource, short: MakeConfig, encoder: TableEncoder, tmp_path: Path
) -> None:
    config, run = short(updates=6), tmp_path / "run"
    train(
        make_source(*SIX),
        dataclasses.replace(config, updates=6),
        run,
        encoder=encoder,
        paraphrases=PARAPHRASES,
    )
    train(make_source(*SIX), config, tmp_path / "plain", encoder=encoder)
    last, plain = (read_metrics(folder)[-1]["loss"] for folder in (run, tmp_path / "plain"))
    assert last != plain
    with pytest.raises(TrainingError, match=r"data\.paraphrases: \w+ then, None now"):
        train(make_source(*SIX), config, run, encoder=encoder)


@pytest.fixture
def data(make_source: MakeSource) -> list[WeightedSource]:
    """An arm of 3 dimensions and a hand of 5."""
    arm, hand = make_source(6, 5, 4, 7, 5, name="arm"), make_source(5, 6, 3, 6, 4, dimensions=5, name="hand")
    return [WeightedSource(source=arm, embodiment="arm"), WeightedSource(source=hand, embodiment="hand")]


def test_one_trunk_learns_the_actions_of_both_by_heart_and_each_acts_by_its_name(
    make_source: MakeSource, short: MakeConfig, tmp_path: Path
) -> None:
    arm, hand = make_source(3, name="arm"), make_source(3, dimensions=5, name="hand")
    both = [WeightedSource(source=arm, embodiment="arm"), WeightedSource(source=hand, embodiment="hand")]
    optimizer = OptimizerSettings(learning_rate=1e-2, warmup=5, weight_decay=0.0)
    # Frozen: the network acts as it trained, not by moving statistics of a few updates.
    config = short(updates=120, log_every=20, held_out=0.0, optimizer=optimizer, batch_norm="frozen")
    steady = dataclasses.replace(
        config.model,
        transformer=dataclasses.replace(config.model.transformer, dropout=0.0),
        efficientnet=dataclasses.replace(config.model.efficientnet, drop_connect=0.0),
    )
    train(both, dataclasses.replace(config, model=steady, augment=AugmentSettings(crop_share=0.0)), tmp_path / "run")
    assert read_metrics(tmp_path / "run")[-1]["accuracy"] > 0.98
    for source in (arm, hand):
        policy = Policy.from_checkpoint(tmp_path / "run", embodiment=source.name)
        assert policy.action_spec == source.action_spec
        policy.reset(source.text_embedding(0))
        acted = np.stack([policy.logits(decode_image(data)).argmax(-1) for data in source.images[0]])
        assert (acted == source.action_spec.encode(source.moves[0])).mean() > 0.9


def test_an_update_of_one_embodiment_leaves_the_others_head_without_gradient(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    settings = {"target_spread": 1.0, "optimizer": OptimizerSettings(weight_decay=0.0)}
    run = begin(data, short(**settings), tmp_path / "run")
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    loader = run.data.train
    own = np.flatnonzero(loader.embodiments.heads[loader._windows.places(np.arange(20)).episodes] == 0)[:4]
    do_update(run, loader.take(own))
    moved = {name for name, tensor in run.model.state_dict().items() if not tensor.equal(before[name])}
    assert {"transformer.output.0.weight", "transformer.position_LD"} <= moved
    assert not {"transformer.output.1.weight", "transformer.output.1.bias"} & moved
    step_tokens, images = run.model.config.step_tokens, run.model.config.image_tokens
    positions = run.model.transformer.position_LD.detach().unflatten(0, (-1, step_tokens))
    earlier = before["transformer.position_LD"].unflatten(0, (-1, step_tokens))
    assert positions[:, images + 3 :].equal(earlier[:, images + 3 :])


def test_validation_has_the_numbers_of_each_embodiment(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    train(data, short(updates=4), tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert {"heldout_loss", "heldout_loss/arm", "heldout_loss/hand", "heldout_l1/hand/move_4"} <= last.keys()
    assert not {"heldout_loss/move_0", "heldout_loss/arm/move_3"} & last.keys()
    low, high = sorted((last["heldout_loss/arm"], last["heldout_loss/hand"]))
    assert low <= last["heldout_loss"] <= high


def test_a_stopped_run_of_several_embodiments_goes_on_as_if_it_had_not_stopped(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    config = short(updates=4, validate_every=2, save_every=2)
    train(data, config, tmp_path / "whole")
    run = begin(data, config, tmp_path / "parts")
    for number in range(2):
        do_update(run, run.data.train.batch(number))
    run.save("last")
    train(data, config, tmp_path / "parts")
    one, two = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_several_embodiments_names_them_and_gives_the_network_of_each(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(data, short(updates=1), folder)
    info = load_whole_info(folder)
    assert isinstance(info, SharedInfo)
    assert [*info.embodiments] == ["arm", "hand"]
    assert load_whole_model(folder).config.embodiments == (3, 5)
    for name, size in (("arm", 3), ("hand", 5)):
        own = load_info(folder, embodiment=name)
        assert own.action_spec.size == own.model.action_tokens == size
        assert own.statistics is not None
        assert own.statistics.names == own.action_spec.dimension_names
        assert (own.provenance["source"], own.provenance["episodes"], own.provenance["embodiment"]) == (name, 5, name)
        assert len(own.provenance["held_out_episodes"]) == 1
        assert load_model(folder, embodiment=name).config == own.model
    assert "embodiment hand: action, 16 bins" in checkpoint_text(folder)
    for load in (load_info, load_model, Policy.from_checkpoint):
        with pytest.raises(CheckpointError, match=r"has several embodiments: arm, hand. Name one with embodiment"):
            load(folder)
        with pytest.raises(CheckpointError, match="unknown embodiment 'hands', did you mean 'hand'"):
            load(folder, embodiment="hands")
    with pytest.raises(ValueError, match=r"this network has 2 embodiments\. Load the network of one"):
        Policy(load_whole_model(folder), data[0].source.action_spec)


def test_trials_need_one_embodiment_with_an_environment(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    config = short()
    trials = dataclasses.replace(config.closed_loop, every=4)
    with pytest.raises(ValueError, match=r"need one embodiment with an environment. Of arm, hand there are 0"):
        train(data, dataclasses.replace(config, closed_loop=trials), tmp_path / "run")


def test_a_run_starts_from_the_heads_of_the_same_name_and_back_from_one_of_several(
    data: list[WeightedSource], short: MakeConfig, tmp_path: Path
) -> None:
    one = begin(data[0].source, short(), tmp_path / "one")
    both = begin(data, short(init=str(tmp_path / "one")), tmp_path / "both")
    assert both.model.transformer.output[0].weight.equal(one.model.transformer.output.weight)
    assert sorted(both.info.provenance["init"]["new"].values()) == [
        ("transformer.output.1.weight", "transformer.output.1.bias")
    ]
    swapped = begin(data[::-1], short(init=str(tmp_path / "both"), seed=5), tmp_path / "swapped")
    assert swapped.model.transformer.output[1].weight.equal(one.model.transformer.output.weight)
    assert swapped.info.provenance["init"]["new"] == {}
    back = begin(data[0].source, short(init=str(tmp_path / "swapped"), seed=6), tmp_path / "back")
    assert back.model.transformer.output.weight.equal(one.model.transformer.output.weight)
    assert back.model.backbone.stem.weight.equal(one.model.backbone.stem.weight)


def _several(source: Any) -> Any:
    source.instructions = lambda episode: [source.instruction(episode), f"{source.instruction(episode)} slowly"]
    return source


@pytest.mark.parametrize("choice", ["drawn", "all"])
def test_several_instructions_are_a_function_of_the_seed_for_any_ranks_and_resume(
    make_source: MakeSource, short: MakeConfig, choice: Any
) -> None:
    encoder = _CountingEncoder()
    config = short(held_out=0.0, instruction_choice=choice)
    loader = prepare_data(_several(make_source(*SIX)), config, encoder=encoder).train
    whole = [loader.batch(number).text_BE for number in range(40)]
    halves = [[loader.batch(number, rank=rank, world=2).text_BE for rank in (0, 1)] for number in range(40)]
    np.testing.assert_array_equal(np.concatenate(whole), np.concatenate([row for pair in halves for row in pair]))
    resumed = prepare_data(_several(make_source(*SIX)), config, encoder=encoder).train.stream(17)
    np.testing.assert_array_equal(next(resumed).text_BE, whole[17])
    assert len(np.unique(np.concatenate(whole), axis=0)) == 4


def test_by_default_the_first_instruction_is_the_only_one(make_source: MakeSource, short: MakeConfig) -> None:
    loader = prepare_data(_several(make_source(*SIX)), short(held_out=0.0), encoder=_CountingEncoder()).train
    assert len(np.unique(np.concatenate([loader.batch(number).text_BE for number in range(20)]), axis=0)) == 2


def test_instructions_with_one_text_embedding_are_refused(make_source: MakeSource, short: MakeConfig) -> None:
    source = make_source(*SIX)
    source.embeddings[1] = source.embeddings[0]
    with pytest.raises(DataError, match=r"'open the drawer', 'close the drawer'.*stored"):
        prepare_data(source, short())


@pytest.mark.parametrize("choice", ["first", "all"])
def test_empty_instructions_are_refused_with_the_option_that_leaves_them_out(
    make_source: MakeSource, short: MakeConfig, choice: Any
) -> None:
    source = make_source(*SIX)
    source.instruction = lambda episode: "" if episode in (2, 3) else "push"
    with pytest.raises(DataError, match=r"2 of 6 episodes .* episode 2. .*--skip-empty"):
        prepare_data(source, short(instruction_choice=choice), encoder=_CountingEncoder())


def test_the_checkpoint_names_instructions_with_unknown_pieces(make_source: MakeSource, short: MakeConfig) -> None:
    source = make_source(*SIX)
    source.instruction = lambda episode: ("open it", "push \u6249")[episode % 2]
    encoder = WordPieces.from_instructions(["open it", "push"], tokens=20)
    with pytest.warns(UserWarning, match="does not know: '\u6249'"):
        data = prepare_data(source, short(), encoder=encoder)
    info = checkpoint_info(data.fit(short().model), short(), data)
    assert info.provenance[UNKNOWN_KEY] == ["push \u6249"]
    plain = prepare_data(make_source(*SIX), short(), encoder=encoder)
    assert UNKNOWN_KEY not in checkpoint_info(plain.fit(short().model), short(), plain).provenance


def test_the_temperature_of_the_settings_travels_with_the_checkpoint(
    make_source: MakeSource, short: MakeConfig
) -> None:
    config = short(temperature=0.5)
    data = prepare_data(make_source(*SIX), config)
    info = checkpoint_info(data.fit(config.model), config, data)
    assert isinstance(info, CheckpointInfo)
    assert info.action_spec.temperature == 0.5
