"""Protocols of task suites by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rt1.envs.metaworld import MetaWorldSuite
from rt1.envs.protocol import protocol_of


def test_an_unknown_protocol_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match="did you mean 'metaworld-mt50-b'"):
        protocol_of(MetaWorldSuite(), "metaworld-mt50b")


def test_a_suite_without_protocols_is_refused_by_name(make_suite: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="points has no protocol 'metaworld-mt50-b'"):
        protocol_of(make_suite(), "metaworld-mt50-b")
