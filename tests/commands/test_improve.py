"""``rt1 improve``: what it says, and the embodiment of a checkpoint that has several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rt1.actions import ActionSpec, Continuous
from rt1.checkpoint import Embodiment, SharedInfo, load_info, save_checkpoint
from rt1.cli import main
from rt1.envs.metaworld import MetaWorldSuite
from rt1.model.rt1 import RT1
from rt1.simulate.record import RecordSettings, record
from rt1.text.encoder import TableEncoder

LITTLE = "--preset debug --rounds 1 --attempts 1 --updates 1 --trials 1 --workers 1 --train.batch-size 2 --no-control"


@pytest.fixture
def shared(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint of an arm that acts in Meta-World, and of a hand that does not."""
    info = load_info(make_checkpoint(tmp_path / "alone"))
    size = info.action_spec.size
    parts = (Continuous(name="hand", low=(-1.0,) * 2, high=(1.0,) * 2),)
    hand = ActionSpec(parts=parts, bins=info.action_spec.bins)
    model = RT1(replace(info.model, embodiments=(size, 2), action_tokens=size))
    robots = {"arm": Embodiment(action_spec=info.action_spec), "hand": Embodiment(action_spec=hand)}
    about = SharedInfo(model=model.config, embodiments=robots, text_encoder=info.text_encoder)
    return save_checkpoint(tmp_path / "shared", model=model, info=about)


@pytest.mark.slow
def test_one_embodiment_of_several_is_improved_and_what_is_done_is_said(
    gl: str,
    small_world: MetaWorldSuite,
    table: TableEncoder,
    table_file: Path,
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gl
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    record(
        tmp_path / "data",
        suite=small_world,
        settings=RecordSettings(tasks=("handle-press",), episodes=1, workers=1),
        encoder=table,
    )

    def improve(*more: Any) -> int:
        words = [shared, "--data", tmp_path / "data", "--out", tmp_path / "out", "--text-encoder", table_file]
        return main(["improve", *map(str, [*words, *LITTLE.split(), *more])])

    assert improve() == 1
    assert "has several embodiments: arm, hand. Name one with --embodiment" in capsys.readouterr().err
    assert improve("--embodiment", "amr") == 1
    assert "unknown embodiment 'amr', did you mean 'arm'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert improve("--embodiment", "arm") == 0
    assert "round 1: kept " in capsys.readouterr().out
    assert load_info(tmp_path / "out" / "start").provenance["embodiment"] == "arm"
    assert load_info(tmp_path / "out" / "round-1" / "improved").model.embodiments == ()
    assert improve("--embodiment", "arm") == 0
    assert "is finished already, success " in capsys.readouterr().out


def test_an_embodiment_needs_a_checkpoint(
    write_recording: Callable[..., Path],
    make_source: Callable[..., Any],
    table_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_recording(tmp_path / "data", make_source(4))
    words = ["--data", data, "--out", tmp_path / "out", "--text-encoder", table_file, "--embodiment", "arm"]
    assert main(["improve", *map(str, words)]) == 1
    assert "--embodiment arm needs a checkpoint: rt1 improve RUN" in capsys.readouterr().err
