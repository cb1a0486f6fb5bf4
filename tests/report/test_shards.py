"""Shares of an evaluation: merged, they are the evaluation of one machine."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rt1.checkpoint import load_info, load_model, save_checkpoint
from rt1.data.sources.base import CORRECTIONS
from rt1.envs import registry
from rt1.envs.protocol import EvaluationProtocol, PublishedResult
from rt1.errors import DataError
from rt1.evaluate import closed_loop
from rt1.evaluate.closed_loop import TrialSettings
from rt1.evaluate.outcomes import Shard
from rt1.report.closed_loop import evaluate_checkpoint, merge_shards
from rt1.report.provenance import ReportContext
from rt1.report.shards import evaluate_shard
from rt1.simulate.trials import run_trials
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
ALL = dataclasses.replace(PROTOCOL, name="points-all", groups={"all": ("far", "near")}, score="task_mean", published=())
OTHER = dataclasses.replace(PROTOCOL, name="points-other", trials=7)
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
    suite.protocols = {protocol.name: protocol for protocol in (ALL, OTHER, PROTOCOL)}
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


def _interrupt_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the trials end by Ctrl-C after some plans. Return the list that counts all plans that are run."""
    counts: list[int] = []

    def interrupted(plans: Any, **arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(run_trials(plans, **arguments)):
            if number == batches:
                raise KeyboardInterrupt
            counts.append(len(batch))
            yield batch

    monkeypatch.setattr(closed_loop, "run_trials", interrupted)
    return counts


@pytest.mark.parametrize("shard", [None, 1])
def test_an_interrupted_evaluation_resumes_to_the_results_of_an_uninterrupted_one(
    points: Points, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int | None
) -> None:
    points.run(tmp_path / "one", shard)
    _interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        points.run(tmp_path / "two", shard)
    (log,) = (tmp_path / "two").iterdir()
    with pytest.raises(ValueError, match=r"^seed was 0 .* now it is 3"):
        points.run(tmp_path / "two", shard, seed=3)
    counts = _interrupt_after(999, monkeypatch)
    points.run(tmp_path / "two", shard)
    assert len(counts) == (10 if shard is None else 1)
    assert not log.exists()
    if shard is None:
        assert _results(tmp_path / "two") == _results(tmp_path / "one")
        pages = [(tmp_path / name / "report.html").read_text() for name in ("one", "two")]
        assert pages[0].count("data:video/mp4") == pages[1].count("data:video/mp4") > 0
    else:  # x264's bytes differ from call to call
        one, two = (json.loads((tmp_path / name / "shard-1-of-4.json").read_text()) for name in ("one", "two"))
        assert [*map(_without_video, one["outcomes"])] == [*map(_without_video, two["outcomes"])]


def _without_video(outcome: dict[str, Any]) -> dict[str, Any]:
    return {**outcome, "video": outcome["video"] is not None}


def test_protocols_with_the_same_trials_are_scored_together(points: Points, tmp_path: Path) -> None:
    points.run(tmp_path / "two", baselines=False)
    points.run(tmp_path / "all", baselines=False, protocol="points-all")
    two, every = (_results(tmp_path / name) for name in ("two", "all"))
    assert [list(results["protocols"]) for results in (two, every)] == [
        ["points-2", "points-all"],
        ["points-all", "points-2"],
    ]
    assert sorted(two["protocols"].items()) == sorted(every["protocols"].items())
    assert two["protocols"]["points-2"] == {
        "score": "mean_of_groups",
        "success": two["mean_of_groups"],
        "groups": two["groups"],
    }
    assert every["protocols"]["points-all"]["groups"] == {"all": every["task_mean"]}
    page = (tmp_path / "two" / "report.html").read_text()
    assert [f"Protocol {name}</h2>" in page for name in ("points-2", "points-all", "points-other")] == [
        True,
        True,
        False,
    ]


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
