"""Text embeddings by sentence."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from rt1.text.embeddings import SentenceEmbeddings
from rt1.text.encoder import TableEncoder

ENCODER = TableEncoder({"go": np.ones(3), "stop": np.zeros(3) + 0.5}, "table")


def test_listed_sentences_are_encoded_and_others_only_where_they_may_come() -> None:
    closed = SentenceEmbeddings(["go", "go"], ENCODER)
    np.testing.assert_array_equal(closed["go"], ENCODER.encode(["go"])[0])
    with pytest.raises(ValueError, match="'stop'"):
        closed["stop"]
    np.testing.assert_array_equal(SentenceEmbeddings([], ENCODER, more=True)["stop"], ENCODER.encode(["stop"])[0])


def test_they_go_to_other_processes() -> None:
    again = pickle.loads(pickle.dumps(SentenceEmbeddings(["go"], ENCODER, more=True)))
    assert list(again) == ["go"]
    np.testing.assert_array_equal(again["stop"], ENCODER.encode(["stop"])[0])
