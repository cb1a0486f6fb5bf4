"""The command ``rt1 train``: where its settings start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.lerobot import LeRobotSet

from rt1.checkpoint import load_info
from rt1.cli import main, parse
from rt1.commands.train import starting_config
from rt1.presets import preset

WORDS = ["train", "--data", "d", "--out", "o", "--preset", "debug"]


def test_a_checkpoint_to_start_from_gives_the_defaults_of_the_network(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "old")
    network = load_info(checkpoint).model
    config = parse([*WORDS, "--init", str(checkpoint)]).config
    assert config == dataclasses.replace(preset("debug"), init=str(checkpoint), model=network)
    longer = parse([*WORDS, f"--init={checkpoint}", "--model.window", "5"]).config.model
    assert longer == dataclasses.replace(network, window=5)


def test_a_backbone_to_start_from_leaves_the_presets_network(tmp_path: Path) -> None:
    file = tmp_path / "b3.safetensors"
    file.write_bytes(b"")
    assert starting_config("debug", str(file)) == preset("debug")
    assert parse([*WORDS, "--init", str(file)]).config == dataclasses.replace(preset("debug"), init=str(file))


def test_nothing_to_start_from_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--init", str(tmp_path / "absent")]) == 1
    assert "absent is not there. Give a checkpoint folder" in capsys.readouterr().err


def test_dropout_drop_connect_and_the_drop_of_the_text_are_options() -> None:
    words = [
        "--model.transformer.dropout",
        "0.3",
        "--model.efficientnet.drop-connect",
        "0.1",
        "--model.text.drop",
        "0.2",
    ]
    model = parse([*WORDS, *words]).config.model
    assert (model.transformer.dropout, model.efficientnet.drop_connect, model.text.drop) == (0.3, 0.1, 0.2)


def test_the_recipe_can_be_given_in_words() -> None:
    words = "--optimizer.scale backbone=0.1 head=2 --optimizer.freeze text transformer.layers.0 --average.decay 0.99"
    config = parse([*WORDS, *words.split(), "--log.no-tensorboard", "--augment.crop-per", "sample"]).config
    assert config.optimizer.scale == ("backbone=0.1", "head=2")
    assert config.optimizer.freeze == ("text", "transformer.layers.0")
    assert (config.average.decay, config.log.tensorboard, config.augment.crop_per) == (0.99, False, "sample")


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_a_lerobot_v2_set_trains_with_a_text_encoder_and_is_evaluated_offline(
    version: Any, table_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="LeRobot sets need pyarrow: the extra lerobot")
    pytest.importorskip("av", reason="videos need av: the extra lerobot")
    texts = [["open the drawer"] * 5, ["close the drawer"] * 4, ["open the drawer"] * 6]
    written = LeRobotSet(version=version, lengths=(5, 4, 6), extra={"language_instruction": texts})
    data, run = written.write(tmp_path / "set"), tmp_path / "run"
    words = ["--data", str(data), "--instruction-key", "language_instruction"]
    options = ["--preset", "debug", "--updates", "2", "--text-encoder", str(table_file)]
    assert main(["train", *words, "--out", str(run), *options]) == 0
    words += ["--text-encoder", str(table_file)]
    assert main(["evaluate-offline", str(run), *words, "--out", str(tmp_path / "report")]) == 0
    assert "open the drawer" in (tmp_path / "report/offline.html").read_text(encoding="utf-8")
