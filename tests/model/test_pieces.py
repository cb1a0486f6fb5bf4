"""Cutting maps into pieces and sharing these out: everything once, whatever the cache and the threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rt1.model import pieces
from rt1.model.pieces import DepthwiseShape, Piece, images, share_out

SHAPES = [DepthwiseShape((1, 1, 1, 1), 1, 3), DepthwiseShape((1, 2, 1, 2), 2, 5), DepthwiseShape((0, 1, 0, 1), 2, 3)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch use two threads during a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("cache", [1, 3_000, 1 << 30])
@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_have_every_output_once_and_the_inputs_behind_it(
    cache: int, shape: DepthwiseShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "CACHE_BYTES", cache)
    x = torch.randn(3, 4, 11, 13)
    height, width = shape.size(11, 13)
    seen = torch.zeros(3, 1, height, width)
    for piece in pieces.pieces(x, 8, shape):
        piece.output(seen).add_(1)
        left, right, top, bottom = piece.padding
        size = shape._replace(padding=(left, right, top, bottom)).size(*piece.input(x).shape[2:])
        assert size == piece.output(seen).shape[2:]
    assert (seen == 1).all()


def test_a_small_cache_cuts_images_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CACHE_BYTES", 2 * 4 * 8 * 8 * 4)
    assert images(torch.zeros(5, 4, 8, 8)) == [slice(0, 2), slice(2, 4), slice(4, 5)]


@pytest.mark.usefixtures("two_threads")
def test_two_threads_add_up_what_one_does_and_leave_torchs_threads_alone() -> None:
    cut = images(torch.zeros(5, 1, 1000, 1000))
    total, threads = torch.zeros(1), list[int]()

    def work(some: slice, total: torch.Tensor) -> None:
        threads.append(torch.get_num_threads())
        assert not torch.is_grad_enabled()
        total.add_(some.start + 1)

    share_out(cut, work, (total,))
    assert total.item() == 1 + 2 + 3 + 4 + 5
    assert threads == [1] * 5
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_pieces_of_one_image_are_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CACHE_BYTES", 1000)
    x, order = torch.zeros(4, 4, 9, 9), dict[int, list[int]]()

    def work(piece: Piece) -> None:
        order.setdefault(piece.images.start, []).append(piece.number)

    cut = pieces.pieces(x, 16, SHAPES[0])
    share_out(cut, work)
    assert sum(len(numbers) for numbers in order.values()) == len(cut)
    assert len(order) == 4
    assert all(numbers == sorted(numbers) for numbers in order.values())


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_is_raised() -> None:
    def work(_: slice) -> None:
        raise ArithmeticError("of a piece")

    with pytest.raises(ArithmeticError, match="of a piece"):
        share_out([slice(0, 1), slice(1, 2)], work)
