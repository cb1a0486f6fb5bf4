"""Damaged and hostile observations through the wire format and a session: they are read or refused in one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import msgpack
import numpy as np
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutate import mutate, mutate_json

from rt1.actions import rt1_action_spec
from rt1.data.sources.images import encode_jpeg
from rt1.errors import ObservationError, ProtocolError
from rt1.policy.base import Instruction
from rt1.policy.stepper import PreparedImage
from rt1.serve.protocol import decode, encode
from rt1.serve.session import Session
from rt1.serve.vla_eval import VlaEval

SENTENCE = "open the drawer"
IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", IMAGE)[1].tobytes()
PROGRESSIVE = cv2.imencode(".jpg", IMAGE, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
MESSAGES = [
    encode({"image": IMAGE, "instruction": SENTENCE}),
    encode({"observation/image": np.stack([IMAGE] * 3), "prompt": SENTENCE, "reset": np.True_}),
    encode({"image": encode_jpeg(IMAGE), "reset": True, "state": np.zeros(7, np.float32), "step": np.int64(3)}),
    encode({"image": PNG, "instruction": np.ones(8, np.float16), "reset": False}),
    msgpack.packb({"image": {b"__npgeneric__": True, b"data": 1e300, b"dtype": "<f8"}, "step": 2**40}),
    encode({"image": PROGRESSIVE, "other": [[1, 2.5, None], {"a": ["b", b"c"]}]}),
]
PLAIN: dict[str, Any] = {
    "image": "a",
    "instruction": SENTENCE,
    "reset": True,
    "other": {"a": [1, 2.5, None, {"b": [True, "c"]}], "b": list(range(40))},
}


HARNESS = [
    msgpack.packb({"type": kind, "payload": payload, "seq": 3, "timestamp": 1.5})
    for kind, payload in (
        ("hello", {"harness_version": "0.8.0", "protocol_version": 1}),
        ("episode_start", {"task": {"name": "a", "index": 2}}),
        ("observation", {"images": {"a": {"__image__": True, "format": "png", "data": PNG}}, "task_description": "a"}),
        (
            "observation",
            {
                "images": {"a": {"__ndarray__": True, "data": IMAGE.tobytes(), "dtype": "|u1", "shape": [12, 20, 3]}},
                "task_description": SENTENCE,
                "episode_restart": True,
            },
        ),
    )
]


def _message(rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        try:
            return bytes(msgpack.packb(mutate_json(PLAIN, rng)))
        except (OverflowError, ValueError):  # a number or a letter that msgpack does not hold
            return b""
    return mutate(rng.choice(MESSAGES), rng)


def _start(instruction: Instruction) -> Any:
    assert isinstance(instruction, str) or instruction.dtype == np.float32
    return SimpleNamespace(images=0)


def _check_read(session: Session, message: bytes, read: Callable[[bytes], Any] = decode) -> None:
    images: tuple[Any, ...] = ()
    refusal = ""
    try:
        observation = read(message)
        if observation is not None or read is decode:
            session.effort(observation)
            images = session.read(observation).images
    except (ProtocolError, ObservationError) as error:
        refusal = str(error)
    except ValueError as error:
        raise AssertionError("an error of another kind") from error
    assert "\n" not in refusal
    assert len(refusal) < 1000
    for image in images:
        if not isinstance(image, PreparedImage):
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3


def test_a_damaged_observation_is_read_or_refused_in_one_line(fuzz: Fuzz) -> None:
    def check(rng: random.Random) -> None:
        session = Session(_start, lambda image: PreparedImage(image[:8, :8].astype(np.float32)), window=3)
        if rng.random() < 0.5:
            session.read(decode(MESSAGES[0]))
        _check_read(session, _message(rng))

    fuzz.check_examples(check, names="", examples=300)


def test_a_damaged_message_of_vla_eval_is_read_or_refused_in_one_line(fuzz: Fuzz) -> None:
    def check(rng: random.Random) -> None:
        session = Session(_start, lambda image: PreparedImage(image[:8, :8].astype(np.float32)), window=3)
        _check_read(session, mutate(rng.choice(HARNESS), rng), VlaEval(rt1_action_spec(), None).read)

    fuzz.check_examples(check, names="", examples=300)
