"""Actions to tokens and back: Google's numbers exactly, round trips, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rt1.actions import ActionSpec, Continuous, Discrete, rt1_action_spec, spec_difference
from rt1.errors import PolicyError

REST = {
    "terminate_episode": np.array([0, 1, 0], np.int32),
    "world_vector": np.zeros(3, np.float32),
    "rotation_delta": np.zeros(3, np.float32),
    "gripper_closedness_action": np.zeros(1, np.float32),
    "base_displacement_vertical_rotation": np.zeros(1, np.float32),
    "base_displacement_vector": np.zeros(2, np.float32),
}


@st.composite
def specs(draw: st.DrawFn) -> ActionSpec:
    bins = draw(st.integers(8, 600))
    parts: list[Continuous | Discrete] = []
    for number in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            parts.append(Discrete(name=f"choice_{number}", choices=draw(st.integers(2, 8))))
            continue
        size = draw(st.integers(1, 3))
        low = draw(st.lists(st.floats(-100, 100, width=32), min_size=size, max_size=size))
        width = draw(st.lists(st.floats(0.125, 100, width=32), min_size=size, max_size=size))
        high = tuple(a + b for a, b in zip(low, width, strict=True))
        parts.append(Continuous(name=f"part_{number}", low=tuple(low), high=high))
    return ActionSpec(parts=tuple(parts), bins=bins)


def tokens_of(spec: ActionSpec, seed: int) -> NDArray[np.int32]:
    top = np.where(spec.discrete_choices > 0, spec.discrete_choices, spec.bins)
    return np.random.default_rng(seed).integers(0, top, (50, spec.size)).astype(np.int32)


@pytest.mark.parametrize("bins", [256, 512])
def test_every_recorded_action_gives_googles_tokens(reference: Path, bins: int) -> None:
    recorded = np.load(reference / "unit" / f"action_tokenizer_v{bins}.npz")
    spec = rt1_action_spec(bins=bins)
    action = spec.from_dict({name: recorded[f"in/{name}"] for name in recorded["action_order"]})
    np.testing.assert_array_equal(spec.encode(action), recorded["tokens"])


@pytest.mark.parametrize("bins", [256, 512])
def test_every_token_value_decodes_to_googles_action(reference: Path, bins: int) -> None:
    recorded = np.load(reference / "unit" / f"action_tokenizer_v{bins}.npz")
    spec = rt1_action_spec(bins=bins)
    decoded = spec.to_dict(spec.decode(recorded["decode_in_tokens"]))
    for name in recorded["action_order"]:
        np.testing.assert_array_equal(decoded[name], recorded[f"decoded/{name}"])
        assert decoded[name].dtype == recorded[f"decoded/{name}"].dtype


@given(spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_decoding_and_encoding_a_token_comes_back_within_one_bin(spec: ActionSpec, seed: int) -> None:
    tokens = tokens_of(spec, seed)
    again = spec.encode(spec.decode(tokens))
    # Google's encoder truncates, so that a decoded value may fall to the bin below, never to the one above.
    continuous = spec.discrete_choices == 0
    assert (again[:, ~continuous] == tokens[:, ~continuous]).all()
    assert ((tokens - again)[:, continuous] >= 0).all()
    assert ((tokens - again)[:, continuous] <= 1).all()


@given(spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_encoding_loses_at_most_one_bin_width(spec: ActionSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    action = rng.uniform(spec.low, spec.high, (50, spec.size)).astype(np.float32)
    action = np.where(spec.discrete_choices > 0, np.floor(action), np.clip(action, spec.low, spec.high))
    bin_width = (spec.high - spec.low) / np.float32(spec.bins - 1)
    error = np.abs(spec.decode(spec.encode(action)) - action)
    rounding = 1e-5 * (1 + np.maximum(np.abs(spec.low), np.abs(spec.high)))
    assert (error <= np.where(spec.discrete_choices > 0, 0, bin_width + rounding)).all()


@given(spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_an_action_dict_comes_back_from_its_vector(spec: ActionSpec, seed: int) -> None:
    action = spec.decode(tokens_of(spec, seed))
    np.testing.assert_array_equal(spec.from_dict(spec.to_dict(action)), action)


@given(spec=specs())
def test_a_spec_comes_back_from_json(spec: ActionSpec) -> None:
    assert ActionSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_tensor_gives_a_tensor_of_the_same_tokens_and_actions() -> None:
    spec = rt1_action_spec(bins=512)
    action = np.random.default_rng(0).uniform(-2, 2, (3, 5, spec.size)).astype(np.float32)
    action[..., 0] = 1
    tokens = spec.encode(torch.from_numpy(action))
    assert tokens.dtype == torch.int32
    np.testing.assert_array_equal(tokens.numpy(), spec.encode(action))
    decoded = spec.decode(tokens.long())
    assert decoded.dtype == torch.float32
    np.testing.assert_array_equal(decoded.numpy(), spec.decode(tokens.numpy()))


def test_values_outside_the_bounds_are_clipped_and_reported() -> None:
    spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0, -2.0), high=(1.0, 2.0)),), bins=256)
    action = np.array([[5.0, -5.0], [np.inf, -np.inf], [0.5, 0.5]], np.float32)
    assert spec.encode(action)[:2].tolist() == [[255, 0], [255, 0]]
    assert spec.out_of_bounds(action).tolist() == [[True, True], [True, True], [False, False]]


def test_zero_lies_just_below_the_middle_as_in_the_official_code() -> None:
    spec = rt1_action_spec()
    tokens = spec.encode(spec.from_dict(REST))
    assert tokens.tolist() == [1] + [127] * 10
    assert spec.decode(tokens)[1] == pytest.approx(-0.003921569, abs=1e-9)


@pytest.mark.parametrize(("invalid", "expected"), [("first", [1, 0, 0]), ("none", [0, 0, 0])])
def test_an_invalid_choice_decodes_as_its_part_says(invalid: str, expected: list[int]) -> None:
    spec = rt1_action_spec(invalid="first" if invalid == "first" else "none")
    tokens = np.full(11, 200, np.int32)
    assert spec.to_dict(spec.decode(tokens))["terminate_episode"].tolist() == expected


def test_dimension_names_follow_the_token_order() -> None:
    names = rt1_action_spec().dimension_names
    assert names[:4] == ("terminate_episode", "world_vector_0", "world_vector_1", "world_vector_2")
    assert names[7:9] == ("gripper_closedness_action", "base_displacement_vertical_rotation")


def test_a_nan_is_refused_with_the_name_of_its_dimension() -> None:
    spec = rt1_action_spec()
    action = spec.from_dict(REST)
    action[2] = np.nan
    with pytest.raises(ValueError, match="NaN in \\['world_vector_1'\\]"):
        spec.encode(action)


def test_a_choice_that_is_not_one_of_the_choices_is_refused() -> None:
    spec = rt1_action_spec()
    action = spec.from_dict(REST)
    for bad in (3.0, -1.0, 0.5):
        action[0] = bad
        with pytest.raises(ValueError, match=r"not one of its choices 0\.\.\[2\]"):
            spec.encode(action)


def test_an_action_of_another_size_is_refused_with_the_dimension_names() -> None:
    with pytest.raises(ValueError, match="must be 11: one value per dimension terminate_episode, world_vector_0"):
        rt1_action_spec().encode(np.zeros((4, 7), np.float32))


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match=r"span 0\.\.256, must lie in 0\.\.255"):
        rt1_action_spec().decode(np.array([0] * 10 + [256], np.int32))


def test_a_missing_part_is_refused_by_name() -> None:
    without = {name: value for name, value in REST.items() if name != "world_vector"}
    with pytest.raises(ValueError, match="no part \\['world_vector'\\]"):
        rt1_action_spec().from_dict(without)


def test_a_choice_that_is_not_one_hot_is_refused() -> None:
    with pytest.raises(ValueError, match="'terminate_episode' must be one-hot over 3 choices"):
        rt1_action_spec().from_dict({**REST, "terminate_episode": np.array([1, 1, 0], np.int32)})


def test_a_part_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'world_vector' has shape \(2,\). Its last dimension must be 3"):
        rt1_action_spec().from_dict({**REST, "world_vector": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("low", "high"), [((0.0,), (0.0,)), ((0.0,), (float("nan"),)), ((0.0,), (float("inf"),)), ((), ()), ((0.0,), ())]
)
def test_bounds_that_enclose_nothing_are_refused(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="action part 'x'"):
        Continuous(name="x", low=low, high=high)


def test_a_name_given_twice_is_refused() -> None:
    part = Continuous(name="x", low=(0.0,), high=(1.0,))
    with pytest.raises(ValueError, match="no name twice"):
        ActionSpec(parts=(part, part))


def test_fewer_bins_than_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        ActionSpec(parts=(Discrete(name="mode", choices=5),), bins=4)


def test_json_that_is_no_spec_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks .*parts"):
        ActionSpec.from_json({"bins": 256})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": (Continuous(name="hand", low=(-1.0,), high=(1.0,)),)}, "the dimensions move and hand"),
        ({"bins": 8}, "256 and 8 bins"),
        ({"parts": (Continuous(name="arm", low=(-1.0,), high=(1.0,), labels=("move",)),)}, "the parts move and arm"),
        ({"parts": (Continuous(name="move", low=(-2.0,), high=(0.5,)),)}, "the bounds -1..1 and -2..0.5"),
    ],
)
def test_the_difference_of_two_specs_is_said_in_words(change: dict[str, Any], words: str) -> None:
    spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0,), high=(1.0,)),))
    assert spec_difference(spec, dataclasses.replace(spec, **change)) == words


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_give_no_action(value: float) -> None:
    spec = ActionSpec(parts=(Continuous(name="move", low=(0.0,) * 3, high=(4.0,) * 3),), bins=5)
    logits = np.zeros((2, 3, 5), dtype=np.float32)
    logits[1, 2, 3] = value
    with pytest.raises(PolicyError, match="1 of 30 logits"):
        spec.decode_logits(logits)


@pytest.mark.parametrize("shape", [(3, 256), (2, 2, 255), (256,)])
def test_logits_of_another_number_of_bins_or_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    spec = ActionSpec(parts=(Continuous(name="move", low=(0.0,) * 3, high=(4.0,) * 3),), bins=255)
    with pytest.raises(ValueError, match=rf"{re.escape(str(shape))}.* 3 dimensions of 255 bins"):
        spec.decode_logits(np.zeros(shape, np.float32))


def test_no_token_decodes_to_a_value_outside_the_bounds() -> None:
    spec = ActionSpec(parts=(Continuous(name="move", low=(-0.1, 0.0), high=(0.2, 1.0)),))
    action = spec.decode(np.array([[0, 0], [255, 255]]))
    np.testing.assert_array_equal(action, [spec.low, spec.high])
    assert not spec.out_of_bounds(action).any()


def test_the_most_likely_token_of_each_dimension_is_the_action() -> None:
    spec = ActionSpec(parts=(Continuous(name="move", low=(0.0,) * 3, high=(4.0,) * 3),), bins=5)
    expected = np.array([[4, 0, 2], [1, 3, 3]])
    tokens, action = spec.decode_logits(np.eye(5, dtype=np.float32)[expected])
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(action, expected)
    assert (tokens.dtype.name, action.dtype.name) == ("int32", "float32")


def test_a_temperature_gives_the_mean_of_the_bins_and_the_likeliest_choice() -> None:
    parts = (Discrete(name="end", choices=3), Continuous(name="move", low=(-1.0,), high=(3.0,)))
    spec = ActionSpec(parts=parts, bins=5, temperature=0.5)
    probability = np.array([[0.1, 0.2, 0.7, 0.0, 0.0], [0.1, 0.6, 0.3, 0.0, 0.0]], dtype=np.float32)
    logits = (0.5 * np.log(np.maximum(probability, 1e-30))).astype(
        np.float32
    )  # softmax(logits / 0.5) is the probability
    tokens, action = spec.decode_logits(logits)
    np.testing.assert_array_equal(tokens, [2, 1])
    np.testing.assert_allclose(action, [2.0, -1 + 0.6 * 1 + 0.3 * 2], atol=1e-5)  # bins at -1, 0, 1, 2, 3
    assert action.dtype == np.float32
    assert dataclasses.replace(spec, temperature=0.0).decode_logits(logits)[1].tolist() == [2.0, 0.0]


def test_a_temperature_is_stored_but_does_not_tell_two_actions_apart() -> None:
    cold = ActionSpec(parts=(Continuous(name="move", low=(-1.0,), high=(3.0,)),))
    warm = dataclasses.replace(cold, temperature=0.5)
    assert ActionSpec.from_json(warm.to_json()).temperature == 0.5
    assert "temperature" not in cold.to_json()
    assert warm == cold
    with pytest.raises(ValueError, match="temperature is -1"):
        dataclasses.replace(cold, temperature=-1.0)


@pytest.mark.parametrize(("low", "high"), [(-1e39, 0.0), (-3e38, 3e38), (0.0, 10**300), (-float("inf"), 0.0)])
def test_bounds_that_float32_cannot_hold_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="bounds"):
        Continuous(name="move", low=(low,), high=(high,))


def test_more_bins_than_any_network_has_are_refused() -> None:
    with pytest.raises(ValueError, match="bins is 1000000000000"):
        rt1_action_spec(bins=10**12)
