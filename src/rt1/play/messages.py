"""Messages between the page and the server: JSON, and JPEG behind the JSON of a view."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rt1.common.json_files import parse
from rt1.common.suggest import lookup
from rt1.data.sources.images import encode_jpeg
from rt1.errors import ProtocolError
from rt1.play.playground import Decision, Playground, View

_COMMANDS: dict[str, tuple[type | None, Callable[..., None]]] = {
    "start": (None, Playground.run),
    "stop": (None, Playground.stop),
    "reset": (int, Playground.reset),
    "instruct": (str, Playground.set_instruction),
    "task": (str, Playground.choose_task),
    "speed": (float, Playground.set_speed),
}
"""Command -> the type of its value, None where it takes none, and what it calls."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command from the page: one of the names of ``_COMMANDS`` and its value."""

    name: str
    value: Any = None

    def apply(self, playground: Playground) -> None:
        arguments = [] if self.value is None else [self.value]
        _COMMANDS[self.name][1](playground, *arguments)


def parse_command(message: str | bytes) -> Command:
    """Read a command, JSON ``{"command": NAME, "value": VALUE}``. Anything else raises ``ValueError``."""
    data = parse(message, name="a command", error=ProtocolError, cure="Send an object of command and value")
    if not isinstance(data, dict) or not data.keys() <= {"command", "value"}:
        raise ValueError("a command must be an object of command and value")
    name, value = str(data.get("command")), data.get("value")
    kind, _ = lookup("command", name, _COMMANDS)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not (type(None) if kind is None else kind):
        rule = "null" if kind is None else kind.__name__
        raise ValueError(f"the value of {name} is {value!r:.40}, must be {rule}")
    return Command(name=name, value=value)


def describe(playground: Playground, title: str) -> str:
    """Return JSON of what does not change while the page is open: tasks with their sentences, action dimensions."""
    spec, sizes = playground.policy.action_spec, playground.policy.sizes
    low, high, choices = spec.low.tolist(), spec.high.tolist(), spec.discrete_choices.tolist()
    facts = {
        "title": title,
        "tasks": [{"name": task, "sentences": playground.suite.sentences(task)} for task in playground.tasks],
        "dimensions": [
            dict(zip(("name", "low", "high", "choices"), dimension, strict=True))
            for dimension in zip(spec.dimension_names, low, high, choices, strict=True)
        ],
        "bins": spec.bins,
        "window": sizes.window,
        "maps": sizes.image_tokens,
    }
    return json.dumps(facts)


def encode_view(view: View) -> bytes:
    """Return a view as one message.

    It is the length of the JSON (4 bytes, big end first), the JSON, the JPEG of the newest image (``image_bytes``
    long), the JPEG of the picture for people (``picture_bytes`` long), and the JPEG of the image that the last decision
    was made from.
    """
    image = b"" if view.image is None else encode_jpeg(view.image)
    picture = b"" if view.picture is None else encode_jpeg(view.picture, quality=90)
    seen = b"" if view.decision is None else encode_jpeg(view.decision.image)
    state = vars(view) | {
        "latency": _latency(view.latencies),
        "decision": None if view.decision is None else _decision(view.decision),
        "image_bytes": len(image),
        "picture_bytes": len(picture),
    }
    del state["image"], state["picture"], state["latencies"]
    text = json.dumps(state).encode()
    return len(text).to_bytes(4, "big") + text + image + picture + seen


def _latency(latencies: tuple[float, ...]) -> dict[str, float] | None:
    if not latencies:
        return None
    last, (p50, p95) = latencies[-1], np.percentile(latencies, [50, 95]).tolist()
    return {"last": round(last, 3), "p50": round(p50, 3), "p95": round(p95, 3)}


def _decision(decision: Decision) -> dict[str, list[Any]]:
    parts = {"action": 6, "probabilities": 4, "attention": 4}
    rounded = {name: np.round(getattr(decision, name).astype(np.float64), digits) for name, digits in parts.items()}
    return {name: values.tolist() for name, values in {**rounded, "bins": decision.bins}.items()}
