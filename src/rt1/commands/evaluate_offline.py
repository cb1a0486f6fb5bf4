"""The command ``rt1 evaluate-offline``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import tyro

from rt1.commands.evaluate import open_source
from rt1.commands.options import DataFormat, ReportFolder, report_folder, text_encoder
from rt1.commands.policy_options import CheckpointPath, EncoderName
from rt1.data.open_data import DataOptions
from rt1.report.offline import PAGE_FILE, OfflineSettings, evaluate_recorded
from rt1.report.provenance import ReportContext
from rt1.report.svg import percent, require_figures


@dataclass(frozen=True, kw_only=True)
class EvaluateOfflineCommand:
    """Compare a policy's actions with recorded episodes, without a simulator, and write a report."""

    checkpoint: CheckpointPath
    data: tuple[str, ...]
    """Recorded episodes, given as for rt1 train: folders (RLDS, an Open X set, LeRobot) or a mixture file."""
    settings: tyro.conf.OmitArgPrefixes[OfflineSettings] = field(default_factory=OfflineSettings)
    """Settings of the evaluation."""
    out: ReportFolder = None
    text_encoder: EncoderName = None
    options: DataFormat = field(default_factory=DataOptions)

    def run(self, command: str) -> int:
        """Compare, print the scores, and write the report. Fail if streaming and windows give different logits."""
        require_figures()
        out = report_folder(self.out, self.checkpoint)
        encoder = text_encoder(self.text_encoder)
        source = open_source(self.data, self.options, self.settings.embodiment)
        context = ReportContext(command=command)
        report = evaluate_recorded(
            self.checkpoint, out, source, settings=self.settings, encoder=encoder, context=context
        )
        result, agreement = report.result, report.result.agreement
        print(f"{result.source}: {result.chosen.reason}")
        if result.without_instruction:
            print(f"{len(result.without_instruction)} episodes without an instruction were skipped")
        for name, scores in result.scores.items():
            values = scores.values()
            share = percent(values["accuracy"])
            print(f"{name:20s}loss {values['loss']:.3f}, {share} of the tokens exact, {scores.steps:,} steps")
        difference = f"largest logit difference {agreement.logit_difference:.2g}, largest logit "
        difference += f"{agreement.largest_logit:.3g}"
        if agreement.holds:
            print(f"streaming and windows agree on {agreement.steps:,} steps: {difference}")
        print(f"report: {out / PAGE_FILE}")
        if not agreement.holds:
            print(f"rt1: streaming and windows DISAGREE ({difference}). Do not trust either", file=sys.stderr)
        return 0 if agreement.holds else 1
