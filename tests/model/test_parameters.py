"""Counting parameters."""

from __future__ import annotations

import torch

from rt1.model.parameters import parameter_counts
from rt1.model.rt1 import RT1, RT1Config


def test_the_parameters_are_counted_as_in_the_paper() -> None:
    with torch.device("meta"):
        counts = parameter_counts(RT1(RT1Config()))
    assert counts == {
        "efficientnet": 10_696_232,
        "block_films": 3_701_808,
        "projection": 786_432,
        "last_film": 525_312,
        "token_learner": 34_376,
        "transformer": 19_376_384,
        "total": 35_120_544,
    }
