"""Windows of an episode through the network: the same as each window by itself, and where they are as streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rt1.data.sources.images import decode_image
from rt1.evaluate.windowed import GROUP, WindowBlock, window_blocks
from rt1.model.rt1 import RT1


def _blocks(model: RT1, source: Any, episode: int) -> list[WindowBlock]:
    return list(window_blocks(model, source, episode, source.text_embedding(episode)))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, GROUP + 2, GROUP + 3, 2 * GROUP + 5])
def test_every_window_gives_the_logits_it_gives_by_itself(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], steps: int
) -> None:
    source, model = make_source(2, steps), make_network(window=3)
    blocks = _blocks(model, source, 1)
    images = np.stack([decode_image(data) for data in source.images[1]])
    text = torch.from_numpy(source.text_embedding(1))[None]
    starts = []
    for block in blocks:
        for row in range(len(block.valid_GT)):
            own = block.step_GT[row][block.valid_GT[row]]
            starts.append(int(own[0]))
            with torch.inference_mode():
                wanted = model.predict(torch.from_numpy(images[own])[None], text)[0]
            found = block.logits_GTAV[row][torch.from_numpy(block.valid_GT[row])]
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4)
            np.testing.assert_array_equal(
                block.token_GTA[row][torch.from_numpy(block.valid_GT[row])].numpy(),
                source.action_spec.encode(source.moves[1][own]),
            )
    assert starts == list(range(max(1, steps - 2)))
    assert blocks[-1].stop == steps


@pytest.mark.parametrize("steps", [1, 2, 3, 4, GROUP + 3, 2 * GROUP + 5])
def test_each_step_is_as_streamed_once_and_each_window_has_one_last_step(
    make_source: Callable[..., Any], make_network: Callable[..., RT1], steps: int
) -> None:
    source, model = make_source(steps), make_network(window=3)
    blocks = _blocks(model, source, 0)
    streamed = np.concatenate([block.step_GT[block.as_streamed()] for block in blocks])
    assert streamed.tolist() == list(range(steps))
    last = np.concatenate([block.step_GT[block.last_steps()] for block in blocks])
    assert last.tolist() == list(range(min(steps, 3) - 1, steps))
    for block in blocks:
        assert (block.last_steps().sum(axis=1) == 1).all()
