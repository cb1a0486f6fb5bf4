from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rt1.text.encoder import (
    USE_LARGE_5,
    TableEncoder,
    TextEncoder,
    TextEncoderIdentity,
    check_instructions,
    check_same_encoder,
)

SENTENCES = (
    "open the drawer",
    "close the drawer",
    "pick up the apple",
    "wipe the table",
    "öffne die Schublade",
)


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def some_vectors() -> dict[str, NDArray[np.float32]]:
    return {sentence: vector(i, -i, 0.1) for i, sentence in enumerate(SENTENCES)}


def test_a_table_gives_its_vectors_in_the_order_asked() -> None:
    table = TableEncoder(some_vectors(), "use")
    encoded = table.encode(["pick up the apple", "open the drawer", "pick up the apple"])
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, [vector(2, -2, 0.1), vector(0, 0, 0.1), vector(2, -2, 0.1)])
    assert table.encode([]).shape == (0, 3)
    assert isinstance(table, TextEncoder)


def test_changing_a_given_or_returned_vector_does_not_change_the_table() -> None:
    given_vectors = some_vectors()
    table = TableEncoder(given_vectors, "use")
    given_vectors["open the drawer"][:] = 9
    table.encode(["open the drawer"])[:] = 9
    np.testing.assert_array_equal(table.encode(["open the drawer"]), [vector(0, 0, 0.1)])


@settings(deadline=None, max_examples=25)  # every example syncs a file to disk
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
        min_size=1,
        max_size=5,
    )
)
def test_a_saved_table_loads_with_the_same_identity_and_vectors(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, list[float]]
) -> None:
    table = TableEncoder({sentence: vector(*values) for sentence, values in content.items()}, "use")
    path = tmp_path_factory.mktemp("table") / "table.safetensors"
    table.save(path)
    loaded = TableEncoder.load(path)
    assert loaded.identity == table.identity
    assert loaded.sentences == table.sentences
    np.testing.assert_array_equal(loaded.encode(loaded.sentences), table.encode(table.sentences))


def test_the_same_table_is_the_same_file_whatever_the_order_of_its_sentences(tmp_path: Path) -> None:
    vectors = some_vectors()
    TableEncoder(vectors, "use").save(tmp_path / "a")
    TableEncoder(dict(reversed(vectors.items())), "use").save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_vector_or_another_sentence_is_another_identity() -> None:
    vectors = some_vectors()
    identities = {
        TableEncoder(vectors, "use").identity,
        TableEncoder(vectors | {"wipe the table": vector(0, 0, 1)}, "use").identity,
        TableEncoder(vectors | {"wipe the floor": vector(0, 0, 1)}, "use").identity,
        TableEncoder(vectors, "other").identity,
    }
    assert len(identities) == 4


def test_an_unknown_sentence_is_refused_with_the_closest_ones() -> None:
    table = TableEncoder(some_vectors(), "use")
    with pytest.raises(ValueError, match="did you mean 'open the drawer'") as caught:
        table.encode(["close the drawer", "open the drawers"])
    assert "close the drawer" in str(caught.value)
    assert "in text table 'use'. Only the table's sentences can be encoded" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"{len(SENTENCES) - 3} more"):
        table.encode(["zzz"])


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_a_blank_instruction_is_refused_with_its_index(blank: str) -> None:
    with pytest.raises(ValueError, match="instruction 1 is"):
        TableEncoder(some_vectors(), "use").encode(["open the drawer", blank])
    with pytest.raises(ValueError, match="instruction 0 is"):
        TableEncoder({blank: vector(1)}, "use")


def test_a_string_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match="Give a list"):
        check_instructions("open the drawer")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "All must be one"),
        ({"a": vector(1, 2), "b": vector(1)}, r"shapes \[\(1,\), \(2,\)\]"),
        ({"a": np.zeros((1, 2), np.float32)}, r"shapes \[\(1, 2\)\]"),
        ({"a": vector()}, r"shapes \[\(0,\)\]"),
        ({"a": vector(1, np.nan)}, "'a' is not finite"),
    ],
)
def test_vectors_that_make_no_table_are_refused(vectors: dict[str, NDArray[np.float32]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableEncoder(vectors, "use")


def test_pairs_may_repeat_a_sentence_only_with_the_same_vector() -> None:
    pairs = [("open", vector(1, 2)), ("close", vector(3, 4)), ("open", vector(1, 2))]
    assert TableEncoder.from_pairs(pairs, "use").sentences == ("close", "open")
    with pytest.raises(ValueError, match=r"'open' .*different vectors"):
        TableEncoder.from_pairs([*pairs, ("open", vector(1, 2.5))], "use")


def about(sentences: list[str]) -> dict[str, str]:
    return {"rt1_text_table": json.dumps({"name": "use", "sentences": sentences})}


def test_a_table_file_with_conflicting_vectors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    save_file({"vectors": np.eye(2, dtype=np.float32)}, path, metadata=about(["open", "open"]))
    with pytest.raises(ValueError, match="two different vectors"):
        TableEncoder.load(path)


@pytest.mark.parametrize("metadata", [None, about(["open"]), about(["a", "b", "c"]), {"rt1_text_table": "{"}])
def test_a_safetensors_file_that_is_no_table_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "table.safetensors"
    save_file({"vectors": np.eye(2, dtype=np.float32)}, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"table\.safetensors.* text table"):
        TableEncoder.load(path)


def test_a_truncated_table_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    TableEncoder(some_vectors(), "use").save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="text table"):
        TableEncoder.load(path)


def test_an_identity_survives_json() -> None:
    identity = TextEncoderIdentity(name="use", sha256="ab" * 32, width=512)
    assert TextEncoderIdentity.from_json(json.loads(json.dumps(identity.to_json()))) == identity
    with pytest.raises(ValueError, match=r"lacks .*sha256"):
        TextEncoderIdentity.from_json({"name": "use", "width": 512})


def test_an_encoder_other_than_the_wanted_one_is_refused_in_one_line() -> None:
    wanted = TextEncoderIdentity(name="use", sha256="ab" * 32, width=512)
    check_same_encoder(wanted, TextEncoderIdentity(**wanted.to_json()))
    for change in ({"name": "minilm"}, {"sha256": "cd" * 32}, {"width": 384}):
        other = TextEncoderIdentity(**(wanted.to_json() | change))
        with pytest.raises(ValueError, match=r"\(sha256 .*'use' \(sha256 abab") as caught:
            check_same_encoder(wanted, other)
        assert "\n" not in str(caught.value)


def test_where_the_wanted_weights_are_not_known_name_and_width_decide() -> None:
    for sha256 in ("", "ab" * 32):
        check_same_encoder(USE_LARGE_5, TextEncoderIdentity(**(USE_LARGE_5.to_json() | {"sha256": sha256})))
    for change in ({"name": "minilm"}, {"width": 384}):
        given = TextEncoderIdentity(**(USE_LARGE_5.to_json() | {"sha256": "ab" * 32} | change))
        with pytest.raises(ValueError, match=r"large/5' \(weights not known, width 512\) .*needed"):
            check_same_encoder(USE_LARGE_5, given)
    known = TextEncoderIdentity(name=USE_LARGE_5.name, sha256="ab" * 32, width=512)
    with pytest.raises(ValueError, match=r"weights not known.*abab.*needed"):
        check_same_encoder(known, USE_LARGE_5)


def test_a_table_is_taken_for_google_s_encoder_if_its_user_calls_it_so() -> None:
    vectors = {"open the drawer": np.ones(512, np.float32)}
    check_same_encoder(USE_LARGE_5, TableEncoder(vectors, USE_LARGE_5.name).identity)
    with pytest.raises(ValueError, match="the text encoder is 'mine'"):
        check_same_encoder(USE_LARGE_5, TableEncoder(vectors, "mine").identity)
