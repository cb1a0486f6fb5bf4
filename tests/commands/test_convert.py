"""``rt1 convert``: from a file that others wrote to a policy that acts, in one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rt1 import Policy, load_model
from rt1.checkpoint import EXTRA_FILES, load_info
from rt1.cli import main
from rt1.common.folders import writing_alone
from rt1.data.rlds.reader import RLDSSource
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.policy.open import weights_hash
from rt1.text.encoder import USE_LARGE_5

TF_SMALL = {
    "model": {
        "window": 3,
        "action_tokens": 8,
        "transformer": {"layers": 2, "width": 64, "heads": 4, "head_width": 32},
    },
    "action": {
        "bins": 256,
        "parts": [
            {"name": "world_vector", "low": [-1] * 3, "high": [1] * 3},
            {"name": "terminate_episode", "choices": 2},
            {"name": "gripper_closedness_action", "low": [-1], "high": [1]},
            {"name": "rotation_delta", "low": [-1.5707964] * 3, "high": [1.5707964] * 3},
        ],
    },
}


@pytest.fixture(scope="module")
def reference_files(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    script = reference / "make_checkpoints.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    (folder / "tf_small.json").write_text(json.dumps(TF_SMALL))
    return folder


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, NDArray[np.generic]]:
    return dict(np.load(reference / "tf_small" / "golden.npz"))


def _convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def test_a_tensorflow_checkpoint_becomes_a_policy_with_the_recorded_numbers(
    reference_files: Path, golden: dict[str, NDArray[np.float32]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix, config = reference_files / "tf_small" / "ckpt-1", reference_files / "tf_small.json"
    assert _convert("tensorflow", prefix, "--out", tmp_path / "out", "--config", config) == 0
    said = capsys.readouterr().out
    assert "15,872,032 parameters" in said
    assert "skipped 2: unused: the network sets action tokens to zero" in said
    assert load_info(tmp_path / "out").text_encoder == USE_LARGE_5
    with torch.inference_mode():
        logits = load_model(tmp_path / "out").predict(
            torch.from_numpy(golden["image"]), torch.from_numpy(golden["lang"])
        )
    np.testing.assert_allclose(logits.numpy(), golden["inf/logits_action"], atol=3e-3)
    policy = Policy.from_checkpoint(tmp_path / "out")
    policy.reset(golden["stream/lang"][0])
    for step in range(4):  # one more than the window
        action, logits_AV = policy.act_with_logits(golden["stream/image"][step])
        np.testing.assert_allclose(logits_AV, golden["stream/logits"][step], atol=1e-3)
        np.testing.assert_allclose(action["world_vector"], golden["stream/decoded/world_vector"][step], atol=1e-6)


def test_a_failed_conversion_is_one_line_and_leaves_nothing(
    reference_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("tensorflow", reference_files / "tf_small" / "ckpt-1"),  # sizes that were not released, no --config
        ("tensorflow", reference_files / "tf_small" / "ckpt-2"),
        ("flax", reference_files / "tf_small.json"),
        ("imagenet", reference_files / "tf_small.json"),
    ):
        assert _convert(*words, "--out", tmp_path / "out") == 1
        error = capsys.readouterr().err
        assert error.startswith("rt1: ")
        assert error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_of_conversion_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert _convert("tensorflwo", "x") == 2
    assert "did you mean 'convert tensorflow'?" in capsys.readouterr().err


def test_a_data_set_goes_to_lerobot_and_back_with_its_bytes(
    make_source: Callable[..., EpisodeSource],
    write_recording: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow, which writes LeRobot's parquet files, is not installed")
    first = write_recording(tmp_path / "first", make_source(3, 5, 2))
    words = ("rlds", first, "--to", "lerobot", "--out", tmp_path / "between", "--fps", "20")
    assert _convert(*words) == 0
    assert _convert("lerobot", tmp_path / "between", "--to", "rlds", "--out", tmp_path / "last") == 0
    assert "of lerobot" in capsys.readouterr().out
    one, other = RLDSSource(first), RLDSSource(tmp_path / "last")
    assert one.lengths.tolist() == other.lengths.tolist()
    for episode, length in enumerate(one.lengths.tolist()):
        assert one.encoded_images(episode, 0, length) == other.encoded_images(episode, 0, length)
        np.testing.assert_array_equal(one.actions(episode, 0, length), other.actions(episode, 0, length))
        assert one.instruction(episode) == other.instruction(episode)


@pytest.mark.parametrize(("kind", "options"), [("imagenet", ()), ("rlds", ("--to", "lerobot"))])
def test_a_link_that_leads_to_itself_is_one_line(
    kind: str, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert main(["convert", kind, str(tmp_path / "data"), *options, "--out", str(tmp_path / "loop")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_are_not_converted_onto_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "b3.h5"
    file.write_bytes(b"weights")
    (tmp_path / "link").symlink_to(file)
    assert main(["convert", "imagenet", str(file), "--out", str(tmp_path / "link")]) == 1
    assert "link is the file to convert, which must not be replaced" in capsys.readouterr().err
    assert file.read_bytes() == b"weights"


def test_two_conversions_to_one_place_are_one_line_for_the_second(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = make_checkpoint(tmp_path / "checkpoint"), tmp_path / "out"
    commands: list[tuple[object, ...]] = [("checkpoint", checkpoint, "--to", kind) for kind in ("lerobot", "rt1")]
    commands += [(kind, tmp_path / "weights") for kind in ("tensorflow", "flax", "imagenet")]
    with writing_alone(out):
        for words in commands:
            assert _convert(*words, "--out", out) == 1
            error = capsys.readouterr().err
            assert f"{out} is in use by process {os.getpid()}" in error
            assert error.count("\n") == 1
    assert _convert(*commands[0], "--out", out) == 0


def test_a_package_keeps_its_instructions_and_results_through_lerobot(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    for name in EXTRA_FILES:
        (checkpoint / name).write_text(name)
    assert _convert("checkpoint", checkpoint, "--to", "lerobot", "--out", tmp_path / "lerobot") == 0
    assert _convert("checkpoint", tmp_path / "lerobot", "--to", "rt1", "--out", tmp_path / "back") == 0
    assert [(tmp_path / "back" / name).read_text() for name in EXTRA_FILES] == list(EXTRA_FILES)
    assert weights_hash(tmp_path / "back") == weights_hash(checkpoint)


@pytest.mark.parametrize("swapped", [False, True])
def test_hdf5_files_of_a_known_layout_convert(tmp_path: Path, swapped: bool) -> None:  # noqa: FBT001
    h5py = pytest.importorskip("h5py", reason="the extra 'hdf5' is not installed")
    red = np.full((16, 16, 3), (200, 30, 10), np.uint8)
    jpeg = encode_jpeg(np.ascontiguousarray(red[..., ::-1]) if swapped else red)
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/images/cam_high"] = np.array([jpeg] * 3)
        file["action"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    words = ["convert", "hdf5", str(tmp_path / "episode_0.hdf5"), "--to", "rlds", "--out", str(tmp_path / "out")]
    words += ["--layout", "aloha", "--instruction", "lift it", "--bounds", "-1", "7", *["--bgr"] * swapped]
    assert main(words) == 0
    source = RLDSSource(tmp_path / "out")
    assert (source.instruction(0), source.lengths.tolist()) == ("lift it", [3])
    assert source.action_spec.high.tolist() == [7, 7]
    stored = source.encoded_images(0, 0, 1)[0]
    assert np.abs(decode_image(stored).astype(int) - red).max() < 8
    assert (stored == jpeg) != swapped


def test_a_checkpoint_goes_to_lerobot_and_comes_back(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    assert _convert("checkpoint", checkpoint, "--to", "lerobot", "--out", tmp_path / "lerobot") == 0
    assert "window 2, text encoder table, action hand_x, hand_y, hand_z, gripper" in capsys.readouterr().out
    assert _convert("checkpoint", tmp_path / "lerobot", "--to", "rt1", "--out", tmp_path / "back") == 0
    assert load_info(tmp_path / "back") == load_info(checkpoint)
    assert _convert("checkpoint", checkpoint, "--to", "rt1", "--out", tmp_path / "other") == 1
    assert "config.json" in capsys.readouterr().err
