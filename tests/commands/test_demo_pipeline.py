"""The whole job, small: record, train, evaluate, report, and once more."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from rt1.cli import main
from rt1.commands.demo_pipeline import DemoSettings, run_demo, summary
from rt1.text.load import load_text_encoder

SMALL = ("--preset", "debug", "--tasks", "faucet-open", "faucet-close", "--episodes", "2", "--trials", "1")


@pytest.fixture(scope="module")
def minilm() -> None:
    """The default text encoder; skips where its weights are missing."""
    try:
        load_text_encoder("minilm")
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def demo(gl: str, minilm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """The folder of a demo of two tasks, two episodes each, 20 updates, one trial."""
    for package in ("matplotlib", "av"):
        pytest.importorskip(package, reason=f"{package}, which the report needs, is not installed")
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", *SMALL, "--out", str(folder)]) == 0
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_whole_job_leaves_its_figures(demo: Path) -> None:
    results = json.loads((demo / "results.json").read_text())
    assert [task["task"] for task in results["tasks"]] == ["faucet-open-v3", "faucet-close-v3"]
    for task in results["tasks"]:
        assert task["trials"] == 1
        assert task["instruction"].startswith("rotate the faucet")
        assert 0.0 <= task["interval95"][0] <= task["success"] <= task["interval95"][1] <= 1.0
        assert {task[name] for name in ("success", "expert", "blind", "random")} <= {0.0, 1.0}
    for name in ("mean_success", "mean_blind", "swapped_success", "paraphrase_success"):
        assert 0.0 <= results[name] <= 1.0
    assert list(results["seconds"]) == ["record", "train", "evaluate"]
    assert all(seconds > 0 for seconds in results["seconds"].values())
    assert results["peak_gb"] is None or 0.1 < results["peak_gb"] < 16
    assert re.fullmatch(r"[0-9a-f]{12}\+?|unknown", results["commit"])
    assert results["command"].startswith("rt1 demo --preset debug")


@pytest.mark.slow
def test_the_whole_job_leaves_one_page_that_needs_nothing_else(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert page.count("<video") >= 2  # a success or a failure of each task
    assert "held-out episode" in page
    assert "rotate the faucet clockwise to close it" in page
    assert "faucet-close-v3" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|\#)""", page)


@pytest.mark.slow
def test_the_whole_job_leaves_data_and_checkpoints_for_further_use(demo: Path) -> None:
    records = [json.loads(line) for line in (demo / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["update"] == 20
    for name in ("last", "best"):
        assert (demo / "run" / name / "model.safetensors").is_file()
    assert main(["inspect", str(demo / "run")]) == main(["inspect", str(demo / "data")]) == 0


@pytest.mark.slow
def test_running_it_again_reuses_everything_and_changes_nothing(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _files(demo)
    assert main(["demo", *SMALL, "--out", str(demo)]) == 0
    assert f"report: {demo / 'report.html'}" in capsys.readouterr().out
    after = _files(demo)
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name]] == []


@pytest.mark.slow
def test_a_folder_begun_with_other_settings_is_refused_and_left_as_it_was(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _files(demo)
    assert main(["demo", *SMALL, "--seed", "1", "--out", str(demo)]) == 1
    assert "holds a demo with other settings" in capsys.readouterr().err
    assert _files(demo) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("faucet-open", "faucet-clsoe")}, "did you mean 'faucet-close'"),
        ({"tasks": ("reach", "reach-v3")}, "Give at least one and none twice"),
        ({"preset": "dmeo"}, "did you mean 'demo'"),
        ({"trials": 0}, "trials is 0"),
        ({"episodes": 0}, "episodes is 0"),
        ({"updates": 0}, "updates is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be_show_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_demo(dataclasses.replace(DemoSettings(out=tmp_path / "out"), **change))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_figures_are_told_in_lines(tmp_path: Path) -> None:
    task = {
        "task": "reach-v3",
        "success": 0.95,
        "interval95": [0.76, 0.99],
        "expert": 1.0,
        "blind": 0.125,
        "random": None,
    }
    results = {
        "tasks": [task],
        "mean_success": 0.95,
        "mean_blind": 0.125,
        "swapped_success": None,
        "paraphrase_success": 0.5,
        "seconds": {"record": 34.0, "train": 372.0},
        "peak_gb": None,
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    lines = summary(tmp_path).splitlines()
    assert lines[1].split() == ["reach-v3", "95%", "76%..99%", "100%", "12%", "-"]
    assert lines[2].split() == ["mean", "95%", "12%"]
    assert lines[3] == "with the other task's instruction -, with an unseen paraphrase 50%"
    assert lines[4] == "record 34 s, train 6 min 12 s, peak memory 0.0 GB"
    assert lines[-1] == f"report: {tmp_path / 'report.html'}"
