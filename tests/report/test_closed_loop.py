"""The report's figures and its page: complete, escaped, self-contained."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.evaluate.episode_plot import EpisodePlot
from rt1.evaluate.results import ParaphraseResult, SwappedResult, TaskResult
from rt1.report.closed_loop import Report, results_json, write_report

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert(\"x\")</script> & 'quote' $title"
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
        swapped=[SwappedResult(task="faucet-open", given_instruction=HOSTILE, trials=20, successes=1)],
        paraphrases=[ParaphraseResult(task="faucet-open", paraphrase=HOSTILE, trials=10, successes=9)],
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


class _Page(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "path", "use", "rect"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "use", "rect"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def attributes(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _page(report: Report, folder: Path) -> tuple[str, _Page]:
    source = write_report(report, folder).read_text(encoding="utf-8")
    return source, _Page(source)


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


def test_the_page_is_well_formed_and_needs_no_network_and_no_script(tmp_path: Path) -> None:
    source, page = _page(_report(), tmp_path)
    assert page.open == []
    assert not page.attributes("script")
    assert not page.attributes("link")
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "poster", "action"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    assert "http:" not in source
    assert "https:" not in source
    assert not re.search(r"url\((?!#)", source)
    assert "@import" not in source


def test_text_from_outside_is_shown_as_it_is_and_never_read_as_markup(tmp_path: Path) -> None:
    source, page = _page(_report(), tmp_path)
    assert "<script" not in source
    # task table and card (2 tasks each), swapped, paraphrase, episode title, dimension, setting (2), note
    assert page.text.count(HOSTILE) == 11


def test_headline_tables_and_details_show_the_numbers(tmp_path: Path) -> None:
    _, page = _page(_report(), tmp_path)
    text = " ".join(page.text.split())
    for expected in (
        "Mean success 85 % 2 tasks, 40 trials",
        "Blind floor 30 % the policy is 55 points above",
        "Swapped instruction 5 % original goal reached; low is good",
        "[76, 99] 19/20",
        "[53, 89] 15/20",
        "rt1 evaluate --trials 20",
        "1,234,567",
        "6 min 12 s",
        "1.25 GB",
        "mean error 0.25",
    ):
        assert expected in text.replace("\N{NO-BREAK SPACE}", " "), expected


def test_each_task_shows_its_success_and_its_failure(tmp_path: Path) -> None:
    _, page = _page(_report(tasks=[_task()]), tmp_path)
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
def test_a_video_that_does_not_exist_leaves_a_sentence(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    _, page = _page(_report(tasks=[_task(**changes)]), tmp_path)
    assert sentence in page.text
    assert len(page.attributes("video")) == 1


def test_a_page_with_counts_only_says_what_is_missing(tmp_path: Path) -> None:
    task = _task(expert=None, blind=None, random=None)
    bare = _report(tasks=[task], swapped=(), paraphrases=(), episodes=(), metrics=(), settings={}, notes=())
    _, page = _page(dataclasses.replace(bare, seconds={}, peak_gb=None), tmp_path)
    for sentence in (
        "Not run in this evaluation",
        "No training record",
        "No held-out episode",
        "not measured",
    ):
        assert sentence in page.text
    assert "Notes" not in page.text


def test_writing_again_replaces_the_older_report(tmp_path: Path) -> None:
    write_report(_report(), tmp_path)
    source, _ = _page(_report(title="Another", commit="def456"), tmp_path)
    assert "<h1>Another</h1>" in source
    assert json.loads((tmp_path / "results.json").read_text())["commit"] == "def456"


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="21 successes in 20 trials"):
        _task(successes=21)
    with pytest.raises(ValueError, match="report of 0 tasks"):
        _report(tasks=[])
