"""What the adapters of plain arrays share: order of names, sentences in every form."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.data.arrays.base import ArrayLayout, natural_order, text_of


@pytest.mark.parametrize(
    "value", ["pick", b"pick", np.array("pick"), np.array([b"pick", b"no"]), np.array(["pick"], dtype=object)]
)
def test_a_sentence_is_read_in_every_form_it_is_stored(value: object) -> None:
    assert text_of(value) == "pick"


def test_numbers_in_names_count() -> None:
    assert sorted(["10", "a2", "9", "a10", "a"], key=natural_order) == ["9", "10", "a", "a2", "a10"]


@pytest.mark.parametrize(("key", "sentence"), [(None, ""), (None, " ")])
def test_a_layout_names_a_key_or_one_sentence(key: str | None, sentence: str) -> None:
    with pytest.raises(ValueError, match="key of the instruction"):
        ArrayLayout(instruction_key=key, instruction=sentence)
