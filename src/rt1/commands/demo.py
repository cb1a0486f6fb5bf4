"""The command ``rt1 demo``."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from rt1.commands.demo_pipeline import DemoSettings, run_demo, summary


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Record, train, evaluate and report in a simulator in one go; run again to reuse what is done."""

    demo: tyro.conf.OmitArgPrefixes[DemoSettings] = field(default_factory=DemoSettings)
    """What the demo does."""

    def run(self, command: str) -> int:
        """Run the demo."""
        print(summary(run_demo(self.demo, command=command)))
        return 0
