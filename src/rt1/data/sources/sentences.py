"""The instruction in a stored text: the text itself, or the sentence in a JSON text."""

from __future__ import annotations

from typing import Any

from rt1.common.json_files import parse
from rt1.errors import DataError

SENTENCE_KEYS = ("language_instruction", "instruction", "lang", "language", "task")
"""Keys of a JSON object that hold its sentence. The first one that the object has is read."""

_JSON_STARTS = ("{", "[", '"')


def sentence_of(text: str) -> str:
    """Return the instruction in a stored text.

    A text that is no JSON is the instruction. Of a JSON object it is the value of the first key of ``SENTENCE_KEYS``,
    of a list its first entry. Other JSON raises :class:`DataError`.

    >>> sentence_of('{"layout_id": 3, "lang": "open the drawer"}')
    'open the drawer'
    """
    if not text.lstrip().startswith(_JSON_STARTS):
        return text
    try:
        value = parse(text, name="the instruction")
    except DataError:  # a sentence that begins with a bracket
        return text
    return _sentence_in(value, text)


def _sentence_in(value: Any, text: str) -> str:  # noqa: ANN401 (JSON)
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        key = next((key for key in SENTENCE_KEYS if key in value), None)
        return _sentence_in(value[key], text) if key else _refuse(text)
    return value if isinstance(value, str) else _refuse(text)


def _refuse(text: str) -> str:
    keys = ", ".join(SENTENCE_KEYS)
    rule = f"It must have one of the keys {keys}. Name another instruction_key"
    raise DataError(f"the instruction is JSON without a sentence ({text[:60]!r}). {rule}")
