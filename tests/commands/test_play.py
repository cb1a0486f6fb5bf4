"""``rt1 play`` as a process: Meta-World on the page, Ctrl-C, and one line for what cannot be played."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from rt1.cli import main


@pytest.mark.slow
def test_meta_world_plays_until_ctrl_c(
    gl: str, make_checkpoint: Callable[..., Path], table_file: Path, tmp_path: Path
) -> None:
    assert gl
    words = ["play", make_checkpoint(tmp_path / "run"), "--port", "0", "--text-encoder", table_file]
    words += ["--mcap", tmp_path / "run.mcap"]
    command = [sys.executable, "-m", "rt1", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://(127\.0\.0\.1:\d+)", line)
            assert found is not None, line
            with connect(f"ws://{found[1]}/live", origin=Origin(found[0]), proxy=None) as tab:
                assert json.loads(tab.recv(timeout=20))["tasks"][0]["name"] == "faucet-open-v3"
                tab.send('{"command": "task", "value": "faucet-close-v3"}')
                tab.send('{"command": "start"}')
                state: dict[str, Any] = {"step": 0}
                while state["step"] < 2:
                    view = tab.recv(timeout=60)
                    assert isinstance(view, bytes)
                    state = json.loads(view[4 : 4 + int.from_bytes(view[:4], "big")])
                assert state["task"] == "faucet-close-v3"
                assert 0 < state["image_bytes"] < state["picture_bytes"]
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=30) == 0
            assert process.stdout.read() == ""
            assert (tmp_path / "run.mcap").read_bytes().count(b"foxglove.CompressedImage") >= 1
        finally:
            process.kill()


def test_what_cannot_be_played_is_one_line(
    make_checkpoint: Callable[..., Path], table_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        assert main(["play", *map(str, words)]) in (1, 2)
        return capsys.readouterr().err

    folder = make_checkpoint(tmp_path / "run")
    text = ("--text-encoder", table_file)
    assert "holds no checkpoint.json" in refused(tmp_path)
    assert "unknown environment 'metawold', did you mean 'metaworld'" in refused(folder, "--env", "metawold", *text)
    assert "did you mean 'faucet-open'" in refused(folder, "--tasks", "faucet-opne", *text)
    assert "port is 99999" in refused(folder, "--port", "99999", *text)
    assert "--seed is -1" in refused(folder, "--seed", "-1", *text)


def test_a_checkpoint_that_names_no_tasks_needs_them(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make_checkpoint(tmp_path / "run") / "checkpoint.json"
    info = json.loads(file.read_text())
    del info["provenance"]["tasks"]
    file.write_text(json.dumps(info))
    assert main(["play", str(tmp_path / "run")]) == 1
    assert "names no tasks. Give --tasks" in capsys.readouterr().err


def test_pictures_of_another_aspect_ratio_than_the_trained_ones_are_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make_checkpoint(tmp_path / "run") / "checkpoint.json"
    info = json.loads(file.read_text())
    info["provenance"]["image_size"] = [24, 32]
    file.write_text(json.dumps(info))
    assert main(["play", str(tmp_path / "run")]) == 1
    assert "16 x 16, the policy was trained on 24 x 32" in capsys.readouterr().err
