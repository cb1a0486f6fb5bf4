"""Shares of an evaluation: merged, they are the evaluation of one machine."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt1.checkpoint import load_info, load_model, save_checkpoint
from rt1.data.sources.base import CORRECTIONS
from rt1.envs import registry
from rt1.envs.protocol import EvaluationProtocol, PublishedResult
from rt1.errors import DataError
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.outcomes import Shard
from rt1.report.closed_loop import evaluate_checkpoint, merge_shards
from rt1.report.provenance import ReportContext
from rt1.report.shards import evaluate_shard
from rt1.text.encoder import TableEncoder

pytest.importorskip("matplotlib")
pytest.importorskip("av", reason="PyAV, which writes the videos, is not installed")

PROTOCOL = EvaluationProtocol(
    name="points-2",
    groups={"easy": ("near",), "hard": ("far",)},
    score="mean_of_groups",
    trials=6,
    published=(PublishedResult(policy="Other <b>", groups=(0.25, 0.5), score=0.375),),
    notes=("Nothing is known of the other policy.",),
)
COUNT = 4


@dataclasses.dataclass
class Points:
    """A checkpoint and a task suite that it can act in."""

    checkpoint: Path
    suite: Any
    encoder: TableEncoder

    def run(self, out: Path, shard: int | None = None, **changes: Any) -> Any:
        settings = dataclasses.replace(TrialSettings(protocol=PROTOCOL.name, workers=1), **changes)
        command = "rt1 evaluate run --protocol points-2"
        if shard is None:
            context = ReportContext(command=command)
            return evaluate_checkpoint(
                self.checkpoint, out, suite=self.suite, settings=settings, encoder=self.encoder, context=context
            )
        return evaluate_shard(
            self.checkpoint,
            out,
            Shard(number=shard, count=COUNT),
            suite=self.suite,
            settings=settings,
            encoder=self.encoder,
            context=ReportContext(command=f"{command} --shard {shard}/{COUNT}"),
        )


@pytest.fixture
def points(
    make_checkpoint: Callable[..., Path],
    make_suite: Callable[..., Any],
    table: TableEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Points:
    suite = make_suite()
    suite.protocols = {PROTOCOL.name: PROTOCOL}
    suite.open_batch = lambda _task, count, _render: [suite.make_env() for _ in range(count)]
    monkeypatch.setitem(registry._SUITES, "points", lambda _settings: suite)
    checkpoint = make_checkpoint(tmp_path / "run" / "last", names=("move_0", "move_1", "move_2"))
    return Points(checkpoint, suite, table)


@pytest.fixture
def shards(points: Points, tmp_path: Path) -> Path:
    """The folder of all shards."""
    for number in range(1, COUNT + 1):
        points.run(tmp_path / "shards", number)
    return tmp_path / "shards"


def _results(folder: Path) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("seconds", "peak_gb", "date")}


def test_four_shards_merged_equal_one_run_but_for_times(points: Points, shards: Path, tmp_path: Path) -> None:
    points.run(tmp_path / "one")
    halves = tmp_path / "a", tmp_path / "b"  # as two machines leave them
    for number, path in enumerate(sorted(shards.glob("*.json"))):
        halves[number % 2].mkdir(exist_ok=True)
        shutil.copy(path, halves[number % 2])
    merged = merge_shards(halves, tmp_path / "merged")
    assert _results(tmp_path / "merged") == _results(tmp_path / "one")
    assert merged.tasks[0].failure_video is not None
    results = _results(tmp_path / "merged")
    assert results["protocol"] == "points-2"
    assert list(results["groups"]) == ["easy", "hard"]
    assert results["mean_of_groups"] == pytest.approx(sum(results["groups"].values()) / 2)
    assert results["task_mean"] == results["mean_success"]
    page = (tmp_path / "merged" / "report.html").read_text()
    for text in ("Other &lt;b&gt;", "37.5 %", "Nothing is known of the other policy.", "Open-loop replay"):
        assert text in page


def test_a_policy_with_expert_corrections_has_a_row_of_its_own(points: Points, tmp_path: Path) -> None:
    points.run(tmp_path / "recorded", baselines=False)
    info = load_info(points.checkpoint)
    info = dataclasses.replace(info, provenance={**info.provenance, CORRECTIONS: True})
    save_checkpoint(points.checkpoint, model=load_model(points.checkpoint), info=info)
    points.run(tmp_path / "corrected", baselines=False)
    rows = {"recorded": "This policy", "corrected": "This policy, with expert corrections"}
    for name, row in rows.items():
        assert _results(tmp_path / name)["row"] == row
        assert f">{row}</th>" in (tmp_path / name / "report.html").read_text()


def test_missing_shards_are_named(shards: Path, tmp_path: Path) -> None:
    (shards / "shard-2-of-4.json").unlink()
    (shards / "shard-4-of-4.json").unlink()
    with pytest.raises(ValueError, match=r"missing: 2/4, 4/4"):
        merge_shards([shards], tmp_path / "out")
    with pytest.raises(ValueError, match=r"shard-K-of-N"):
        merge_shards([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_that_is_there_twice_is_refused_with_both_files(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"shard 1 .*twice.*copy/shard-1-of-4.json"):
        merge_shards([shards, tmp_path / "copy"], tmp_path / "out")


@pytest.mark.parametrize(("place", "value"), [(("trials", "seed"), 5), (("commit",), "abc"), (("shards",), 3)])
def test_shards_of_different_settings_are_refused_with_the_setting(
    shards: Path, tmp_path: Path, place: tuple[str, ...], value: Any
) -> None:
    file = shards / "shard-3-of-4.json"
    data = json.loads(file.read_text())
    (data["evaluation"][place[0]] if len(place) == 2 else data["evaluation"])[place[-1]] = value
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"{'.'.join(place)} is {value!r} in .*shard-3-of-4.json"):
        merge_shards([shards], tmp_path / "out")
    assert len(list(shards.glob("shard-*"))) == COUNT


@pytest.mark.parametrize("damage", ["{", "[]", '{"shard": {"number": 9, "count": 4}}', "{}"])
def test_a_damaged_shard_is_one_line_with_its_file(shards: Path, tmp_path: Path, damage: str) -> None:
    (shards / "shard-3-of-4.json").write_text(damage)
    with pytest.raises(DataError, match=r"shard-3-of-4.json"):
        merge_shards([shards], tmp_path / "out")


def test_settings_that_contradict_the_protocol_are_refused(points: Points, tmp_path: Path) -> None:
    for change in ({"tasks": ("near",)}, {"trials": 5}):
        name = next(iter(change))
        with pytest.raises(ValueError, match=f"{name} is .*points-2 sets it"):
            points.run(tmp_path / "out", **change)
