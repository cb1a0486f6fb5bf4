"""Several sources as one: whose episode is whose, one action spec, colours put right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from rt1.actions import ActionSpec, Continuous, FloatArray
from rt1.data.sources.base import EpisodeSource
from rt1.data.sources.concat import JoinedSource, MappedSource, origin
from rt1.data.sources.images import decode_image
from rt1.errors import DataError
from rt1.testing import check_source

MakeSource = Callable[..., Any]

TWO = ActionSpec(parts=(Continuous(name="move", low=(-1.0,) * 2, high=(1.0,) * 2),), bins=16)


def _last_two(actions: FloatArray) -> FloatArray:
    return actions[:, 1:].copy()


def test_a_joined_source_keeps_the_protocol(make_source: MakeSource) -> None:
    joined = JoinedSource([make_source(3, 2), make_source(4)])
    assert isinstance(joined, EpisodeSource)
    check_source(joined)


def test_episodes_are_counted_through_the_sources(make_source: MakeSource) -> None:
    one, two = make_source(3, 2), make_source(4)
    two.name = "other"
    joined = JoinedSource([one, two])
    assert joined.name == "memory+other"
    assert joined.lengths.tolist() == [3, 2, 4]
    assert [joined.part(episode) for episode in range(3)] == [(one, 0), (one, 1), (two, 0)]
    assert joined.instruction(1) == one.instruction(1)
    assert joined.task(2) == two.task(0)
    assert joined.encoded_images(2, 1, 3) == two.images[0][1:3]
    np.testing.assert_array_equal(joined.actions(2, 1, 3), two.moves[0][1:3])
    np.testing.assert_array_equal(joined.text_embedding(1), one.text_embedding(1))
    with pytest.raises(IndexError, match=r"episode 3; it has the episodes 0\.\.2"):
        joined.part(3)


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no sources to join"):
        JoinedSource([])


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"bins": 32}, "16 and 32 bins"),
        ({"parts": TWO.parts}, "the dimensions move_0, move_1, move_2 and move_0, move_1"),
        (
            {"parts": (Continuous(name="move", low=(-1.0,) * 3, high=(2.0,) * 3),)},
            r"the bounds -1\.\.1, -1\.\.1, -1\.\.1 and -1\.\.2, -1\.\.2, -1\.\.2",
        ),
    ],
)
def test_sources_with_different_action_specs_are_refused_unless_mapped(
    change: dict[str, Any], difference: str, make_source: MakeSource
) -> None:
    one, two = make_source(3), make_source(3)
    two.name, two.action_spec = "other", dataclasses.replace(two.action_spec, **change)
    with pytest.raises(DataError, match=rf"memory and other .*action specs .*{difference}"):
        JoinedSource([one, two])


def test_a_mapped_source_can_be_joined(make_source: MakeSource) -> None:
    mapped, plain = MappedSource(make_source(3), TWO, _last_two), make_source(4)
    plain.moves, plain.action_spec = [_last_two(plain.moves[0])], TWO
    joined = JoinedSource([mapped, plain])
    np.testing.assert_array_equal(joined.actions(0, 1, 3), make_source(3).moves[0][1:3, 1:])
    assert joined.action_spec == TWO
    check_source(mapped)


def test_a_mapping_of_another_size_is_refused_at_once(make_source: MakeSource) -> None:
    message = r"memory, episode 0: the mapping returned float32 \(1, 3\); it must return float32 \(1, 2\)"
    with pytest.raises(DataError, match=message):
        MappedSource(make_source(3), TWO, lambda actions: actions)


def test_the_origin_lies_below_joining_and_mapping(make_source: MakeSource) -> None:
    inner = make_source(2, 2)
    outer = JoinedSource([make_source(3), MappedSource(JoinedSource([make_source(1), inner]), TWO, _last_two).source])
    assert origin(outer, 3) == (inner, 1)
    assert origin(inner, 1) == (inner, 1)


def test_images_of_a_blue_first_source_come_out_red_first(make_source: MakeSource) -> None:
    plain, swapped = make_source(2), make_source(2)
    swapped.bgr = True
    joined = JoinedSource([plain, MappedSource(swapped, swapped.action_spec, lambda actions: actions)])
    as_stored = decode_image(plain.images[0][1])
    np.testing.assert_array_equal(joined.images(0, 1, 2)[0], as_stored)
    np.testing.assert_array_equal(joined.images(1, 1, 2)[0], cv2.cvtColor(as_stored, cv2.COLOR_BGR2RGB))


def test_embeddings_of_different_encoders_are_not_mixed(make_source: MakeSource) -> None:
    one, two = make_source(3), make_source(3)
    one.text_encoder = two.text_encoder = {"name": "same"}
    assert JoinedSource([one, two]).text_encoder == {"name": "same"}
    two.text_encoder = {"name": "another"}
    joined = JoinedSource([one, two])
    assert joined.text_encoder is None
    with pytest.raises(DataError, match=r"memory\+memory .*encoders"):
        joined.text_embedding(0)
