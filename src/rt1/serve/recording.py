"""A recording of a robot's control loop: images, actions and latencies as MCAP, which Foxglove shows. No torch."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt1.actions import ActionSpec, FloatArray
from rt1.errors import SaveError

SUFFIX = ".mcap"
_JPEG = b"\xff\xd8\xff"
_CHUNK = 1 << 16
"""Bytes of a chunk. A crash loses the chunk that is not full yet: a few steps."""
_INFO_LEVEL = 2
_TIME = {
    "type": "object",
    "title": "time",
    "properties": {"sec": {"type": "integer", "minimum": 0}, "nsec": {"type": "integer", "minimum": 0}},
}
_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_TOPICS: dict[str, tuple[str, dict[str, Any]]] = {
    "/image": (
        "foxglove.CompressedImage",
        {"frame_id": _TEXT, "data": {"type": "string", "contentEncoding": "base64"}, "format": _TEXT},
    ),
    "/instruction": (
        "foxglove.Log",
        {"level": {"type": "integer"}, "message": _TEXT, "name": _TEXT, "file": _TEXT, "line": {"type": "integer"}},
    ),
    "/action": ("RobotAction", {"values": {"type": "object", "additionalProperties": _NUMBER}}),
    "/latency": ("RobotLatency", {"milliseconds": _NUMBER}),
}
"""Topic -> the name of its JSON schema, Foxglove's own where it has one, and the fields besides the time."""


class LoopRecording:
    """Writes the steps of a control loop into a new MCAP file.

    After a crash the file lacks its index and the last steps. ``mcap recover FILE`` gives it an index again.
    """

    def __init__(self, path: Path | str | None, spec: ActionSpec, instruction: str = "") -> None:
        """Open the file.

        Args:
            path: new file, ``*.mcap``. None writes nothing, so that a loop need not ask.
            spec: dimensions of the actions.
            instruction: of the episode.

        Raises:
            ValueError: another ending than ``.mcap``.
            SaveError: the file exists, or it cannot be written.
            ModuleNotFoundError: the package mcap, or OpenCV, is not installed.
        """
        self.instruction = instruction
        """Instruction of the next step. It is written when it changes."""
        self._written, self._names = "", spec.dimension_names
        self._writer: Any = None
        if path is not None:
            self._open(Path(path))

    def _open(self, path: Path) -> None:
        if path.suffix != SUFFIX:
            raise ValueError(f"mcap is {path}, must end in {SUFFIX}. Use {path.with_suffix(SUFFIX)}")
        try:
            import cv2
            from mcap.writer import Writer
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"a recording needs {error.name}, which is not installed. Run: pip install 'rt1[mcap]'"
            ) from error
        try:
            self._file = path.open("xb")
        except FileExistsError as error:
            raise SaveError(f"{path} exists, must be a new file. Remove it, or give another name") from error
        except OSError as error:
            raise SaveError(f"{path} cannot be written ({error.strerror}). Give another folder") from error
        self._encode = cv2.imencode
        self._writer = Writer(self._file, chunk_size=_CHUNK)
        self._writer.start(profile="", library="rt1")
        self._channels = {topic: self._channel(topic, *schema) for topic, schema in _TOPICS.items()}

    def add(self, image: NDArray[np.uint8] | bytes, action: FloatArray, *, milliseconds: float) -> None:
        """Write one step.

        Args:
            image: the policy's input, RGB uint8 (H, W, 3), or a JPEG.
            action: what was sent to the robot, float32 (A,), physical units.
            milliseconds: latency, from image to action.
        """
        if self._writer is None:
            return
        now = time.time_ns()
        if self.instruction != self._written:
            self._written = self.instruction
            text = {"level": _INFO_LEVEL, "message": self.instruction, "name": "instruction", "file": "", "line": 0}
            self._write("/instruction", text, now)
        data = base64.b64encode(self._jpeg(image)).decode()
        self._write("/image", {"frame_id": "camera", "data": data, "format": "jpeg"}, now)
        self._write("/action", {"values": dict(zip(self._names, map(float, action), strict=True))}, now)
        self._write("/latency", {"milliseconds": milliseconds}, now)
        self._file.flush()

    def close(self) -> None:
        """Write the index and close the file."""
        if self._writer is not None:
            self._writer.finish()
            self._file.close()
            self._writer = None

    def __enter__(self) -> LoopRecording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _channel(self, topic: str, name: str, fields: dict[str, Any]) -> int:
        schema = {"title": name, "type": "object", "properties": {"timestamp": _TIME, **fields}}
        number = self._writer.register_schema(name=name, encoding="jsonschema", data=json.dumps(schema).encode())
        return int(self._writer.register_channel(topic=topic, message_encoding="json", schema_id=number))

    def _write(self, topic: str, fields: dict[str, Any], now: int) -> None:
        seconds, nanoseconds = divmod(now, 1_000_000_000)
        data = json.dumps({"timestamp": {"sec": seconds, "nsec": nanoseconds}, **fields}).encode()
        self._writer.add_message(channel_id=self._channels[topic], log_time=now, publish_time=now, data=data)

    def _jpeg(self, image: NDArray[np.uint8] | bytes) -> bytes:
        if isinstance(image, bytes):
            if not image.startswith(_JPEG):
                raise ValueError("the image is not a JPEG, must be one or an array. Decode it first")
            return image
        _, data = self._encode(".jpg", np.ascontiguousarray(image[..., ::-1]))  # OpenCV takes BGR
        return bytes(data)
