"""How a user names an engine."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.policy.engines.base import CHOICES, engine_choice, full_window


def test_every_choice_is_read_back_from_its_name() -> None:
    assert [engine_choice(str(choice)) for choice in CHOICES] == list(CHOICES)
    assert [str(choice) for choice in CHOICES][:3] == ["torch", "torch:bf16", "onnx"]
    assert engine_choice("onnx:fp32") == engine_choice("onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onx", "unknown engine 'onx', did you mean 'onnx'"),
        ("fp32", "unknown engine 'fp32'"),
        ("torch:int8", "'torch:int8', .*torch, torch:bf16"),
        ("onnx:", None),
        ("auto:bf16", "auto has no precision 'bf16'"),
    ],
)
def test_another_name_is_refused_in_one_line(text: str, message: str | None) -> None:
    if message is None:
        assert engine_choice(text) == ("onnx", "fp32")
        return
    with pytest.raises(ValueError, match=message):
        engine_choice(text)


def test_a_short_episode_gets_zeros_up_to_the_window() -> None:
    token_STKE = np.ones((2, 1, 3, 4), np.float32)
    window_STKE = full_window(token_STKE, 3)
    assert window_STKE.shape == (2, 3, 3, 4)
    assert (window_STKE.sum(), window_STKE[:, 0].sum()) == (24, 24)
    assert full_window(window_STKE, 3) is window_STKE
