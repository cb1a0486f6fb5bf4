"""How the text reaches the network: vectors, tokens, ids, the null, FiLM and attention."""

from __future__ import annotations

import pytest
import torch

from rt1.model.conditioning import Conditioning, CrossAttention, FiLM, TextConfig, TextInput, conditioner


def _input(config: TextConfig, *, text_width: int, as_tokens: bool = False) -> TextInput:
    torch.manual_seed(0)
    return TextInput(config, text_width=text_width, as_tokens=as_tokens)


def test_a_vector_conditions_as_it_is_with_nothing_to_learn() -> None:
    text_XE = torch.randn(3, 8)
    plain = _input(TextConfig(), text_width=8)
    assert torch.equal(plain(text_XE), text_XE)
    assert list(plain.parameters()) == []


def test_a_vector_is_one_token_where_tokens_are_looked_at() -> None:
    text_XE = torch.randn(3, 8)
    assert torch.equal(_input(TextConfig(), text_width=8, as_tokens=True)(text_XE), text_XE[:, None])


def test_a_vector_of_zeros_is_no_padding() -> None:
    projected = _input(TextConfig(projection=4), text_width=8)
    assert projected.projection is not None
    assert torch.equal(projected(torch.zeros(1, 8))[0], projected.projection.bias)


def test_tokens_are_averaged_without_their_padding() -> None:
    config = TextConfig(tokens=3)
    text = torch.tensor([[1.0, 2.0, 3.0, 6.0, 0.0, 0.0]])
    torch.testing.assert_close(_input(config, text_width=6)(text), torch.tensor([[2.0, 4.0]]))


def test_padding_stays_zero_behind_a_projection() -> None:
    text = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    token_XSW = _input(TextConfig(tokens=2, projection=5), text_width=4, as_tokens=True)(text)
    assert token_XSW.shape == (1, 2, 5)
    assert token_XSW[0, 0].abs().sum() > 0
    assert not token_XSW[0, 1].any()


def test_ids_are_looked_up_in_a_table_that_learns_and_zero_is_padding() -> None:
    table = _input(TextConfig(vocabulary=10, table_width=4), text_width=3)
    assert table.table is not None
    condition = table(torch.tensor([[7.0, 2.0, 0.0]]))
    torch.testing.assert_close(condition[0], (table.table.weight[7] + table.table.weight[2]) / 2)
    condition.sum().backward()
    assert table.table.weight.grad is not None
    assert table.table.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [2, 7]


@pytest.mark.parametrize("as_tokens", [False, True])
def test_the_null_takes_the_place_of_dropped_texts_only_and_learns(*, as_tokens: bool) -> None:
    text = _input(TextConfig(tokens=2, drop=0.5), text_width=6, as_tokens=as_tokens)
    assert text.null_W is not None
    given = torch.randn(3, 6)
    condition = text(given, torch.tensor([False, True, False]))
    kept = text(given)
    torch.testing.assert_close(condition[[0, 2]], kept[[0, 2]])
    torch.testing.assert_close(condition[1].reshape(-1, 3)[0], text.null_W)
    condition.sum().backward()
    torch.testing.assert_close(text.null_W.grad, torch.ones(3))


def test_dropping_is_refused_where_there_is_no_null() -> None:
    with pytest.raises(ValueError, match=r"text\.drop above 0"):
        _input(TextConfig(), text_width=4)(torch.randn(1, 4), torch.tensor([True]))


@pytest.mark.parametrize("kind", ["film", "cross_attention"])
def test_a_new_conditioner_changes_nothing(kind: Conditioning) -> None:
    torch.manual_seed(0)
    layer, map_XCHW, x_BLD = conditioner(kind, 6, 8), torch.randn(2, 8, 3, 5), torch.randn(2, 4, 8)
    text = torch.randn(2, 6) if kind == "film" else torch.randn(2, 3, 6)
    assert torch.equal(layer(map_XCHW, text), map_XCHW)
    assert torch.equal(layer.sequence(x_BLD, text), x_BLD)


def _attention() -> CrossAttention:
    torch.manual_seed(0)
    layer = CrossAttention(6, 8)
    torch.nn.init.normal_(layer.output.weight)
    return layer


def test_attention_does_not_see_padding() -> None:
    layer, x_BLD, text_BSE = _attention(), torch.randn(1, 4, 8), torch.randn(1, 2, 6)
    padded = torch.cat([text_BSE, torch.zeros(1, 5, 6)], dim=1)
    torch.testing.assert_close(layer.sequence(x_BLD, padded), layer.sequence(x_BLD, text_BSE))


def test_attention_tells_the_order_free_set_of_tokens_apart_per_place() -> None:
    layer, text_BSE = _attention(), torch.randn(1, 3, 6)
    x_BLD = torch.randn(1, 4, 8)
    found = layer.sequence(x_BLD, text_BSE) - x_BLD
    assert (found[0, 0] - found[0, 1]).abs().max() > 1e-3
    torch.testing.assert_close(layer.sequence(x_BLD, text_BSE.flip(1)) - x_BLD, found)


def test_a_map_is_conditioned_place_by_place_as_a_sequence() -> None:
    map_XCHW, text_XSE = torch.randn(2, 8, 3, 5), torch.randn(2, 3, 6)
    layer = _attention()
    flat = layer.sequence(map_XCHW.flatten(2).transpose(1, 2), text_XSE).transpose(1, 2)
    torch.testing.assert_close(layer(map_XCHW, text_XSE).flatten(2), flat)
    film = FiLM(6, 8)
    torch.nn.init.normal_(film.multiply.weight)
    torch.nn.init.normal_(film.add.weight)
    text_XE = text_XSE[:, 0]
    flat = film.sequence(map_XCHW.flatten(2).transpose(1, 2), text_XE).transpose(1, 2)
    torch.testing.assert_close(film(map_XCHW, text_XE).flatten(2), flat)


def test_a_width_the_tokens_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"7 entries.*2 tokens"):
        _input(TextConfig(tokens=2), text_width=7)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"vocabulary": -1}, {"drop": 1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        TextConfig(**wrong)
