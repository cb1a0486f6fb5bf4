"""From a network with a head for each embodiment to the plain network of one of them."""

from __future__ import annotations

from dataclasses import replace

from rt1.model.rt1 import RT1

POSITIONS = "transformer.position_LD"
OUTPUT = "transformer.output."
"""What the names of the output layer's parameters begin with; a head's have its number behind."""


def single_head(model: RT1, head: int) -> RT1:
    """Return the network of one embodiment: the trunk and its head, without the other heads and longer actions' tokens.

    It gives what ``model`` gives for samples of this head, up to the rounding of float32.

    Args:
        model: a network with ``heads``; it is left as it is, the tensors are copied.
        head: number of the head.
    """
    config = model.config
    if not 0 <= head < len(config.heads):
        raise ValueError(f"head {head} was asked for; this network has {len(config.heads)} heads, counted from 0")
    plain = RT1(replace(config, heads=(), action_tokens=config.heads[head]))
    theirs = model.state_dict()
    position_TSD = theirs[POSITIONS].unflatten(0, (config.window, config.step_tokens))
    # The image tokens of a step come first, then its action tokens in order.
    theirs[POSITIONS] = position_TSD[:, : plain.config.step_tokens].flatten(0, 1)
    plain.load_state_dict({name: theirs[name.replace(OUTPUT, f"{OUTPUT}{head}.")] for name in plain.state_dict()})
    return plain.train(model.training)
