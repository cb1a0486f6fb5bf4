"""Word pieces made of the data's instructions."""

from __future__ import annotations

import numpy as np
import pytest

from rt1.text.encoder import TextEncoder, TextEncoderIdentity
from rt1.text.load import load_identified, load_text_encoder
from rt1.text.word_pieces import WordPieces

SENTENCES = ["open the drawer", "close the drawer", "open the window", "close the door", "pick the apple"]


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return WordPieces.from_instructions(SENTENCES, tokens=8)


def test_words_of_the_data_are_single_pieces_and_the_rest_is_padding(pieces: WordPieces) -> None:
    (row,) = pieces.encode(["open the drawer"])
    assert row.dtype == np.float32
    assert row.shape == (8,)
    assert (row[:3] > 0).all()
    assert not row[3:].any()
    assert isinstance(pieces, TextEncoder)


def test_sentences_share_the_ids_of_their_common_words(pieces: WordPieces) -> None:
    opened, closed = pieces.encode(["open the drawer", "Close the drawer"])
    assert opened[0] != closed[0]
    assert opened[1:].tolist() == closed[1:].tolist()


def test_an_unknown_word_is_spelled_not_lost(pieces: WordPieces) -> None:
    known, other, third = pieces.encode(["open the drawer", "open the box", "open the cup"])
    assert other[:2].tolist() == known[:2].tolist()
    assert other[2:].tolist() != third[2:].tolist()
    assert 1 not in other  # the id of what cannot even be spelled


def test_of_too_many_words_the_rare_ones_are_spelled() -> None:
    small = WordPieces.from_instructions(SENTENCES, size=84, tokens=32)
    assert small.vocabulary == 84
    lengths = {word: int((row > 0).sum()) for word in ("the", "close", "pick") for row in small.encode([word])}
    assert lengths == {"the": 1, "close": 1, "pick": 4}


def test_a_letter_outside_the_alphabet_is_the_unknown_piece(pieces: WordPieces) -> None:
    with pytest.warns(UserWarning, match="word-pieces does not know: '\u6249'"):
        assert 1 in pieces.encode(["open the \u6249"])[0]


def test_the_order_of_the_instructions_does_not_matter() -> None:
    again = WordPieces.from_instructions(SENTENCES[::-1] * 2, tokens=8)
    assert again.identity == WordPieces.from_instructions(SENTENCES, tokens=8).identity


def test_the_identity_brings_the_encoder_along(pieces: WordPieces) -> None:
    identity = TextEncoderIdentity.from_json(pieces.identity.to_json())
    found = load_identified(identity)
    assert found.identity == pieces.identity
    np.testing.assert_array_equal(found.encode(SENTENCES), pieces.encode(SENTENCES))


def test_an_altered_definition_is_refused(pieces: WordPieces) -> None:
    data = pieces.identity.to_json()
    data["definition"] = data["definition"].replace("drawer", "drawes")
    with pytest.raises(ValueError, match=r"needed.*Vectors of two encoders"):
        load_identified(TextEncoderIdentity.from_json(data))
    with pytest.raises(ValueError, match="definition of word pieces is not JSON"):
        WordPieces("{", tokens=8)


def test_too_long_and_empty_instructions_are_refused(pieces: WordPieces) -> None:
    with pytest.raises(ValueError, match=r"9 word pieces.*[Aa]t most 8.*word-pieces:tokens=9"):
        pieces.encode(["the the the the the the the the the"])
    with pytest.raises(ValueError, match="must say something"):
        pieces.encode([" "])


def test_they_can_only_be_made_of_instructions() -> None:
    with pytest.raises(ValueError, match="made of the instructions"):
        load_text_encoder("word-pieces")
    assert load_text_encoder("word-pieces", instructions=SENTENCES).identity.vocabulary > 50


def test_how_many_fit_can_be_chosen_and_travels_with_the_identity() -> None:
    found = load_text_encoder("word-pieces:tokens=40", instructions=SENTENCES)
    assert found.identity.width == 40
    assert load_identified(found.identity).encode(["the " * 40]).all()
    with pytest.raises(ValueError, match=r"'0' tokens.*at least 2"):
        load_text_encoder("word-pieces:tokens=0", instructions=SENTENCES)
