"""What deserves a look is said in a sentence, and nothing else is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, Discrete
from rt1.data.rlds.reader import RLDSSource
from rt1.data.rlds.schema import RLDSLayout
from rt1.data.sources.images import encode_jpeg
from rt1.data.survey import SurveyLimits, survey_data
from rt1.report.dataset_checks import CHECKS, Finding, findings, in_order, sampling, sizes
from rt1.text.word_pieces import WordPieces


def _notes(source: Any, **options: Any) -> list[str]:
    found = findings(survey_data(source, **options))
    return [finding.message.replace("\N{NO-BREAK SPACE}", " ") for finding in found]


def _checks(source: Any, **options: Any) -> list[str]:
    return [finding.check for finding in findings(survey_data(source, **options))]


@pytest.fixture
def source(make_source: Callable[..., Any]) -> Any:
    """Two hundred steps without a flaw, grey images."""
    source = make_source(100, 100, size=(8, 8))
    source.images = [_images(0), _images(0)]
    return source


def _images(blue_minus_red: int, steps: int = 100) -> list[bytes]:
    """Return images that grow lighter."""
    colors = (np.array((80, 80, 80 + blue_minus_red)) + step for step in range(steps))
    return [encode_jpeg(np.full((8, 8, 3), color, np.uint8)) for color in colors]


def test_a_good_set_has_no_notes(source: Any) -> None:
    assert _notes(source) == []


def test_an_instruction_with_two_text_embeddings_is_noted(source: Any) -> None:
    embeddings = np.arange(16, dtype=np.float32).reshape(2, 8)
    other = dataclasses.replace(source, lengths=np.array([50, 50, 50, 50]), images=source.images * 2)
    other.moves = [moves[half : half + 50] for half in (0, 50) for moves in source.moves]
    assert _notes(other) == []
    object.__setattr__(other, "text_embedding", lambda episode: embeddings[episode // 2])
    (note,) = _notes(other)
    assert note.startswith("text embeddings: 2 instructions with more than one embedding, the first is 'open the dra")


def test_images_that_look_blue_and_are_not_declared_bgr_are_noted(source: Any) -> None:
    source.images = [_images(20), _images(-20)[:50] + _images(20)[50:]]
    (note,) = _notes(source)
    assert note.startswith("colors: in 75 % of the sampled images blue exceeds red: red and blue may be exchanged")
    source.images = [_images(20), _images(-20)]
    assert _notes(source) == []


def test_images_declared_bgr_that_look_blue_as_such_are_noted(source: Any) -> None:
    source.bgr = True
    source.images = [_images(20)] * 2
    assert _notes(source) == []
    source.images = [_images(-20)] * 2
    (note,) = _notes(source)
    assert "they are declared BGR, but may be RGB" in note


def test_real_images_look_red_and_blue_only_once_exchanged(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "data" / "bridge_rlds" / "bridge_dataset" / "1.0.0").glob("[!.]*"):
        (tmp_path / file.name).symlink_to(file)  # the index must not be written beside the real files
    bridge: Any = RLDSSource(tmp_path, layout=RLDSLayout(image_key="observation/image_0"))
    assert not any(note.startswith("colors") for note in _notes(bridge))
    bridge.bgr = True
    assert any(note.startswith("colors") for note in _notes(bridge))


def test_images_of_several_sizes_are_noted(source: Any) -> None:
    source.images[0] = [encode_jpeg(np.full((16, 24, 3), 50 + step, np.uint8)) for step in range(100)]
    (note,) = _notes(source)
    assert note == "images of 2 sizes: 16 x 24, 8 x 8"
    many = {(side, side): 1 for side in range(1, 9)}
    images = dataclasses.replace(survey_data(source).images, sizes=many)
    assert sizes(images) == "1 x 1, 2 x 2, 3 x 3, 4 x 4, 5 x 5 and 3 more"


def test_empty_sentences_and_what_was_left_out_are_noted(source: Any) -> None:
    source.instruction = lambda episode: " " if episode else "push"
    source.skipped = ("a.tfrecord: torn",)
    assert _notes(source) == [
        "empty instruction in 1 of 2 episodes, the first is 1. --skip-empty leaves them out",
        "left out as damaged: 1 record, the first: a.tfrecord: torn",
    ]


def test_actions_that_are_no_numbers_never_change_or_are_clipped_are_noted(source: Any) -> None:
    source.moves[1][4, 0] = np.nan
    source.moves[0][:2, 1] = 1.25
    for moves in source.moves:
        moves[:, 2] = 1.0
    assert _notes(source) == [
        "NaN or infinite action in 1 of 200 steps, the first is step 4 of episode 1. Leave such steps out",
        "move_1: 1 % of the values lie outside -1..1 and will be clipped",
        "never changes: move_2",
    ]


def test_a_value_in_a_thousand_outside_is_not_worth_a_note(source: Any) -> None:
    source.moves[0][0, 1] = 1.25
    assert _notes(source) == []


def test_outliers_and_bounds_far_too_wide_are_noted(source: Any) -> None:
    source.action_spec = ActionSpec(
        parts=(Continuous(name="move", low=(-1.0, -1.0, -99.0), high=(1.0, 1.0, 99.0)),), bins=256
    )
    source.moves[1][3, 2] = 50.0
    (outlier, bins) = _notes(source)
    assert outlier.startswith("move_2: 1 outlier far from -0.9")
    assert outlier.endswith("the farthest at step 3 of episode 1")
    assert bins.startswith("move_2: 98 % of the values share 3 bins of 256. Check the unit")


def test_values_that_are_no_choice_are_noted(source: Any) -> None:
    source.action_spec = ActionSpec(
        parts=(Discrete(name="end", choices=3), Continuous(name="move", low=(-1.0,) * 2, high=(1.0,) * 2)), bins=16
    )
    for moves in source.moves:
        moves[:, 0] = np.arange(100) % 3
    source.moves[0][0, 0] = -1
    assert _notes(source) == ["end: 0.5 % of the values are none of the choices 0..2. Encoding refuses them"]


def test_a_dimension_that_is_rarely_used_is_noted_with_what_the_bins_make_of_it(source: Any) -> None:
    source.action_spec = ActionSpec(parts=(Continuous(name="move", low=(-1.0, -1.0, 0.0), high=(1.0,) * 3),), bins=256)
    for column in (1, 2):
        for moves in source.moves:
            moves[:, column] = np.where(np.arange(100) == 7, 0.75, 0)
    assert [note for note in _notes(source) if "exactly" in note] == [
        "move_1: 99 % of the steps are exactly 0. The bins turn it into -0.00392, in every such step at the robot, too",
        "move_2: 99 % of the steps are exactly 0. The bins give it back exactly",
    ]
    assert "few-bins" not in _checks(source)


def test_dark_and_frozen_images_are_noted(source: Any) -> None:
    black = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    source.images[0] = [black] * 100
    assert _checks(source) == ["dark-images", "frozen-images"]
    assert _notes(source) == [
        "50 % of the sampled images are black or nearly so, 0 % white",
        "the images do not change in 1 of 2 sampled episodes, the first is 0",
    ]
    source.images[0] = [*_images(0)[:40], *[_images(0)[40]] * 60]
    assert _checks(source) == ["frozen-images"]


def test_episodes_that_repeat_another_are_noted(source: Any) -> None:
    source.moves[1] = source.moves[0].copy()
    (note,) = _notes(source)
    assert note.startswith("1 episode with the actions and the first image of an earlier one, the first is 1, which")
    source.images[1] = _images(-10)
    assert _checks(source) == []


def test_very_short_and_very_long_episodes_are_noted(make_source: Callable[..., Any]) -> None:
    source = make_source(5, 1, 5, 5, 60, size=(8, 8))
    assert "2 episodes of 1 step or more than 10 times the median of 5 steps, the first is 1 with 1 step" in _notes(
        source
    )


def test_instructions_with_one_text_embedding_are_an_error(source: Any) -> None:
    source.embeddings[1] = source.embeddings[0]
    (finding,) = findings(survey_data(source))
    assert (finding.check, finding.severity) == ("shared-text-embedding", "error")
    assert (
        "'open the drawer', 'close the drawer' have the same text embedding (stored with the data)" in finding.message
    )


def test_instructions_that_the_encoder_does_not_know_are_named(source: Any) -> None:
    source.embeddings = [None, None]
    source.instruction = lambda episode: ("打开抽屉", "关闭抽屉")[episode]
    pieces = WordPieces.from_instructions(["open the drawer"], tokens=8)
    shared, unknown = _notes(source, encoder=pieces)
    assert shared.startswith("the instructions '关闭抽屉', '打开抽屉' have the same text embedding (of word-pieces)")
    assert unknown.startswith(
        "2 instructions with pieces that word-pieces does not know, the first is '关闭抽屉' ('关'"
    )
    assert _notes(source, encoder=WordPieces.from_instructions(["打开抽屉", "关闭抽屉"], tokens=8)) == []


def test_every_check_has_its_severity_and_cure_in_the_documents() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^### ([a-z-]+)\n\n\*([A-Z][a-z]+)\.\*", text, re.MULTILINE))
    assert {name: severity.lower() for name, severity in documented.items()} == CHECKS


def test_errors_come_first_and_each_names_its_cure() -> None:
    note, error = Finding("constant-dimension", "a"), Finding("image-sizes", "b")
    assert in_order([note, error]) == [error, note]
    assert error.to_json() == {
        "check": "image-sizes",
        "severity": "error",
        "message": "b",
        "cure": "docs/inspect.md#image-sizes",
    }


def test_what_was_looked_at_is_said(source: Any) -> None:
    assert sampling(survey_data(source)) == [
        "instructions: all of 2 episodes",
        "actions: all of 200 steps",
        "images: 64 of 200 steps, evenly spread",
    ]
    moves = np.concatenate(source.moves)
    source.action_spec = ActionSpec(
        parts=(Continuous(name="move", low=tuple(moves.min(axis=0)), high=tuple(moves.max(axis=0))),)
    )
    assert sampling(survey_data(source))[-1].startswith("bounds: the smallest and largest value of the data")
    assert "actions: 100 of 200 steps, evenly spread" in sampling(survey_data(source, SurveyLimits(steps=100)))
