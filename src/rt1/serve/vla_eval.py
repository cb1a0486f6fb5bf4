"""The protocol of vla-eval, AllenAI's evaluation harness: a benchmark asks, the policy answers, errors are messages."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import numpy as np

from rt1 import __version__
from rt1.actions import ActionPart, ActionSpec, Continuous, FloatArray
from rt1.common.suggest import unknown_name
from rt1.errors import ObservationError, ProtocolError
from rt1.serve import protocol
from rt1.serve.openpi import missing_image, value_at

PROTOCOL_VERSION = 1
_COMPONENTS = {
    "world_vector": ("position", "delta_xyz"),
    "rotation_delta": ("rotation", "euler_xyz"),
    "gripper_closedness_action": ("gripper", "binary_close_positive"),
}
"""Parts of RT-1's own actions in the order of vla-eval's action -> name and format in its specs."""
_TYPES = ("hello", "observation", "episode_start", "episode_end", "error")


class VlaEval:
    """The messages of one connection. The harness starts its episodes and gives each observation its instruction."""

    ping_seconds = None
    """No pings: a simulator that loads its scene does not answer for a while."""
    closes_after_error = False
    greeting = None

    def __init__(self, spec: ActionSpec, image_key: str | None) -> None:
        """Take the policy's actions. ``image_key`` chooses the camera, such as ``images/agentview``."""
        self._spec, self._image_key = spec, image_key
        parts = {part.name: part for part in spec.parts}
        self._is_rt1 = parts.keys() >= _COMPONENTS.keys()
        names = _COMPONENTS if self._is_rt1 else {name: (name, "raw") for name in parts}
        self._action_spec = {name: _dimensions(parts[part], name, kind) for part, (name, kind) in names.items()}
        self._type, self._seq = "error", 0
        self._starts_episode = True

    def read(self, message: bytes) -> dict[str, Any] | None:
        """Return the observation for :meth:`rt1.serve.session.Session.read`. None where no action is asked for."""
        self._type, self._seq = "error", 0
        fields = protocol.decode(message)
        payload, seq = (fields.get("payload"), fields.get("seq")) if isinstance(fields, dict) else (None, None)
        if not isinstance(payload, dict) or type(seq) is not int:
            raise ProtocolError("the message is not of vla-eval, must be a map of type, payload, seq and timestamp")
        self._seq = seq
        kind = str(fields.get("type"))
        if kind not in _TYPES:
            raise ProtocolError(unknown_name("message type", kind, _TYPES))
        version = payload.get("protocol_version", PROTOCOL_VERSION)
        if kind == "hello" and version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the protocol_version is {protocol.shown(version)}, must be {PROTOCOL_VERSION}. Update one side"
            )
        self._type = kind
        self._starts_episode |= kind == "episode_start"
        return self._observation(payload) if kind == "observation" else None

    def reply(self, action: FloatArray | None, *, timing: dict[str, float], is_new_episode: bool) -> bytes | None:
        """Return the reply to the last message. None where the protocol has none."""
        if self._type == "hello":
            return self._message("hello", self._hello())
        if action is None:
            return None
        self._starts_episode = False
        if self._is_rt1:
            parts = self._spec.to_dict(action)
            action = np.concatenate([parts[name] for name in _COMPONENTS]).astype(np.float32)
        array = {"__ndarray__": True, "data": action.tobytes(), "dtype": action.dtype.str, "shape": action.shape}
        return self._message("action", {"actions": array, "new_episode": is_new_episode, "server_timing": timing})

    def error(self, reason: str) -> bytes:
        return self._message("error", {"error": reason})

    def _message(self, kind: str, payload: dict[str, Any]) -> bytes:
        message = {"type": kind, "payload": payload, "seq": self._seq, "timestamp": time.time()}
        return bytes(msgpack.packb(message))

    def _hello(self) -> dict[str, Any]:
        cameras = () if self._image_key is None else (self._image_key.rpartition("/")[2],)
        observations = {name: _spec(name, 0, "rgb_hwc_uint8") for name in cameras}
        return {
            "harness_version": f"rt1 {__version__}",
            "protocol_version": PROTOCOL_VERSION,
            "model_server": "rt1",
            "capabilities": {},
            "action_spec": self._action_spec,
            "observation_spec": {**observations, "language": _spec("language", 0, "language")},
        }

    def _observation(self, payload: dict[str, Any]) -> dict[str, Any]:
        instruction = payload.get("task_description")
        if not isinstance(instruction, str):
            raise ObservationError("the observation has no task_description. Send the instruction there")
        reset = self._starts_episode or payload.get("episode_restart") is True  # CALVIN's next subtask
        return {"image": _image(self._camera(payload)), "instruction": instruction, "reset": reset}

    def _camera(self, payload: dict[str, Any]) -> Any:  # noqa: ANN401 (it comes from outside)
        images, key = payload.get("images"), self._image_key
        if key is None and isinstance(images, dict) and len(images) > 1:
            names = ", ".join(map(repr, sorted(images)))[:200]
            raise ObservationError(f"the observation has the images {names}. Choose one: --image-key images/NAME")
        if key is None:
            image = next(iter(images.values()), None) if isinstance(images, dict) else None
        else:
            image = value_at(payload, key)
        if image is None:
            raise missing_image(payload, key or "images")
        return image


def _image(value: Any) -> Any:  # noqa: ANN401
    """Return an image as a session reads it: JPEG or PNG bytes, or an array."""
    if not isinstance(value, dict):
        return value
    if value.get("__image__") is True and value.get("format") in ("jpeg", "png"):
        return value.get("data")
    return protocol.array(value.get("data"), value.get("dtype"), value.get("shape"))


def _dimensions(part: ActionPart, name: str, kind: str) -> dict[str, Any]:
    low, high = (part.low, part.high) if isinstance(part, Continuous) else ((0.0,), (part.choices - 1.0,))
    return {**_spec(name, part.size, kind), "range": [min(low), max(high)]}


def _spec(name: str, dims: int, kind: str) -> dict[str, Any]:
    return {"name": name, "dims": dims, "format": kind}
