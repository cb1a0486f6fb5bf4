"""The report's figures and its page: complete, escaped, self-contained."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.envs.metaworld import MetaWorldSuite
from rt1.errors import CheckpointError, DataError, SaveError
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.episode_trace import EpisodePlot
from rt1.evaluate.metrics import METRICS_FILE
from rt1.evaluate.results import InstructedResult, TaskResult
from rt1.policy.open import weights_hash
from rt1.report.closed_loop import Report, evaluate_checkpoint, results_json, write_report
from rt1.report.provenance import ReportContext
from rt1.text.encoder import TableEncoder

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert(\"x\")</script> & 'quote' {{ title }}"
VIDEO = b"\x00\x00\x00 ftypisom, as a video would begin"


def _task(**changes: Any) -> TaskResult:
    task = TaskResult(
        task="faucet-open",
        instruction=HOSTILE,
        trials=20,
        successes=19,
        expert=1.0,
        blind=0.5,
        random=0.0,
        mean_steps=21.5,
        clipped=3,
        success_video=VIDEO,
        failure_video=VIDEO[:-1],
    )
    return dataclasses.replace(task, **changes)


def _report(**changes: Any) -> Report:
    actions = np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2)
    report = Report(
        title="A report",
        command="rt1 evaluate --trials 20",
        commit="abc123",
        machine="two cores",
        date="2026-11-20",
        checkpoint="run/best",
        seconds={"train": 372.0, "evaluate": 9.5},
        peak_gb=1.25,
        parameters=1_234_567,
        tasks=[_task(), _task(task="dial-turn", successes=15, blind=0.1)],
        swapped=[InstructedResult(task="faucet-open", instruction=HOSTILE, trials=20, successes=1)],
        paraphrases=[InstructedResult(task="faucet-open", instruction=HOSTILE, trials=10, successes=9)],
        episodes=[
            EpisodePlot(
                title=HOSTILE,
                dimension_names=["x", HOSTILE],
                recorded=actions,
                predicted=actions + np.float32(0.25),
                steps=range(12),
                images=[np.zeros((16, 16, 3), dtype=np.uint8)] * 12,
            )
        ],
        metrics=[{"update": update, "loss": 3.0, "accuracy": 0.5} for update in (1, 2)],
        settings={"image size": "96 px", HOSTILE: HOSTILE},
        notes=(HOSTILE,),
    )
    return dataclasses.replace(report, **changes)


@pytest.fixture
def write(read_page: Callable[[str], Any], tmp_path: Path) -> Callable[[Report], Any]:
    """Write a report and read its page."""
    return lambda report: read_page(write_report(report, tmp_path).read_text(encoding="utf-8"))


def test_results_json_holds_every_figure() -> None:
    results = results_json(_report())
    first = results["tasks"][0]
    assert first["task"] == "faucet-open"
    assert first["instruction"] == HOSTILE
    assert (first["trials"], first["success"], first["clipped"]) == (20, 0.95, 3)
    assert first["interval95"] == pytest.approx([0.7639, 0.9911], abs=1e-4)
    assert (first["expert"], first["blind"], first["random"]) == (1.0, 0.5, 0.0)
    assert results["mean_success"] == pytest.approx(0.85)
    assert results["mean_blind"] == pytest.approx(0.3)
    assert results["swapped_success"] == 0.05
    assert results["swapped"][0]["given_instruction"] == HOSTILE
    assert results["paraphrase_success"] == 0.9
    assert results["seconds"] == {"train": 372.0, "evaluate": 9.5}
    assert (results["peak_gb"], results["commit"]) == (1.25, "abc123")


def test_what_was_not_run_is_null() -> None:
    tasks = [_task(expert=None, blind=None, random=None), _task(task="dial-turn")]
    results = results_json(_report(tasks=tasks, swapped=(), paraphrases=(), peak_gb=None))
    assert results["tasks"][0]["blind"] is None
    assert results["mean_blind"] is None, "a mean over other tasks than the policy's would not compare"
    assert results["swapped_success"] is None
    assert results["paraphrase_success"] is None
    assert results["peak_gb"] is None


def test_both_files_are_written_and_the_json_is_the_pages(tmp_path: Path) -> None:
    report = _report()
    path = write_report(report, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    assert json.loads((path.parent / "results.json").read_text()) == results_json(report)
    assert sorted(child.name for child in path.parent.iterdir()) == ["report.html", "results.json"]


def test_text_from_outside_is_shown_as_it_is(write: Callable[[Report], Any]) -> None:
    page = write(_report(title=HOSTILE, tasks=[_task(task=HOSTILE)]))
    # The title twice, the task table and card with name and sentence each, swapped, paraphrase, episode title,
    # dimension, setting and its value, note.
    assert page.text.count(HOSTILE) == 13


def test_headline_tables_and_details_show_the_numbers(write: Callable[[Report], Any]) -> None:
    page = write(_report())
    for expected in (
        "Mean success 85 % 2 tasks, 40 trials",
        "Open-loop replay 30 % the policy is 55 points above",
        "Swapped instruction 5 % original goal reached, low is good",
        "[76, 99] 19/20",
        "[53, 89] 15/20",
        "rt1 evaluate --trials 20",
        "1,234,567",
        "6 min 12 s",
        "1.25 GB",
        "mean error 0.25",
    ):
        assert expected in page.text, expected


def test_each_task_shows_its_success_and_its_failure(write: Callable[[Report], Any]) -> None:
    page = write(_report(tasks=[_task()]))
    videos = page.attributes("video")
    sources = [(video["src"] or "").split(",", 1) for video in videos]
    assert [(head, base64.b64decode(data)) for head, data in sources] == [
        ("data:video/mp4;base64", VIDEO),
        ("data:video/mp4;base64", VIDEO[:-1]),
    ]
    assert all({"muted", "loop", "playsinline", "controls"} <= set(video) for video in videos)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"successes": 20, "failure_video": None}, "no failure in 20 trials"),
        ({"successes": 0, "success_video": None}, "no success in 20 trials"),
        ({"trials": 1, "successes": 1, "failure_video": None}, "no failure in 1 trial"),
        ({"failure_video": None}, "no video was kept of a failure (1 of 20 trials)"),
    ],
)
def test_a_video_that_does_not_exist_leaves_a_sentence(
    changes: dict[str, Any], sentence: str, write: Callable[[Report], Any]
) -> None:
    page = write(_report(tasks=[_task(**changes)]))
    assert sentence in page.text
    assert len(page.attributes("video")) == 1


def test_a_page_with_counts_only_says_what_is_missing(write: Callable[[Report], Any]) -> None:
    task = _task(expert=None, blind=None, random=None)
    bare = _report(tasks=[task], swapped=(), paraphrases=(), episodes=(), metrics=(), settings={}, notes=())
    page = write(dataclasses.replace(bare, seconds={}, peak_gb=None))
    for sentence in (
        "Not run in this evaluation",
        "No training record",
        "No held-out episode",
        "not measured",
    ):
        assert sentence in page.text
    assert "Notes" not in page.text


def test_writing_again_replaces_the_older_report(write: Callable[[Report], Any], tmp_path: Path) -> None:
    write(_report())
    page = write(_report(title="Another", commit="def456"))
    assert "<h1>Another</h1>" in page.source
    assert json.loads((tmp_path / "results.json").read_text())["commit"] == "def456"


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="21 successes in 20 trials"):
        _task(successes=21)
    with pytest.raises(ValueError, match="report of 0 tasks"):
        _report(tasks=[])


ONE_TRIAL = TrialSettings(tasks=("faucet-open",), trials=1, baselines=False, paraphrases=False, workers=1)


@pytest.fixture
def run(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A run folder with a checkpoint whose actions go far beyond the environment's, and a metrics file."""
    pytest.importorskip("metaworld", reason="Meta-World is not installed")
    pytest.importorskip("av", reason="PyAV, which writes the videos, is not installed")
    make_checkpoint(tmp_path / "run" / "last", bound=50.0)
    (tmp_path / "run" / METRICS_FILE).write_text('{"update": 5, "loss": 2.5, "accuracy": 0.5}\n' * 2)
    return tmp_path / "run"


def test_an_evaluation_leaves_its_figures_and_one_page_and_both_show_the_clipped_actions(
    gl: str, run: Path, small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path
) -> None:
    assert gl
    context = ReportContext(title="A <title>", command="rt1 evaluate", seconds={"train": 5.0}, settings={"a": "b"})
    report = evaluate_checkpoint(
        run, tmp_path / "out", suite=small_world, settings=ONE_TRIAL, encoder=table, context=context
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["tasks"][0]["task"] == "faucet-open-v3"
    assert list(results["seconds"]) == ["train", "evaluate"]
    assert results["command"] == "rt1 evaluate"
    assert results["weights"] == weights_hash(run / "last")
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
    gl: str,
    run: Path,
    small_world: MetaWorldSuite,
    table: TableEncoder,
    tmp_path: Path,
    make_source: Callable[..., Any],
) -> None:
    assert gl
    source = make_source(3, 3, 3, 3)
    file = run / "last" / "checkpoint.json"
    info = json.loads(file.read_text())
    info["provenance"] |= {"source": "memory", "episodes": 4}
    file.write_text(json.dumps(info))
    source.moves = [moves[:, [0, 1, 2, 2]] for moves in source.moves]
    source.action_spec = small_world.open("faucet-open", render=False).action_spec
    report = evaluate_checkpoint(run, tmp_path, suite=small_world, settings=ONE_TRIAL, encoder=table, source=source)
    # Of the held-out episodes 1, 2, 3 the first of each task.
    assert [plot.title.partition(":")[0] for plot in report.episodes] == [
        "task-1, held-out episode 1",
        "task-0, held-out episode 2",
    ]
    before = (tmp_path / "report.html").read_bytes()
    source.images[2][1] = b"\xff\xd8\xff torn"
    with pytest.raises(DataError, match="memory, episode 2, step 1: an image"):
        evaluate_checkpoint(run, tmp_path, suite=small_world, settings=ONE_TRIAL, encoder=table, source=source)
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_checkpoint_without_its_weights_is_named_before_any_worker_starts(
    run: Path, small_world: MetaWorldSuite, table: TableEncoder, tmp_path: Path
) -> None:
    (run / "last" / "model.safetensors").unlink()
    settings = TrialSettings(tasks=("faucet-open",), trials=10, workers=2)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        evaluate_checkpoint(run, tmp_path / "out", suite=small_world, settings=settings, encoder=table)


def test_a_full_disk_leaves_the_report_that_was_there(
    gl: str,
    run: Path,
    small_world: MetaWorldSuite,
    table: TableEncoder,
    tmp_path: Path,
    full_disk: Callable[[int], None],
) -> None:
    assert gl
    (tmp_path / "report.html").write_text("an older page")
    context = ReportContext(title="a page that needs room " * 10_000)
    full_disk(100_000)
    with pytest.raises(SaveError, match=r"could not save .*report\.html: .*. What was there before is untouched. Free"):
        evaluate_checkpoint(run, tmp_path, suite=small_world, settings=ONE_TRIAL, encoder=table, context=context)
    full_disk(-1)
    assert (tmp_path / "report.html").read_text() == "an older page"
    assert not list(tmp_path.glob(".report*"))
