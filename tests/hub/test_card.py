"""The model card: what it says, that the Hub can read it, and the line of a mistake in it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.errors import CheckpointError, DataError
from rt1.hub.card import CardFacts, card_text, check_card, edited_card, read_results, write_card

RESULTS: dict[str, Any] = {
    "tasks": [{"task": "open", "trials": 20, "success": 0.95, "interval95": [0.764, 0.991]}],
    "protocol": "mt1",
    "groups": {"easy": 0.95, "hard": None},
    "swapped_success": 0.05,
    "command": "rt1 evaluate run",
}


@dataclass(frozen=True)
class _Robot:
    action_spec: ActionSpec
    control_rate: float | None = 4.0
    provenance: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def facts() -> CardFacts:
    arm = Continuous(name="move", low=(-1.0, 0.0), high=(1.0, 5.0), labels=("x", "y"))
    spec = ActionSpec(parts=(arm, Discrete(name="end", choices=3)), bins=16)
    provenance = {
        "env": {"suite": "kitchen", "settings": {}},
        "source": "hf://datasets/user/recordings",
        "tasks": ["open", 'close "it"'],
        "held_out_episodes": [1, 2],
        "episodes": 30,
        "best": 2.5,
        "best_metric": "loss",
        "command": "rt1 train --data x",
    }
    return CardFacts(
        name="arm",
        form="a checkpoint",
        window=6,
        image_size=(64, 96),
        text_width=8,
        parameters=1234,
        robots={"": _Robot(spec, provenance=provenance)},
        text_encoder="mini",
        provenance=provenance,
    )


def _write(folder: Path, text: str) -> Path:
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def test_a_card_says_task_data_inputs_outputs_and_command(facts: CardFacts) -> None:
    text = card_text(facts)
    words = ["kitchen", 'open, close "it"', "30, of which 2 are held out", "64 x 96", "float32 (8,)", "| x | -1..1 |"]
    words += ["choice of 3", "Best held-out loss so far: 2.5", "    rt1 train --data x", "4 Hz", "of mini"]
    assert [word for word in words if word not in text] == []


def test_the_front_matter_has_results_with_intervals(facts: CardFacts, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="the check of a card needs PyYAML: the extra hub")
    text = card_text(CardFacts(**{**vars(facts), "results": RESULTS, "license": "apache-2.0"}))
    check_card(_write(tmp_path, text))
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["library_name"]) == ("apache-2.0", "rt1")
    assert front["datasets"] == ["user/recordings"]
    (model,) = front["model-index"]
    mean, task = model["results"]
    assert (mean["task"]["name"], mean["metrics"][0]["value"]) == ("mean of 1 tasks", 95.0)
    (metric,) = task["metrics"]
    assert (metric["type"], metric["value"]) == ("success_rate", 95.0)
    assert "20 trials: 95 % (76..99 %)" in metric["name"]
    words = [
        "| open | 20 | 95 % (76..99 %) |",
        "Group easy: 95.0 %",
        "same scene, the original goal is reached in 5.0 %",
    ]
    assert [word for word in words if word not in text] == []


def test_returns_are_shown_where_success_is_not_measured(facts: CardFacts) -> None:
    task = {**RESULTS["tasks"][0], "returns": {"policy": 123.456}}
    text = card_text(CardFacts(**{**vars(facts), "results": {**RESULTS, "tasks": [task]}}))
    assert "mean_return" in text
    assert "| open | 20 | 123.5 |" in text


@pytest.mark.parametrize("provenance", [{}, {"env": 3, "tasks": 4, "image_size": 5, "episodes": "x\ny", "best": "no"}])
def test_a_card_can_be_written_of_any_provenance(facts: CardFacts, provenance: dict[str, Any], tmp_path: Path) -> None:
    robot = _Robot(facts.robots[""].action_spec, None, provenance)
    text = card_text(CardFacts(**{**vars(facts), "robots": {"left": robot, "right": robot}, "provenance": provenance}))
    check_card(_write(tmp_path, text))
    assert "### left" in text


def test_only_a_card_that_somebody_changed_is_edited(facts: CardFacts, tmp_path: Path) -> None:
    text = card_text(facts)
    assert edited_card(tmp_path) is None
    assert edited_card(_write(tmp_path, text)) is None
    changed = text.replace("# arm", "# My arm")
    assert edited_card(_write(tmp_path, changed)) == changed
    assert edited_card(_write(tmp_path, "mine")) == "mine"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# no front matter", r"line 1: .*YAML"),
        ("---\nlicense: x\nnever closed", "line 1: .*YAML"),
        ("---\nlicense: [mit\nlibrary_name: rt1\n---\n", "line 3: .*no YAML"),
        ("---\nlicense: mit\n\tlibrary_name: rt1\n---\n", "line 3: .*no YAML"),
        ("---\n- mit\n---\n", "line 2: .*fields"),
        ("---\nlibrary_name: rt1\nlicense: 3\n---\n", "line 3: license"),
        ("---\nlicense: mit\nlibrary_name: other\n---\n", "line 3: library_name must be rt1"),
        ("---\nlicense: mit\nlibrary_name: rt1\ntags: robot\n---\n", "line 4: tags"),
        ("---\nlicense: mit\nlibrary_name: rt1\n\nmodel-index:\n- name: x\n---\n", "line 5: model-index"),
        ("---\nlibrary_name: rt1\nlicense: ''\n---\n", "line 3: license"),
        ("---\nlicense: !!python/object/apply:os.getcwd []\n---\n", "line 2: .*no YAML"),
        (f"---\nlicense: {'[' * 1100}\n---\n", "line .*no YAML"),
    ],
)
def test_a_malformed_card_is_refused_with_the_line(text: str, problem: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="the check of a card needs PyYAML: the extra hub")
    with pytest.raises(CheckpointError, match=rf"README\.md, {problem}") as refusal:
        check_card(_write(tmp_path, text))
    assert "\n" not in str(refusal.value)


def test_a_card_that_is_no_text_or_missing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="the check of a card needs PyYAML: the extra hub")
    with pytest.raises(CheckpointError, match=r"README\.md cannot be read"):
        check_card(tmp_path)
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    write_card(tmp_path, edited_card(tmp_path) or "")
    assert (tmp_path / "README.md").read_bytes() == b"\xff\xfe\x00"
    with pytest.raises(CheckpointError, match=r"README\.md cannot be read"):
        check_card(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tasks": []}', '{"tasks": [{"task": "open"}]}', '{"tasks": 3}'])
def test_results_of_another_file_are_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"results\.json"):
        read_results(file)
    file.write_text(json.dumps(RESULTS))
    assert read_results(file) == RESULTS


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"success": float("nan")}, "nan"),
        ({"success": 95}, "95"),
        ({"success": "0.95"}, "'0.95'"),
        ({"interval95": [0.7, 99.1]}, "99.1"),
        ({"trials": 0}, "0 trials"),
        ({"returns": {"policy": float("inf")}}, "inf"),
    ],
)
def test_results_that_no_evaluation_has_are_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({**RESULTS, "tasks": [{**RESULTS["tasks"][0], **change}]}))
    with pytest.raises(DataError, match=problem):
        read_results(file)
    file.write_text(json.dumps({**RESULTS, "swapped_success": 7}))
    with pytest.raises(DataError, match="7"):
        read_results(file)


@pytest.mark.parametrize("text", ['say "hi" \\', "öffne \U0001f600", "a\nb|c", "odd \x7f \u2028", '"); boom("'])
def test_any_name_and_instruction_is_text_in_a_card(facts: CardFacts, text: str, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="the check of a card needs PyYAML: the extra hub")
    results = {**RESULTS, "tasks": [{**RESULTS["tasks"][0], "task": text}], "command": text}
    card = card_text(CardFacts(**{**vars(facts), "name": text, "instructions": (text,), "results": results}))
    check_card(_write(tmp_path, card))
    model = yaml.safe_load(card.split("---\n")[1])["model-index"][0]
    assert (model["name"], model["results"][1]["task"]["name"]) == (text, text)
    (line,) = (line for line in card.splitlines() if line.startswith("policy.reset("))
    assert ast.literal_eval(line.removeprefix("policy.reset(").removesuffix(")")) == text
    assert sum(line.count(" | 20 | 95 %") for line in card.splitlines()) == 1


def test_an_own_card_is_unchanged_by_the_next_save(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    assert edited_card(folder) is None
    assert "Policy.from_pretrained" in (folder / "README.md").read_text()
