"""The command ``rt1 envs``."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import tyro

from rt1.envs.protocol import protocols_of
from rt1.envs.registry import listed_suites, suite_of


@dataclass(frozen=True, kw_only=True)
class EnvsCommand:
    """List the environments that other commands take as --env, with their tasks."""

    name: tyro.conf.Positional[str | None] = None
    """Environment whose tasks are listed one per line with their instructions. Default: all environments."""

    def run(self, _command: str) -> int:
        """Print the names."""
        if self.name is not None:
            suite = suite_of({}, self.name)
            for task in suite.tasks:
                print(f"{task:32s}{'; '.join(suite.sentences(task)) or 'known after reset only'}")
            for protocol in protocols_of(suite):
                print(f"--protocol {protocol}")
            return 0
        for form, content in listed_suites().items():
            print(form)
            print(textwrap.indent(textwrap.fill(content, 110, break_on_hyphens=False), "    "))
        return 0
