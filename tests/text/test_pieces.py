"""Pieces that a text encoder does not know, and instructions that it cannot tell apart."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from rt1.errors import DataError
from rt1.text.encoder import TableEncoder
from rt1.text.minilm import MiniLM
from rt1.text.pieces import check_different, encode_known, normalized, shared_vectors
from rt1.text.word_pieces import WordPieces

OPEN, CLOSE = "打开抽屉", "关闭抽屉"


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    try:
        return MiniLM()
    except ValueError as error:
        pytest.skip(f"no MiniLM weights: {error}")


def test_pieces_that_minilm_does_not_know_are_warned_of(minilm: MiniLM) -> None:
    with pytest.warns(UserWarning, match=r"打开抽屉.*1 more.*all-MiniLM-L6-v2.*'打'"):
        first, second = minilm.encode([OPEN, CLOSE])
    assert np.array_equal(first, second)


def test_instructions_in_words_that_are_known_raise_no_warning(minilm: MiniLM) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(minilm.encode(["open the drawer", "Ouvre le tiroir là — s'il te plaît…"])) == 2


@pytest.mark.parametrize(
    ("instruction", "piece"),
    [("open the 🙂", "🙂"), ("pick the cup🍎", "cup🍎"), ("打开 the drawer", "开"), ("ɓɗ ⸘", "⸘")],
)
def test_an_unknown_piece_at_the_robot_is_an_error_that_names_it(minilm: MiniLM, instruction: str, piece: str) -> None:
    with pytest.raises(ValueError, match=f"does not know: .*{piece}"):
        encode_known(minilm, instruction)


def test_an_instruction_that_was_trained_on_reaches_the_robot_with_its_unknown_pieces(minilm: MiniLM) -> None:
    vector = encode_known(minilm, "Open the 🙂", trained=["open the  🙂"])
    with pytest.warns(UserWarning, match="does not know"):
        np.testing.assert_array_equal(vector, minilm.encode(["open the 🙂"])[0])


def test_known_words_reach_the_robot(minilm: MiniLM) -> None:
    np.testing.assert_array_equal(encode_known(minilm, "open the door"), minilm.encode(["open the door"])[0])


def test_word_pieces_of_the_data_know_its_letters_and_no_others() -> None:
    pieces = WordPieces.from_instructions([OPEN, CLOSE], tokens=8)
    first, second = pieces.encode([OPEN, CLOSE])
    assert not np.array_equal(first, second)
    with pytest.raises(ValueError, match=r"'推开抽屉'.*word-pieces.*'推'"):
        encode_known(pieces, "推开抽屉")
    assert encode_known(pieces, "push it").any()


def test_different_instructions_with_one_vector_are_refused_with_their_names(minilm: MiniLM) -> None:
    instructions = [OPEN, "wave", CLOSE]
    with pytest.warns(UserWarning, match="does not know"):
        vectors = minilm.encode(instructions)
    with pytest.raises(DataError, match=f"'{OPEN}', '{CLOSE}'.*all-MiniLM-L6-v2"):
        check_different(instructions, vectors, minilm)


def test_stored_vectors_decide_where_there_is_no_tokenizer() -> None:
    vectors = np.array([[1, 2], [1, 3], [1, 2]], np.float32)
    with pytest.raises(DataError, match=r"'open', 'shut'.*stored"):
        check_different(["open", "push", "shut"], vectors)
    table = TableEncoder({"open": vectors[0], "push": vectors[1]}, "table")
    check_different(["open", "push"], vectors[:2], table)
    np.testing.assert_array_equal(encode_known(table, "push"), vectors[1])


def test_case_blanks_and_stored_form_of_a_letter_make_no_other_instruction() -> None:
    same = ["Open the café door", " open  the\tcafe\u0301 DOOR", ""]
    assert normalized(same[0]) == normalized(same[1])
    assert shared_vectors(same, np.zeros((3, 2), np.float32)) == []


def test_of_many_instructions_a_few_are_named_with_the_count() -> None:
    names = [f"task {number}" for number in range(9)]
    vectors = np.zeros((9, 2), np.float32)
    with pytest.raises(DataError, match=r"'task 4' and 4 more have"):
        check_different(names, vectors)
    vectors[5:] = 1
    with pytest.raises(DataError, match=r"'task 4' \(and 1 more such groups\)"):
        check_different(names, vectors)
