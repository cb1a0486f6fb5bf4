"""The sentence in a stored text."""

from __future__ import annotations

import pytest

from rt1.data.sources.sentences import sentence_of
from rt1.errors import DataError


@pytest.mark.parametrize(
    "text", ["open the drawer", "[first] open the drawer", '"red" block into the bowl', "{unfinished", " {"]
)
def test_a_text_that_is_no_json_is_the_instruction(text: str) -> None:
    assert sentence_of(text) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"layout_id": 3, "lang": "open the drawer"}',
        '{"problem_name": "kitchen", "language_instruction": ["open the drawer"]}',
        '["open the drawer", "pull the handle"]',
        '"open the drawer"',
        ' {"task": {"language": "open the drawer"}}',
    ],
)
def test_the_sentence_of_a_json_text_is_taken_out(text: str) -> None:
    assert sentence_of(text) == "open the drawer"


@pytest.mark.parametrize("text", ['{"layout_id": 3}', "[]", '{"lang": 3}', '[{"lang": null}]', "[1, 2]"])
def test_json_without_a_sentence_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"JSON .*language_instruction"):
        sentence_of(text)
