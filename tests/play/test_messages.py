"""Messages between page and server: what a view becomes, and which commands are taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rt1.data.sources.images import decode_image
from rt1.play.messages import Command, describe, encode_view, parse_command
from rt1.play.playground import Playground

ReadView = Callable[[bytes], dict[str, Any]]


def test_a_view_is_json_and_three_images(playground: Playground, read_view: ReadView) -> None:
    playground.choose_task("near")
    playground.step()
    view = playground.view
    view.picture = np.full((48, 64, 3), 90, np.uint8)
    message = encode_view(view)
    start, state = 4 + int.from_bytes(message[:4], "big"), read_view(message)
    assert (state["phase"], state["step"], state["instruction"]) == ("stopped", 1, "open the drawer")
    assert state["latency"]["p50"] == state["latency"]["p95"] == state["latency"]["last"]
    assert np.shape(state["decision"]["probabilities"]) == (3, 16)
    np.testing.assert_allclose(np.sum(state["decision"]["attention"], axis=(1, 2)), 1, atol=0.05)
    assert view.decision is not None
    np.testing.assert_allclose(state["decision"]["action"], view.decision.action, atol=1e-6)
    end = start + state["image_bytes"]
    last = end + state["picture_bytes"]
    parts = (message[start:end], message[end:last], message[last:])
    for jpeg, image in zip(parts, (view.image, view.picture, view.decision.image), strict=True):
        assert image is not None
        assert np.abs(decode_image(jpeg).astype(int) - image).mean() < 10


def test_a_view_without_an_environment_has_no_images(playground: Playground, read_view: ReadView) -> None:
    message = encode_view(playground.view)
    start, state = 4 + int.from_bytes(message[:4], "big"), read_view(message)
    assert (state["phase"], state["decision"], state["latency"], state["image_bytes"]) == ("opening", None, None, 0)
    assert message[start:] == b""


def test_the_facts_name_tasks_sentences_and_dimensions(playground: Playground) -> None:
    facts = json.loads(describe(playground, "runs/mine"))
    assert facts["tasks"][0] == {"name": "near", "sentences": ["open the drawer", "close the drawer"]}
    assert facts["dimensions"][2] == {"name": "move_2", "low": -1.0, "high": 1.0, "choices": 0}
    assert (facts["title"], facts["bins"], facts["window"]) == ("runs/mine", 16, 3)


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ('{"command": "start"}', Command(name="start")),
        ('{"command": "stop", "value": null}', Command(name="stop")),
        ('{"command": "reset", "value": 3}', Command(name="reset", value=3)),
        ('{"command": "speed", "value": 2}', Command(name="speed", value=2.0)),
        ('{"command": "instruct", "value": "öffne"}', Command(name="instruct", value="öffne")),
    ],
)
def test_a_command_is_read(message: str, command: Command) -> None:
    assert parse_command(message) == command
    assert type(parse_command(message).value) is type(command.value)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", "not JSON"),
        (b"\xff\x00", "not JSON"),
        ("[" * 5000, "nested"),
        ("[]", "object"),
        ('{"command": "start", "more": 1}', "object"),
        ('{"value": 1}', "unknown command 'None'"),
        ('{"command": "startt"}', "did you mean 'start'"),
        ('{"command": "start", "value": 1}', "must be null"),
        ('{"command": "reset", "value": true}', "must be int"),
        ('{"command": "reset", "value": "1"}', "must be int"),
        ('{"command": "instruct", "value": 7}', "must be str"),
        ('{"command": "speed", "value": null}', "must be float"),
    ],
)
def test_anything_else_is_refused_with_its_reason(message: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_command(message)
