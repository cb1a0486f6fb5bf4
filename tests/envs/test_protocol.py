"""Protocols of task suites by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rt1.envs.metaworld import MetaWorldSuite
from rt1.envs.protocol import protocol_of, protocols_with_trials_of


def test_an_unknown_protocol_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match="did you mean 'metaworld-mt50-b'"):
        protocol_of(MetaWorldSuite(), "metaworld-mt50b")


def test_a_suite_without_protocols_is_refused_by_name(make_suite: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="points has no protocol 'metaworld-mt50-b'"):
        protocol_of(make_suite(), "metaworld-mt50-b")


def test_the_two_protocols_of_meta_world_share_their_trials() -> None:
    both = protocols_with_trials_of(MetaWorldSuite(), "metaworld-mt50-b")
    assert [protocol.name for protocol in both] == ["metaworld-mt50-b", "metaworld-mt50-a"]
