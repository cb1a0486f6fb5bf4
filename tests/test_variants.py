"""Every network of the second family through the command line: trained in clips, evaluated, exported, served, acting.

And what such a network cannot be, in one line each.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rt1 import Policy, load_model
from rt1.checkpoint import load_info
from rt1.cli import main
from rt1.commands.serve import ServeCommand
from rt1.text import minilm

SENTENCES = ("open the drawer", "close the drawer")
HAS_MINILM = importlib.util.find_spec(minilm.PACKAGE) is not None
MAXVIT = (
    "--model.backbone maxvit --model.maxvit.stem-channels 8 --model.maxvit.channels 8 16 --model.maxvit.depths 1 1 "
    "--model.maxvit.head-width 8 --model.maxvit.partition"
)
ATTENTION = "--model.conditioning cross_attention --model.transformer.condition cross_attention"
GOLDEN = Path(__file__).parent / "pretrained" / "maxvit_timm.npz"

VARIANTS = {
    "maxvit film": f"{MAXVIT} 3 --model.text.projection 12",
    "maxvit attention": f"{MAXVIT} 3 {ATTENTION} --model.mask step --model.readout mean_token --model.text.drop 0.3 "
    "--text-encoder word-pieces --model.text.table-width 8",
    "efficientnet attention": f"{ATTENTION} --model.transformer.feed-forward gelu --text-encoder minilm:tokens=8",
    "efficientnet words": "--text-encoder word-pieces --model.readout last_token --model.position-weights sigmoid "
    "--model.transformer.condition film --model.text.drop 0.3",
}


@pytest.fixture
def data(make_source: Callable[..., Any], write_recording: Callable[..., Path], tmp_path: Path) -> Path:
    return write_recording(tmp_path / "data", make_source(4, 5, 6))


def _train(data: Path, out: Path, options: str) -> int:
    words = [
        "train",
        "--data",
        str(data),
        "--out",
        str(out),
        "--preset",
        "debug",
        "--updates",
        "2",
        "--windows-per-clip",
        "2",
    ]
    return main([*words, *options.split()])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_in_clips_is_evaluated_and_acts(variant: str, data: Path, tmp_path: Path) -> None:
    if "minilm" in VARIANTS[variant] and not HAS_MINILM:
        pytest.skip("MiniLM is not installed")
    run = tmp_path / "run"
    assert _train(data, run, VARIANTS[variant]) == 0
    assert _train(data, run, VARIANTS[variant]) == 0  # finds itself finished
    # Its status says whether acting step by step and computing whole windows agree.
    assert main(["evaluate-offline", str(run), "--data", str(data), "--out", str(tmp_path / "report")]) == 0
    scales = (1.0, 3.0) if load_model(run).config.text.drop else (1.0,)
    for scale in scales:
        policy = Policy.from_checkpoint(run, cond_scale=scale)
        policy.reset(np.ones(8, np.float32) if variant == "maxvit film" else SENTENCES[0])
        for _ in range(3):
            assert policy.act(np.zeros((20, 30, 3), np.uint8))["move"].shape == (3,)
        assert policy.attention_maps().sum(axis=(1, 2)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.slow
def test_a_network_of_attention_and_word_pieces_is_exported_and_served(data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "export"
    assert _train(data, run, VARIANTS["maxvit attention"]) == 0
    words = ["export", str(run), "--out", str(out), "--to", "torch-export", "--instructions", *SENTENCES]
    assert main(words) == 0
    encoder = ServeCommand(checkpoint=run)._encoder(load_info(run).text_encoder)
    assert encoder is not None
    assert encoder.identity == load_info(run).text_encoder


def test_training_starts_from_imagenet_weights_of_maxvit(data: Path, tmp_path: Path) -> None:
    with np.load(GOLDEN) as golden:
        weights = {n.removeprefix("weights/"): torch.from_numpy(golden[n]) for n in golden.files if "/" in n}
    file, backbone = tmp_path / "timm.safetensors", tmp_path / "backbone.safetensors"
    save_file(weights, file)
    assert main(["convert", "imagenet", str(file), "--out", str(backbone)]) == 0
    options = f"{MAXVIT} 2 --model.maxvit.depths 1 2 --init {backbone} --optimizer.freeze backbone"
    assert _train(data, tmp_path / "run", options) == 0
    trained = load_model(tmp_path / "run").backbone
    assert torch.equal(trained.stem.weight, weights["stem.conv1.weight"])
    assert torch.equal(
        trained.blocks[2].grid_attention.output.bias, weights["stages.1.blocks.1.attn_grid.attn.proj.bias"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.backbone maxvit", "image-size is (48, 48). This MaxViT takes multiples of 224"),
        ("--model.backbone resnet", "unknown backbone 'resnet'. Known: efficientnet, maxvit, timm:NAME"),
        ("--model.image-size 1 1", "shrinks to nothing in the backbone. Use a larger image"),
        ("--model.window 0", "window is 0, must be at least 1"),
        ("--model.text.drop 1", "drop is 1.0, must be at least 0 and below 1"),
        (f"{ATTENTION} --model.conditioning film", "The transformer's layers are conditioned as the backbone is"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_anything_is_read(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(Path("absent"), Path("out"), options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--text-encoder hf:nobody/nothing", "is no folder, is not in the local cache, and the hub did not give it"),
        ("--text-encoder hf:", "'hf:' names no model. Give hf:NAME_OR_FOLDER"),
        ("--text-encoder minilm:tokens=0", "asks for '0' tokens. Give a number of at least 2"),
        ("--text-encoder word-peces", "unknown text encoder 'word-peces', did you mean 'word-pieces'"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    data: Path,
    tmp_path: Path,
    options: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra 'transformers' is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert _train(data, tmp_path / "run", options) == 1
    error = capsys.readouterr().err
    assert error.startswith("rt1: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()


def test_an_instruction_that_cannot_be_encoded_is_refused_and_the_episode_goes_on(data: Path, tmp_path: Path) -> None:
    assert _train(data, tmp_path / "run", VARIANTS["efficientnet words"]) == 0
    policy = Policy.from_checkpoint(tmp_path / "run")
    policy.reset(SENTENCES[0])
    for instruction, message in (
        (" ", "the instruction is ' ', must say something"),
        ("open the drawer and " * 9, "has 54 word pieces. At most 32 fit"),
    ):
        with pytest.raises(ValueError, match=message):
            policy.reset(instruction)
    assert policy.act(np.zeros((20, 30, 3), np.uint8))["move"].shape == (3,)
