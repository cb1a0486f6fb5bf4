"""An exported folder in the place of a run: served, evaluated, played."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fixtures.exports import SPEC

from rt1.cli import main
from rt1.envs.base import Observation, SingleTask, StepResult
from rt1.errors import ExportError
from rt1.policy.open import describe, open_engine, policy_folder
from rt1.policy.policy import Policy
from rt1.serve.client import Client
from rt1.text.encoder import TableEncoder

ENV = f"{__name__}:Slide"


class Slide(SingleTask):
    """A dot that moves as the action says, for four steps. Nothing is a success."""

    name, instruction, image_size, control_rate = "slide", "open the drawer", (48, 48), 3.0
    action_spec, max_steps = SPEC, 4

    def start(self, seed: int) -> Observation:
        self.dot = seed % 40
        return self.observe()

    def apply(self, action: NDArray[np.float32]) -> StepResult:
        self.dot = int(np.clip(self.dot + 5 * action[0], 0, 40))
        return StepResult(observation=self.observe(), success=False, done=False)

    def observe(self) -> Observation:
        image = np.zeros((48, 48, 3), dtype=np.uint8)
        image[:, self.dot : self.dot + 8] = 255
        return Observation(image=image)


def test_an_export_is_served_as_the_network_acts(
    onnx_export: tuple[Path, Path], sentences: TableEncoder, images: list[NDArray[np.uint8]]
) -> None:
    policy = Policy.from_checkpoint(onnx_export[0], text_encoder=sentences)
    policy.reset("open the drawer")
    command = [sys.executable, "-m", "rt1", "serve", str(onnx_export[1]), "--port", "0", "--max-batch", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            match = re.search(r"(ws://[\d.:]+), .* a step with onnx", line)
            assert match is not None, line
            with Client(match[1]) as client:
                client.reset("open the drawer")
                for image in images[:3]:
                    np.testing.assert_array_equal(client.act_vector(image), policy.act_vector(image))
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def test_an_export_is_evaluated(
    onnx_export: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--env", ENV, "--trials", "2", "--out", str(tmp_path / "report")]
    assert main(["evaluate", str(onnx_export[1]), *words]) == 0
    assert "slide: 0 of 2" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").is_file()


def test_an_export_is_played(onnx_export: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    playgrounds: list[Any] = []
    monkeypatch.setattr("rt1.play.server.PlayServer", lambda playground, **_: playgrounds.append(playground))
    monkeypatch.setattr("rt1.play.server.serve", lambda *_: None)
    assert main(["play", str(onnx_export[1]), "--env", ENV, "--port", "0"]) == 0
    (playground,) = playgrounds
    playground.choose_task("slide")
    playground.run()
    playground.step()
    assert (playground.view.step, playground.view.instruction) == (1, "open the drawer")
    assert playground.view.decision is not None


@pytest.mark.parametrize("command", ["serve", "evaluate", "play"])
def test_another_engine_than_the_export_s_is_one_line(
    command: str, onnx_export: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    env = [] if command == "serve" else ["--env", ENV]
    assert main([command, str(onnx_export[1]), "--engine", "openvino", *env]) == 1
    error = capsys.readouterr().err
    assert "is an export for onnx, not for openvino" in error
    assert error.count("\n") == 1


def test_an_export_describes_itself(onnx_export: tuple[Path, Path]) -> None:
    checkpoint, folder = onnx_export
    assert policy_folder(folder) == folder
    assert describe(folder).action_spec == describe(checkpoint).action_spec
    with pytest.raises(ExportError, match="Leave out the name 'left'"):
        describe(folder, embodiment="left")


def test_an_unknown_engine_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'onnx'"):
        open_engine(tmp_path, "onx")
