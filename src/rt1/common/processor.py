"""The processor: its name, and what it can do."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Return the processor's name."""
    return _field("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Return the names of its instruction sets, or that of its architecture where the system lists none."""
    return _field("flags") or _field("Features") or platform.machine()


def _field(name: str) -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    return ""
