"""rt1 package and rt1 push, and policies by name in the other commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.hub import TOKEN, LocalHub

from rt1 import Policy
from rt1.checkpoint import load_info, load_model
from rt1.cli import main
from rt1.commands.options import report_folder
from rt1.hub import names
from rt1.hub.client import download
from rt1.policy.open import policy_folder
from rt1.text.encoder import TableEncoder
from rt1.train.warm_start import start_from


@pytest.fixture
def arm(checkpoint: Callable[..., Path], sentences: TableEncoder, tmp_path: Path) -> tuple[Path, str]:
    """A checkpoint and the file of its text encoder."""
    sentences.save(tmp_path / "table.safetensors")
    return checkpoint(), str(tmp_path / "table.safetensors")


def test_a_pushed_policy_loads_by_its_name(
    arm: tuple[Path, str],
    hub: LocalHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    words = ["--private", "--precision", "float16", "--license", "mit", "--instructions", "open the drawer"]
    assert main(["push", str(arm[0]), "user/arm", *words, "--text-encoder", arm[1]]) == 0
    assert 'Policy.from_pretrained("user/arm")' in capsys.readouterr().out
    assert hub.private == {"user/arm"}
    card = hub.files["models/user/arm"]["main"]["README.md"].decode()
    assert [word for word in ('license: "mit"', "# arm", 'from_pretrained("user/arm")') if word not in card] == []
    policy = Policy.from_pretrained("user/arm")
    policy.reset("open the drawer")
    assert policy.act(np.zeros((48, 48, 3), dtype=np.uint8))["move"].shape == (2,)
    assert main(["push", str(arm[0]), "user/arm", "--revision", "full"]) == 0
    download.cache_clear()
    assert load_info("user/arm@full") == load_info(arm[0])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["arm"], "'arm' is no repository, must be USER/NAME"),
        (["user/arm"], "user/arm needs a token"),
        (["user/arm", "--results", "none.json"], "none.json: No such file"),
    ],
)
def test_what_hinders_a_push_is_one_line(
    words: list[str], problem: str, arm: tuple[Path, str], hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(arm[0]), *words]) == 1
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert hub.files == {}


def test_a_malformed_card_is_refused_before_anything_is_uploaded(
    arm: tuple[Path, str], hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (arm[0] / "README.md").write_text("---\nlicense: mit\ntags: robot\n---\n")
    assert main(["push", str(arm[0]), "user/arm"]) == 1
    assert f"{arm[0] / 'README.md'}, line 2: library_name must be rt1" in capsys.readouterr().err
    assert hub.requests == 0


def test_every_command_takes_a_policy_by_name(
    arm: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "shipped" / "tiny-arm"
    assert main(["package", str(arm[0]), "--out", str(out), "--precision", "float16"]) == 0
    assert "MB in float16" in capsys.readouterr().out
    assert 'from_pretrained("tiny-arm")' in (out / "README.md").read_text()
    name = Path("tiny-arm")
    assert main(["inspect", "tiny-arm"]) == 0
    assert "component" in capsys.readouterr().out
    assert policy_folder(name) == out
    assert report_folder(None, name) == Path("evaluation-tiny-arm")
    info = load_info(name)
    report = start_from(load_model(name), "tiny-arm", action_spec=info.action_spec, text_encoder=info.text_encoder)
    assert report.source == "tiny-arm"
    for command in ("play", "evaluate", "serve", "engines", "export", "inspect"):
        more = ["--to", "onnx", "--out", "x"] if command == "export" else []
        assert main([command, "tiny-amr", *more]) == 1
        assert "did you mean 'tiny-arm'" in capsys.readouterr().err
    assert main(["inspect", "tiny-amr", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["check"] == "unreadable"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("evaluation")] == []
