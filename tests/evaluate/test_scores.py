"""Scores of predicted action tokens: by hand, as sums that add up, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.evaluate import scores as scores_module
from rt1.evaluate.scores import CONFIDENCE_BINS, ActionScores, TokenCounts, has_float64, values_of_all
from rt1.model.loss import action_loss

SPEC = ActionSpec(
    parts=(
        Discrete(name="stop", choices=3),
        Continuous(name="move", low=(-1.0, 0.0), high=(1.0, 22.0), labels=("x", "y")),
    ),
    bins=12,
)


def _certain(token_BTA: Tensor) -> Tensor:
    """Return logits that are all but sure of these tokens."""
    return 50.0 * torch.nn.functional.one_hot(token_BTA.long(), SPEC.bins).float()


def _random(seed: int, batch: int, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((batch, steps, SPEC.size, SPEC.bins), generator=generator)
    action = torch.rand((batch, steps, SPEC.size), generator=generator) * torch.tensor([3.0, 2.0, 22.0])
    action = action - torch.tensor([0.0, 1.0, 0.0])
    action[..., 0] = action[..., 0].floor()
    token = torch.from_numpy(SPEC.encode(action.numpy()))
    mask = torch.rand((batch, steps), generator=generator) < 0.7
    mask[0, 0] = True
    return logits, token, mask, action


def test_every_number_is_what_a_person_counts() -> None:
    token = torch.tensor([[[0, 4, 6], [2, 4, 6]]])
    predicted = torch.tensor([[[1, 5, 6], [2, 11, 4]]])
    scores = ActionScores(SPEC, within=(1, 2))
    scores.add(_certain(predicted), token, torch.ones(1, 2, dtype=torch.bool))
    values = scores.values()
    assert scores.steps == 2
    assert {name: values[name] for name in values if name.startswith(("acc", "within", "wrong", "l1"))} == {
        "accuracy": pytest.approx(2 / 6),
        "accuracy/stop": 0.5,
        "accuracy/x": 0.0,
        "accuracy/y": 0.5,
        "within_1_bin": pytest.approx(3 / 6),  # a choice beside the recorded one is as wrong as any other
        "within_1_bin/stop": 0.5,
        "within_1_bin/x": 0.5,
        "within_1_bin/y": 0.5,
        "within_2_bins": pytest.approx(4 / 6),
        "within_2_bins/stop": 0.5,
        "within_2_bins/x": 0.5,
        "within_2_bins/y": 1.0,
        "wrong_choice/stop": 0.5,
        "l1/x": pytest.approx((1 + 7) * 2 / 11 / 2),  # bins are 2 / 11 apart
        "l1/y": pytest.approx((0 + 2) * 22 / 11 / 2),
        "l1_of_range": pytest.approx(((1 + 7) / 11 / 2 + (0 + 2) / 11 / 2) / 2),
    }
    assert values["loss"] == pytest.approx(np.mean([values[f"loss/{name}"] for name in ("stop", "x", "y")]))
    assert values["loss/stop"] == pytest.approx(25.0)  # one token sure and right, one 50 nats off


def test_errors_are_against_the_action_as_it_was_recorded() -> None:
    action = torch.tensor([[[1.0, -1.5, 3.5]]])
    token = torch.from_numpy(SPEC.encode(action.numpy()))
    scores = ActionScores(SPEC)
    scores.add(_certain(token), token, torch.ones(1, 1, dtype=torch.bool), action)
    values = scores.values()
    assert values["accuracy"] == 1.0
    assert values["l1/x"] == pytest.approx(0.5)  # it was clipped to -1 by the encoder
    assert values["l1/y"] == pytest.approx(1.5)  # it decodes to the lower edge of its bin, 2 wide
    assert values["wrong_choice/stop"] == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 3), steps=st.integers(1, 4))
def test_sums_add_up_over_batches_and_processes(seed: int, cut: int, steps: int) -> None:
    logits, token, mask, action = _random(seed, 4, steps)
    whole, first, second = (ActionScores(SPEC) for _ in range(3))
    whole.add(logits, token, mask, action)
    first.add(logits[:cut], token[:cut], mask[:cut], action[:cut])
    second.add(logits[cut:], token[cut:], mask[cut:], action[cut:])
    together = ActionScores(SPEC)
    together.load_sums(first.sums + second.sums)
    assert together.steps == whole.steps == int(mask.sum())
    assert together.values() == pytest.approx(whole.values(), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_steps_that_do_not_count_change_nothing_whatever_they_hold(seed: int) -> None:
    logits, token, mask, action = _random(seed, 2, 3)
    scores, kept = ActionScores(SPEC), ActionScores(SPEC)
    kept.add(
        logits[mask][None], token[mask][None], torch.ones(1, int(mask.sum()), dtype=torch.bool), action[mask][None]
    )
    logits[~mask], action[~mask] = float("nan"), float("nan")
    token[~mask] = 99
    scores.add(logits, token, mask, action)
    assert scores.values() == kept.values()


def test_the_loss_is_that_of_the_training() -> None:
    logits, token, mask, _ = _random(3, 5, 4)
    scores = ActionScores(SPEC)
    scores.add(logits, token, mask)
    assert scores.values()["loss"] == pytest.approx(float(action_loss(logits, token, mask_BT=mask)), rel=1e-5)


def test_an_action_without_continuous_dimensions_has_no_errors_in_units() -> None:
    spec = ActionSpec(parts=(Discrete(name="grip", choices=2), Discrete(name="stop", choices=3)), bins=4)
    scores = ActionScores(spec)
    scores.add(torch.randn(1, 2, 2, 4), torch.ones(1, 2, 2, dtype=torch.int32), torch.ones(1, 2, dtype=torch.bool))
    assert not [name for name in scores.values() if name.startswith("l1")]
    assert "wrong_choice/grip" in scores.values()


def test_nothing_counted_gives_no_numbers() -> None:
    scores = ActionScores(SPEC)
    logits, token, mask, _ = _random(0, 1, 2)
    scores.add(logits, token, torch.zeros_like(mask))
    assert scores.steps == 0
    assert scores.values() == {}


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    logits, token, mask, action = _random(0, 2, 3)
    scores = ActionScores(SPEC)
    with pytest.raises(ValueError, match=r"logits .*\(2, 3, 3, 11\).*\(2, 3, 3, 12\)"):
        scores.add(logits[..., :-1], token, mask)
    with pytest.raises(ValueError, match=r"the tokens have shape \(2, 3, 2\)"):
        scores.add(logits, token[..., :2], mask)
    with pytest.raises(ValueError, match=r"the actions have shape \(1, 3, 3\)"):
        scores.add(logits, token, mask, action[:1])
    with pytest.raises(ValueError, match="one action spec"):
        scores.load_sums(ActionScores(SPEC, within=(1,)).sums)
    with pytest.raises(ValueError, match=r"within is \(1, 1\)"):
        ActionScores(SPEC, within=(1, 1))


def test_several_embodiments_count_by_their_steps_and_keep_their_own_numbers() -> None:
    def scored(right: int, steps: int, dimensions: int) -> ActionScores:
        spec = ActionSpec(parts=(Continuous(name="x", low=(0.0,) * dimensions, high=(1.0,) * dimensions),), bins=4)
        logits = torch.zeros(1, steps, dimensions, 4)
        logits[..., 0] = 1.0
        tokens = torch.ones(1, steps, dimensions, dtype=torch.long)
        tokens[:, :right] = 0
        scores = ActionScores(spec, within=())
        scores.add(logits, tokens, torch.ones(1, steps, dtype=torch.bool))
        return scores

    both = {"arm": scored(1, 2, 2), "hand": scored(0, 6, 3), "idle": ActionScores(scored(0, 1, 1).action_spec)}
    values = values_of_all(both)
    assert (values["accuracy"], values["accuracy/arm"], values["accuracy/hand"]) == (1 / 8, 1 / 2, 0.0)
    assert values["accuracy/arm/x_1"] == 0.5
    assert "accuracy/arm/x_2" not in values
    assert not any("idle" in name for name in values)
    assert values_of_all({"arm": both["arm"]}) == both["arm"].values()


PLANE = ActionSpec(parts=(Continuous(name="move", low=(-1.0, -1.0), high=(1.0, 1.0)),), bins=6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(1, 20), cut=st.integers(0, 20))
def test_each_prediction_is_counted_once_in_its_place(seed: int, steps: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(steps, 2, 6)).astype(np.float32)
    token = rng.integers(0, 6, (steps, 2)).astype(np.int32)
    counts = TokenCounts(PLANE)
    counts.add(logits[:cut], token[:cut])
    counts.add(logits[cut:], token[cut:])
    predicted = logits.argmax(-1)
    for dimension in range(2):
        for recorded in range(6):
            for guess in range(6):
                wanted = ((token == recorded) & (predicted == guess))[:, dimension].sum()
                assert counts.confusion_AVV[dimension, recorded, guess] == wanted
        offsets = (predicted - token)[:, dimension]
        assert counts.differences(dimension).tolist() == [int((offsets == d).sum()) for d in range(-5, 6)]
        commonest = np.bincount(token[:, dimension]).max() / steps
        assert counts.most_frequent()[dimension] == pytest.approx(commonest)


def test_reliability_groups_the_predictions_by_their_probability() -> None:
    # Probabilities of the first token: 0.75 for four predictions, of which three are right; 1.0 for two right ones.
    sure = np.log(np.array([0.75, 0.05, 0.05, 0.05, 0.05, 0.05]))
    certain = np.array([100.0, 0, 0, 0, 0, 0])
    logits = np.array([sure, sure, sure, sure, certain, certain])[:, None].repeat(2, axis=1).astype(np.float32)
    token = np.array([[0, 0], [0, 0], [0, 0], [3, 0], [0, 0], [0, 0]], np.int32)
    counts = TokenCounts(PLANE)
    counts.add(logits, token)
    first = counts.reliability(0)
    place = int(0.75 * CONFIDENCE_BINS)
    assert first.count.sum() == 6
    assert (first.count[place], first.count[-1]) == (4, 2)
    assert first.confidence[place] == pytest.approx(0.75)
    assert first.accuracy[place] == pytest.approx(0.75)
    assert np.isnan(first.accuracy[0])
    assert first.error == pytest.approx(0.0, abs=1e-6)
    assert counts.reliability(1).error == pytest.approx(4 / 6 * 0.25)
    assert counts.reliability().count.sum() == 12
    assert counts.reliability().error == pytest.approx(8 / 12 * 0.125)


def test_a_device_without_float64_leaves_the_sums_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_module, "has_float64", lambda device: torch.device(device).type == "cpu")
    scores = ActionScores(SPEC, device="meta")
    scores.add(*_random(3, 2, 4))
    expected = ActionScores(SPEC)
    expected.add(*_random(3, 2, 4))
    assert scores.sums.device.type == "cpu"
    assert scores.values() == expected.values()


def test_whether_a_device_has_float64_is_found_out_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    assert has_float64("cpu")
    has_float64.cache_clear()
    monkeypatch.setattr(torch, "zeros", refuse)
    assert not has_float64("cpu")
    has_float64.cache_clear()
