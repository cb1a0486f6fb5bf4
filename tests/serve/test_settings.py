"""Settings of the server: what makes no sense is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rt1.serve.settings import ServerSettings


def test_unless_told_otherwise_only_this_machine_is_served() -> None:
    assert ServerSettings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"max_sessions": 0}, "max_sessions is 0"),
        ({"idle_seconds": float("nan")}, "idle_seconds is nan"),
        ({"batch_wait": -0.001}, "batch_wait is -0.001"),
        ({"host": ""}, "host is ''; it must name an address"),
        ({"host": " "}, "host is ' '; it must name an address"),
        ({"max_message_mb": math.inf}, "max_message_mb is inf"),
        ({"max_message_mb": math.nan}, "max_message_mb is nan"),
        ({"max_message_mb": -1.0}, "max_message_mb is -1"),
        ({"max_memory_mb": math.inf}, "max_memory_mb is inf"),
        ({"max_message_mb": 300.0}, "max_message_mb is 300"),
        ({"port": 70_000}, "port is 70000"),
        ({"private_key": Path("key.pem")}, "key.pem, but no certificate; give both"),
    ],
)
def test_settings_that_make_no_sense_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSettings(**choices)
