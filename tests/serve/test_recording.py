"""A recording of the control loop is MCAP that Foxglove's schemas describe, also after a crash."""

from __future__ import annotations

import base64
import builtins
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous
from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.errors import SaveError
from rt1.serve.recording import LoopRecording

pytest.importorskip("mcap", reason="mcap is not installed. Run: pip install 'rt1[mcap]'")

from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, make_reader

SPEC = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 2, high=(1.0,) * 2),), bins=16)
RED = np.full((24, 32, 3), (220, 30, 40), np.uint8)


def _messages(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    with path.open("rb") as file:
        return [
            (channel.topic, schema.name, json.loads(message.data))
            for schema, channel, message in make_reader(file).iter_messages()
            if schema is not None
        ]


def test_images_actions_latencies_and_changes_of_the_instruction_read_back(tmp_path: Path) -> None:
    path = tmp_path / "loop.mcap"
    with LoopRecording(path, SPEC, "open the drawer") as recording:
        recording.add(RED, np.array([0.5, -1.0], np.float32), milliseconds=12.5)
        recording.add(encode_jpeg(RED), np.zeros(2, np.float32), milliseconds=8.0)
        recording.instruction = "close it"
        recording.add(RED, np.zeros(2, np.float32), milliseconds=8.0)
    messages = _messages(path)
    assert [topic for topic, _, _ in messages] == [
        *("/instruction", "/image", "/action", "/latency"),
        *("/image", "/action", "/latency"),
        *("/instruction", "/image", "/action", "/latency"),
    ]
    schemas = {topic: schema for topic, schema, _ in messages}
    assert (schemas["/image"], schemas["/instruction"]) == ("foxglove.CompressedImage", "foxglove.Log")
    first = {topic: data for topic, _, data in messages[:4]}
    assert first["/instruction"]["message"] == "open the drawer"
    assert first["/action"]["values"] == {"move_0": 0.5, "move_1": -1.0}
    assert first["/latency"]["milliseconds"] == 12.5
    assert first["/image"]["format"] == "jpeg"
    image = decode_image(base64.b64decode(first["/image"]["data"]))
    np.testing.assert_allclose(image.mean(axis=(0, 1)), RED[0, 0], atol=4)
    assert set(first["/image"]["timestamp"]) == {"sec", "nsec"}


CRASH = """
import os, sys
import numpy as np
from rt1.actions import ActionSpec, Continuous
from rt1.serve.recording import LoopRecording

spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 2, high=(1.0,) * 2),), bins=16)
recording = LoopRecording(sys.argv[1], spec)
noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
for _ in range(40):
    recording.add(noise, np.zeros(2, np.float32), milliseconds=1.0)
os._exit(9)
"""


def test_after_a_crash_all_but_the_last_steps_read_back(tmp_path: Path) -> None:
    path = tmp_path / "loop.mcap"
    crashed = subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False, env=dict(os.environ))
    assert crashed.returncode == 9
    images = 0
    with path.open("rb") as file, suppress(EndOfFile):
        for _, channel, _ in NonSeekingReader(file).iter_messages(log_time_order=False):
            images += channel.topic == "/image"
    assert 30 <= images <= 40


def test_a_target_that_exists_another_ending_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.mcap").write_text("mine")
    with pytest.raises(SaveError, match=r"mine\.mcap exists.*another name"):
        LoopRecording(tmp_path / "mine.mcap", SPEC)
    assert (tmp_path / "mine.mcap").read_text() == "mine"
    with pytest.raises(ValueError, match=r"loop\.bag.*\.mcap"):
        LoopRecording(tmp_path / "loop.bag", SPEC)
    with pytest.raises(SaveError, match=r"no[/\\]loop\.mcap.*folder"):
        LoopRecording(tmp_path / "no" / "loop.mcap", SPEC)


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    with LoopRecording(None, SPEC) as recording:
        recording.add(RED, np.zeros(2, np.float32), milliseconds=1.0)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_is_not_a_jpeg_is_refused(tmp_path: Path) -> None:
    with (
        LoopRecording(tmp_path / "loop.mcap", SPEC) as recording,
        pytest.raises(ValueError, match=r"not a JPEG"),
    ):
        recording.add(b"\x89PNG", np.zeros(2, np.float32), milliseconds=1.0)


def test_a_missing_package_is_one_line_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def without_mcap(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("mcap"):
            raise ModuleNotFoundError("No module named 'mcap'", name="mcap")
        return find(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_mcap)
    with pytest.raises(ModuleNotFoundError, match=r"needs mcap.*rt1\[mcap\]"):
        LoopRecording(tmp_path / "loop.mcap", SPEC)
