"""An evaluation from a checkpoint to its report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.envs.registry import EnvSettings
from rt1.errors import CheckpointError, DataError, SaveError
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.metrics import METRICS_FILE
from rt1.report.provenance import ReportContext
from rt1.report.run_closed_loop import evaluate_checkpoint
from rt1.text.encoder import TableEncoder

pytest.importorskip("metaworld", reason="Meta-World is not installed")
pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed")
pytest.importorskip("av", reason="PyAV, which writes the videos, is not installed")

ONE_TRIAL = TrialSettings(tasks=("faucet-open",), trials=1, baselines=False, paraphrases=False, workers=1)


@pytest.fixture
def run(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A run folder with a checkpoint whose actions go far beyond the environment's, and a metrics file."""
    make_checkpoint(tmp_path / "run" / "last", bound=50.0)
    (tmp_path / "run" / METRICS_FILE).write_text('{"update": 5, "loss": 2.5, "accuracy": 0.5}\n' * 2)
    return tmp_path / "run"


def test_an_evaluation_leaves_its_figures_and_one_page_and_both_show_the_clipped_actions(
    gl: str, run: Path, small_world: EnvSettings, table: TableEncoder, tmp_path: Path
) -> None:
    assert gl
    context = ReportContext(title="A <title>", command="rt1 evaluate", seconds={"train": 5.0}, settings={"a": "b"})
    report = evaluate_checkpoint(
        run, tmp_path / "out", env=small_world, settings=ONE_TRIAL, encoder=table, context=context
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["tasks"][0]["task"] == "faucet-open-v3"
    assert list(results["seconds"]) == ["train", "evaluate"]
    assert results["command"] == "rt1 evaluate"
    assert report.checkpoint == "last at update 7"
    assert [record["loss"] for record in report.metrics] == [2.5, 2.5]
    assert (report.settings["a"], report.settings["control rate"]) == ("b", "4 Hz")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A &lt;title&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    clipped = results["tasks"][0]["clipped"]
    assert clipped == report.tasks[0].clipped
    assert 1 <= clipped <= 25 * 4
    assert "Clipped" in page
    assert re.search(rf"<td[^>]*>{clipped}</td>", page)


def test_held_out_episodes_are_plotted_and_damaged_ones_are_noticed_before_the_trials(
    gl: str, run: Path, small_world: EnvSettings, table: TableEncoder, tmp_path: Path, make_source: Callable[..., Any]
) -> None:
    assert gl
    source = make_source(3, 3, 3, 3)
    file = run / "last" / "checkpoint.json"
    info = json.loads(file.read_text())
    info["provenance"] |= {"source": "memory", "episodes": 4}
    file.write_text(json.dumps(info))
    source.moves = [moves[:, [0, 1, 2, 2]] for moves in source.moves]
    source.action_spec = small_world.open("faucet-open", render=False).action_spec
    report = evaluate_checkpoint(run, tmp_path, env=small_world, settings=ONE_TRIAL, encoder=table, source=source)
    # Of the held-out episodes 1, 2, 3 the first of each task.
    assert [plot.title.partition(":")[0] for plot in report.episodes] == [
        "task-1, held-out episode 1",
        "task-0, held-out episode 2",
    ]
    before = (tmp_path / "report.html").read_bytes()
    source.images[2][1] = b"\xff\xd8\xff torn"
    with pytest.raises(DataError, match="memory, episode 2, step 1: a JPEG"):
        evaluate_checkpoint(run, tmp_path, env=small_world, settings=ONE_TRIAL, encoder=table, source=source)
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_checkpoint_without_its_weights_is_named_before_any_worker_starts(
    run: Path, small_world: EnvSettings, table: TableEncoder, tmp_path: Path
) -> None:
    (run / "last" / "model.safetensors").unlink()
    settings = TrialSettings(tasks=("faucet-open",), trials=10, workers=2)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        evaluate_checkpoint(run, tmp_path / "out", env=small_world, settings=settings, encoder=table)


def test_a_full_disk_leaves_the_report_that_was_there(
    gl: str,
    run: Path,
    small_world: EnvSettings,
    table: TableEncoder,
    tmp_path: Path,
    full_disk: Callable[[int], None],
) -> None:
    assert gl
    (tmp_path / "report.html").write_text("an older page")
    context = ReportContext(title="a page that needs room " * 10_000)
    full_disk(100_000)
    with pytest.raises(SaveError, match=r"could not save .*report\.html: .*untouched"):
        evaluate_checkpoint(run, tmp_path, env=small_world, settings=ONE_TRIAL, encoder=table, context=context)
    full_disk(-1)
    assert (tmp_path / "report.html").read_text() == "an older page"
    assert not list(tmp_path.glob(".report*"))
