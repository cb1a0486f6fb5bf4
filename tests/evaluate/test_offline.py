"""Recorded episodes through the network: streaming, windows, and their agreement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.data.sources.images import decode_image
from rt1.errors import DataError
from rt1.evaluate.episode_choice import ChosenEpisodes, InstructionSource, choose_episodes
from rt1.evaluate.offline import GROUP, OfflineResult, WindowBlock, evaluate_offline, window_blocks
from rt1.evaluate.scores import ActionScores
from rt1.model.conditioning import TextConfig
from rt1.model.rt1 import RT1
from rt1.model.transformer import TransformerConfig
from rt1.policy.policy import Policy
from rt1.policy.stepper import Stepper

STORED = InstructionSource(stored=True, origin="stored")


def _evaluate(policy: Policy, source: Any, **options: Any) -> OfflineResult:
    return evaluate_offline(policy, source, choose_episodes(source, {}), STORED, **options)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 22), min_size=1, max_size=3), window=st.integers(1, 4))
def test_streaming_and_windows_agree_on_every_step_of_every_episode(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], lengths: list[int], window: int
) -> None:
    source = make_source(*lengths)
    result = _evaluate(Policy(make_network(window), source.action_spec), source)
    assert result.agreement.holds
    assert result.agreement.steps == result.streaming.steps == sum(lengths)
    assert 0 < result.agreement.largest_logit < 1e3
    windows = [max(1, length - window + 1) for length in lengths]
    assert result.window_last.steps == sum(windows)
    assert result.window_all.steps == sum(n * min(window, s) for n, s in zip(windows, lengths, strict=True))
    if window == 1:
        assert result.window_last.values() == pytest.approx(result.streaming.values(), rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer": TransformerConfig(condition="film", layers=1, width=16, heads=2, head_width=8)},
        {"conditioning": "cross_attention", "text": TextConfig(tokens=2)},
        {"readout": "mean_token"},
        {"mask": "rt1x", "position_weights": "sigmoid"},
    ],
    ids=["text in the transformer", "attention to the text", "another readout", "another mask"],
)
def test_they_agree_whatever_the_network_is_made_of(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], changes: dict[str, Any]
) -> None:
    source = make_source(7, 2)
    model = RT1(dataclasses.replace(make_network(3).config, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    result = _evaluate(Policy(model, source.action_spec), source)
    assert result.agreement.holds
    assert result.agreement.steps == 9
    assert result.plots[0].attention


def test_they_agree_under_guidance(make_source: Callable[..., Any], make_network: Callable[..., RT1]) -> None:
    source = make_source(7, 2)
    model = RT1(dataclasses.replace(make_network(3).config, text=TextConfig(drop=0.1)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    plain, guided = (
        _evaluate(Policy(Stepper(model, cond_scale=scale), source.action_spec), source) for scale in (1.0, 2.0)
    )
    assert guided.agreement.holds
    assert guided.window_all.values()["loss"] != pytest.approx(plain.window_all.values()["loss"], rel=1e-3)


def test_the_numbers_are_those_of_a_policy_run_by_hand(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(4, 3)
    policy = Policy(make_network(), source.action_spec)
    by_hand = ActionScores(source.action_spec)
    for episode in range(2):
        policy.reset(source.text_embedding(episode))
        images = source.images[episode]
        logits = np.stack([policy.logits(decode_image(data)) for data in images])
        moves = torch.from_numpy(source.moves[episode])[None]
        token = torch.from_numpy(source.action_spec.encode(source.moves[episode]))[None]
        by_hand.add(torch.from_numpy(logits)[None], token, torch.ones(1, len(images), dtype=torch.bool), moves)
    result = _evaluate(policy, source)
    assert result.streaming.values() == pytest.approx(by_hand.values(), rel=1e-6)
    recorded_AV = result.counts.confusion_AVV.sum(axis=2)
    assert recorded_AV.sum(axis=1).tolist() == [7, 7, 7]
    right = np.trace(result.counts.confusion_AVV, axis1=1, axis2=2).sum() / 21
    assert right == pytest.approx(by_hand.values()["accuracy"])


class Forgetful(Policy):
    """A policy that forgets its images after every step."""

    def logits(self, image: NDArray[Any]) -> FloatArray:
        found = super().logits(image)
        self.reset(self.text_embedding)
        return found


def test_a_policy_that_does_not_run_the_network_as_trained_is_noticed(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(5)
    result = _evaluate(Forgetful(make_network(), source.action_spec), source, shown=0)
    assert not result.agreement.holds
    assert result.agreement.logit_difference > 1e-3


def test_the_episodes_shown_are_spread_over_those_evaluated(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(2, 3, 2, 2, 4)
    policy = Policy(make_network(), source.action_spec)
    plots = _evaluate(policy, source, shown=3).plots
    assert [plot.title for plot in plots] == [
        "Episode 0: 'open the drawer'",
        "Episode 2: 'open the drawer'",
        "Episode 4: 'open the drawer'",
    ]
    assert len(_evaluate(policy, source, shown=9).plots) == 5
    assert _evaluate(policy, source, shown=0).plots == []
    with pytest.raises(ValueError, match="shown is -1"):
        _evaluate(policy, source, shown=-1)


def test_episodes_without_an_instruction_are_left_out_and_named(
    make_source: Callable[..., Any], make_network: Callable[..., RT1]
) -> None:
    source = make_source(2, 3, 2)
    policy = Policy(make_network(), source.action_spec, encode_text=lambda _: source.embeddings[0])
    sentences = InstructionSource(stored=False, origin="the instructions")
    source.instruction = lambda episode: "" if episode == 1 else "go"
    result = evaluate_offline(policy, source, choose_episodes(source, {}), sentences)
    assert result.without_instruction == [1]
    assert result.streaming.steps == 4
    source.instruction = lambda episode: "" if episode == 0 else "go"
    shown = evaluate_offline(policy, source, choose_episodes(source, {}), sentences, shown=1).plots
    assert [plot.title for plot in shown] == ["Episode 1: 'go'"]
    source.instruction = lambda _: ""
    with pytest.raises(DataError, match=r"memory .*instruction"):
        evaluate_offline(policy, source, choose_episodes(source, {}), sentences)


@pytest.mark.parametrize(
    ("spec", "difference"),
    [
        (ActionSpec(parts=(Continuous(name="a", low=(-1,) * 3, high=(1,) * 3),), bins=16), "the dimensions move_0, "),
        (ActionSpec(parts=(Continuous(name="move", low=(-1,) * 3, high=(1,) * 3),), bins=8), "16 and 8 bins"),
        (
            ActionSpec(parts=(Continuous(name="move", low=(-2,) * 3, high=(1,) * 3),), bins=16),
            r"the bounds -1\.\.1, .* and -2\.\.1",
        ),
    ],
)
def test_data_with_another_action_spec_are_refused_with_the_difference(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], spec: ActionSpec, difference: str
) -> None:
    source = make_source(2)
    chosen = ChosenEpisodes(numbers=np.array([0]), reason="one", held_out=None)
    with pytest.raises(DataError, match=rf"memory .*checkpoint .*{difference}"):
        evaluate_offline(Policy(make_network(), spec), source, chosen, STORED)


def _blocks(model: RT1, source: Any, episode: int) -> list[WindowBlock]:
    return list(window_blocks(model, source, episode, source.text_embedding(episode)))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, GROUP + 2, GROUP + 3, 2 * GROUP + 5])
def test_every_window_gives_the_logits_it_gives_by_itself(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], steps: int
) -> None:
    source, model = make_source(2, steps), make_network(window=3)
    blocks = _blocks(model, source, 1)
    images = np.stack([decode_image(data) for data in source.images[1]])
    text = torch.from_numpy(source.text_embedding(1))[None]
    starts = []
    for block in blocks:
        for row in range(len(block.valid_GT)):
            own = block.step_GT[row][block.valid_GT[row]]
            starts.append(int(own[0]))
            with torch.inference_mode():
                wanted = model.predict(torch.from_numpy(images[own])[None], text)[0]
            found = block.logits_GTAV[row][torch.from_numpy(block.valid_GT[row])]
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4)
            np.testing.assert_array_equal(
                block.token_GTA[row][torch.from_numpy(block.valid_GT[row])].numpy(),
                source.action_spec.encode(source.moves[1][own]),
            )
    assert starts == list(range(max(1, steps - 2)))
    assert blocks[-1].stop == steps


@pytest.mark.parametrize("steps", [1, 2, 3, 4, GROUP + 3, 2 * GROUP + 5])
def test_each_step_is_as_streamed_once_and_each_window_has_one_last_step(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], steps: int
) -> None:
    source, model = make_source(steps), make_network(window=3)
    blocks = _blocks(model, source, 0)
    streamed = np.concatenate([block.step_GT[block.as_streamed()] for block in blocks])
    assert streamed.tolist() == list(range(steps))
    last = np.concatenate([block.step_GT[block.last_steps()] for block in blocks])
    assert last.tolist() == list(range(min(steps, 3) - 1, steps))
    for block in blocks:
        assert (block.last_steps().sum(axis=1) == 1).all()
