"""The command ``rt1 evaluate-offline``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from rt1.checkpoint import RUN_ORDER, resolve
from rt1.commands.evaluate import open_source
from rt1.commands.options import DataFormat, report_folder
from rt1.common.folders import check_folder
from rt1.common.json_config import MOST_EPISODES, check_at_least, check_between
from rt1.data.open_data import DataOptions
from rt1.evaluate.episode_choice import EpisodeChoice
from rt1.report.offline import JSON_FILE, PAGE_FILE
from rt1.report.provenance import ReportContext
from rt1.report.run_offline import OfflineSettings, evaluate_recorded
from rt1.report.svg import percent, require_figures
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class EvaluateOfflineCommand:
    """Compare a policy's actions with recorded episodes, without a simulator, and write a report."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint or run folder."""
    data: tuple[str, ...]
    """Recorded episodes, given as for rt1 train: folders (RLDS, an Open X set, LeRobot) or a mixture file."""
    episodes: EpisodeChoice | None = None
    """Episodes to evaluate: held-out, all, or a number. Default: those held out from the training of this checkpoint,
    or all if it was trained on other data."""
    plots: int = 4
    """Number of episodes whose actions, images and attention the report shows."""
    out: Path | None = None
    """Folder of the report. Default: evaluation-last/ in the run folder, or evaluation/ in the checkpoint folder."""
    text_encoder: str | None = None
    """Text encoder: minilm, a table file, or an .onnx file. Default: the one that the checkpoint names."""
    embodiment: str | None = None
    """Embodiment that acts. Required if the checkpoint has several."""
    cond_scale: float = 1.0
    """Guidance scale. Above 1 the instruction counts more, 0 ignores it. It needs a network trained with text.drop."""
    options: DataFormat = field(default_factory=DataOptions)
    """How to read a data set that does not describe itself."""

    def __post_init__(self) -> None:
        check_between(self, 0, MOST_EPISODES, "plots")
        check_between(self, 0, 1000, "cond_scale")
        if isinstance(self.episodes, int):
            check_at_least(self, 1, "episodes")

    def run(self, command: str) -> int:
        """Compare, print the scores, and write the report. Fail if streaming and windows give different logits."""
        require_figures()
        out = self.out or report_folder(resolve(self.checkpoint))
        check_folder(out, ours=("results.json", JSON_FILE, *RUN_ORDER))
        encoder = None if self.text_encoder is None else load_text_encoder(self.text_encoder)
        report = evaluate_recorded(
            self.checkpoint,
            out,
            open_source(self.data, self.options, self.embodiment),
            settings=OfflineSettings(
                episodes=self.episodes, shown=self.plots, cond_scale=self.cond_scale, embodiment=self.embodiment
            ),
            encoder=encoder,
            context=ReportContext(command=command),
        )
        result, agreement = report.result, report.result.agreement
        print(f"{result.source}: {result.chosen.reason}")
        if result.without_instruction:
            print(f"{len(result.without_instruction)} episodes without an instruction were skipped")
        for name, scores in (
            ("streaming", result.streaming),
            ("windows, last steps", result.window_last),
            ("windows, all steps", result.window_all),
        ):
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
