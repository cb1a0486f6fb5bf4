"""How the settings and the data of a run differ from those it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HARMLESS = {
    "activations",
    "closed_loop.every",
    "closed_loop.workers",
    "compile",
    "device",
    "keep_every",
    "keep_last",
    "loader_threads",
    "log.entity",
    "log.project",
    "log.tensorboard",
    "log.wandb",
    "log_every",
    "name",
    "save_every",
    "threads",
    "validate_every",
}
"""Settings that do not change the losses, but for rounding."""

_LONGEST = 400
"""Characters that are shown of a difference; a damaged file may hold names and values of any length."""


RENAMED = {"clip": "windows_per_clip"}
"""Setting of an earlier version -> its name."""


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``name: value then, value now`` for all that differs and is not harmless."""
    plain_old, plain_new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    plain_old = {RENAMED.get(name, name): value for name, value in plain_old.items()}
    texts = _differences(plain_old, plain_new, "")
    return [f"{' '.join(text.splitlines()):.{_LONGEST}}" for text in texts if text.split(":")[0] not in HARMLESS]


def _differences(old: object, new: object, name: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    return [] if old == new else [f"{name}: {old} then, {new} now"]
