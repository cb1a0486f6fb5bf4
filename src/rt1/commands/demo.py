"""The command ``rt1 demo``."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from rt1.commands.demo_pipeline import DemoSettings, run_demo, summary
from rt1.report.svg import require_figures


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Record, train, evaluate and report in a simulator in one go. Run it again to reuse finished stages."""

    demo: tyro.conf.OmitArgPrefixes[DemoSettings] = field(default_factory=DemoSettings)
    """Settings of the demo."""

    def run(self, command: str) -> int:
        """Run the demo."""
        require_figures()
        print(summary(run_demo(self.demo, command=command)))
        return 0
