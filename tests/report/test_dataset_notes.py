"""What deserves a look is said in a sentence, and nothing else is."""

from __future__ import annotations

import dataclasses
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
from rt1.report.dataset_notes import notes, sampling, sizes


def _notes(source: Any) -> list[str]:
    return [note.replace("\N{NO-BREAK SPACE}", " ") for note in notes(survey_data(source))]


@pytest.fixture
def source(make_source: Callable[..., Any]) -> Any:
    """Two hundred steps without a flaw, grey images."""
    source = make_source(100, 100, size=(8, 8))
    source.images = [[_image(0)] * 100] * 2
    return source


def _image(blue_minus_red: int) -> bytes:
    return encode_jpeg(np.full((8, 8, 3), (120, 120, 120 + blue_minus_red), np.uint8))


def test_a_good_set_has_no_notes(source: Any) -> None:
    assert _notes(source) == []


def test_an_instruction_with_two_text_embeddings_is_noted(source: Any) -> None:
    embeddings = np.arange(16, dtype=np.float32).reshape(2, 8)
    other = dataclasses.replace(source, lengths=np.array([50, 50, 50, 50]), images=source.images * 2)
    other.moves = [moves[:50] for moves in source.moves] * 2
    assert _notes(other) == []
    object.__setattr__(other, "text_embedding", lambda episode: embeddings[episode // 2])
    (note,) = _notes(other)
    assert note.startswith("text embeddings: 2 instructions with more than one embedding, the first is 'open the dra")


def test_images_that_look_blue_and_are_not_declared_bgr_are_noted(source: Any) -> None:
    source.images = [[_image(20)] * 100, [_image(-20), _image(20)] * 50]
    (note,) = _notes(source)
    assert note.startswith("colors: in 75 % of the sampled images blue exceeds red: red and blue may be exchanged")
    source.images = [[_image(20)] * 100, [_image(-20)] * 100]
    assert _notes(source) == []


def test_images_declared_bgr_that_look_blue_as_such_are_noted(source: Any) -> None:
    source.bgr = True
    source.images = [[_image(20)] * 100] * 2
    assert _notes(source) == []
    source.images = [[_image(-20)] * 100] * 2
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
    source.images[0] = [encode_jpeg(np.full((16, 24, 3), 9, np.uint8))] * 100
    (note,) = _notes(source)
    assert note == "images of 2 sizes: 16 x 24, 8 x 8"
    many = {(side, side): 1 for side in range(1, 9)}
    images = dataclasses.replace(survey_data(source).images, sizes=many)
    assert sizes(images) == "1 x 1, 2 x 2, 3 x 3, 4 x 4, 5 x 5 and 3 more"


def test_empty_sentences_and_what_was_left_out_are_noted(source: Any) -> None:
    source.instruction = lambda episode: " " if episode else "push"
    source.skipped = ("a.tfrecord: torn",)
    assert _notes(source) == [
        "left out as damaged: 1 record, the first: a.tfrecord: torn",
        "empty instruction in 1 of 2 episodes, the first is 1",
    ]


def test_actions_that_are_no_numbers_never_change_or_are_clipped_are_noted(source: Any) -> None:
    source.moves[1][4, 0] = np.nan
    source.moves[0][:2, 1] = 1.25
    for moves in source.moves:
        moves[:, 2] = 1.0
    assert _notes(source) == [
        "NaN or infinite action in 1 of 200 steps, the first is step 4 of episode 1. Leave such steps out",
        "never changes: move_2",
        "move_1: 1 % of the values lie outside -1..1 and will be clipped",
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
