"""The command ``rt1 inspect``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from rt1.checkpoint import EXPORT_FILE, INFO_FILE, RUN_ORDER
from rt1.commands.options import DataFormat, EnvOptions
from rt1.commands.policy_options import EmbodimentName
from rt1.common.files import check_replaceable
from rt1.common.json_config import check_at_least
from rt1.common.suggest import unknown_name
from rt1.data.arrays.huggingface_files import HUB_PREFIX
from rt1.data.compare import Comparison, Difference, compare
from rt1.data.lerobot import check_files
from rt1.data.lerobot import schema as lerobot
from rt1.data.open_data import DataOptions, open_data
from rt1.data.sources.base import EpisodeSource, all_instructions, optional_members
from rt1.data.survey import DataSurvey, show_episode, survey_data
from rt1.data.target import Target, environment_target, sentences_of, target_differences
from rt1.envs.registry import EnvSettings, is_environment, known_suites, tasks_of
from rt1.errors import CheckpointError, DataError, RenderingError, first_line
from rt1.evaluate.rerun_file import check_rerun_target, recorded_episode, write_rerun
from rt1.hub.names import dataset_path, policy_path, shipped_names
from rt1.policy.base import recorded_size
from rt1.policy.open import describe
from rt1.report.dataset import write_page
from rt1.report.dataset_checks import Finding, findings, in_order
from rt1.report.dataset_terminal import checkpoint_text, data_text
from rt1.report.svg import require_figures
from rt1.simulate.sample import SampledEpisodes, sample_tasks
from rt1.text.encoder import TextEncoder
from rt1.text.load import load_text_encoder


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Show the contents of a checkpoint or a data set."""

    path: tyro.conf.Positional[Path]
    """Checkpoint, run or data folder, the name of a policy, or hf://datasets/USER/NAME."""
    out: Path | None = None
    """HTML file to write, with histograms and images of a data set. Default: none."""
    rerun: Path | None = None
    """New .rrd file for the Rerun viewer, with all images and actions of that episode (rt1[viz]). Default: none."""
    episode: int | None = None
    """Number of the episode that the page shows. Default: one of median length."""
    against: str | None = None
    """Another data set, or an environment that rt1 envs lists: images that are likely turned or swapped in color are
    named, and actions that are likely opposite in sign. The page shows both. Or a checkpoint. Of an environment and
    a checkpoint, dimensions and bounds of the action, rate, image size and instructions are compared."""
    embodiment: EmbodimentName = None
    text_encoder: str | None = None
    """Text encoder to check the instructions with. Default: the stored text embeddings, or minilm where none are stored
    and it is installed."""
    json: bool = False
    """Print the checks as JSON. docs/inspect.md has the cure of each."""
    strict: bool = False
    """End with exit status 1 if a check finds an error."""
    data: DataFormat = field(default_factory=DataOptions)
    other: Annotated[DataOptions, tyro.conf.arg(name="other")] = field(default_factory=DataOptions)
    """How to read the other data set."""
    env: EnvOptions = field(default_factory=EnvSettings)

    def __post_init__(self) -> None:
        check_at_least(self, 0, "episode")
        if self.against is not None and self.env.env is not None:
            raise ValueError(f"--against is {self.against} and --env is {self.env.env}. Give one of them")

    def run(self, command: str) -> int:
        """Print the contents, and write the page."""
        try:
            if _is_policy(self.path):
                return self._inspect_policy()
            if self.out is not None:
                require_figures()
                check_replaceable(self.out, suffix=".html")  # before the data are read
            check_rerun_target(self.rerun)
            return self._inspect_data(command)
        except (DataError, CheckpointError) as error:
            if not self.json:
                raise
            print(_json({"data": str(self.path)}, [Finding("unreadable", str(error))]))
            return 1

    def _inspect_policy(self) -> int:
        options = {
            "out": self.out,
            "rerun": self.rerun,
            "against": self.against,
            "env": self.env.env,
            "json": self.json or None,
        }
        if unusable := [f"--{name}" for name, value in options.items() if value is not None]:
            raise ValueError(f"{self.path} is a checkpoint, which has no page or checks. Remove {unusable[0]}")
        print(checkpoint_text(self.path))
        return 0

    def _inspect_data(self, command: str) -> int:
        source = open_data(self.path, self.data)
        survey = survey_data(source, encoder=self._encoder(source))
        comparison, differences = self._compared(source, self.against or self.env.env)
        found = self._findings(survey, differences)
        if self.json:
            facts = {"data": survey.name, "episodes": len(survey.lengths), "steps": survey.steps}
            print(_json(facts, found))
        else:
            print(data_text(survey, found))
            if other := self.against or self.env.env:
                print(f"differences from {other}: {len(differences) or 'none'}")
        if self.out is not None:
            shown = show_episode(source, self.episode)
            write_page(self.out, survey, shown, findings=found, comparison=comparison, command=command)
        if self.rerun is not None:
            number = show_episode(source, self.episode, images=1).episode
            write_rerun(self.rerun, source.name, [recorded_episode(source, number)])
        if not self.json:
            print("histograms and images: add --out PAGE.html" if self.out is None else f"page: {self.out}")
        return int(self.strict and any(finding.severity == "error" for finding in found))

    def _compared(self, source: EpisodeSource, name: str | None) -> tuple[Comparison | None, list[Difference]]:
        """Return the comparison with a data set or an environment, if there are images, and what differs."""
        if name is None:
            return None, []
        if self.env.env is None and not is_environment(name):
            is_here = Path(name).exists() or name in shipped_names() or name.startswith(HUB_PREFIX)
            if not is_here:
                raise DataError(f"{name} is no file or folder, and {unknown_name('environment', name, known_suites())}")
            if not name.startswith(HUB_PREFIX) and _is_policy(Path(name)):
                return None, target_differences(source, _policy_target(name, self.embodiment))
            comparison = compare(source, open_data(Path(name), self.other))
            return comparison, list(comparison.differences)
        suite = replace(self.env, env=name).suite_of(optional_members(source).details)
        tasks = sample_tasks(suite, source)
        differences = target_differences(source, environment_target(suite, tasks[0]))
        try:
            episodes = SampledEpisodes(suite, tasks)
        except RenderingError as error:
            warnings.warn(f"the images of {name} are not compared: {first_line(error)}", stacklevel=2)
            return None, differences
        comparison = compare(source, episodes, actions=episodes.has_experts)
        return comparison, list(dict.fromkeys([*comparison.differences, *differences]))

    def _findings(self, survey: DataSurvey, differences: Sequence[Difference]) -> list[Finding]:
        folder = dataset_path(self.path)
        is_lerobot = (folder / lerobot.INFO_FILE).is_file()
        pairs = [*(check_files.file_problems(folder) if is_lerobot else []), *differences]
        return in_order([*findings(survey), *(Finding(check, message) for check, message in pairs)])

    def _encoder(self, source: EpisodeSource) -> TextEncoder | None:
        """Return the text encoder that is named, or MiniLM where the data have no text embeddings and it is there."""
        if self.text_encoder is not None:
            return load_text_encoder(self.text_encoder, instructions=filter(str.strip, all_instructions(source)))
        if source.text_embedding(0) is not None:
            return None
        try:
            return load_text_encoder("minilm")
        except ValueError:  # its weights are not here
            return None


def _is_policy(path: Path) -> bool:
    names = (EXPORT_FILE, INFO_FILE, *(f"{name}/{INFO_FILE}" for name in RUN_ORDER))
    folder = policy_path(path)
    return any((folder / name).is_file() for name in names)


def _policy_target(name: str, embodiment: str | None) -> Target:
    """Return what a policy was trained on, as far as its folder says."""
    info = describe(name, embodiment=embodiment)
    suite = EnvSettings().suite_of(info.provenance) if info.provenance.get("env") else None
    return Target(
        name=name,
        action_spec=info.action_spec,
        control_rate=info.control_rate,
        image_size=recorded_size(info.provenance),
        sentences=() if suite is None else sentences_of(suite, tasks_of(suite, info.provenance)),
    )


def _json(facts: dict[str, object], found: Sequence[Finding]) -> str:
    return json.dumps({**facts, "findings": [finding.to_json() for finding in found]}, ensure_ascii=False, indent=1)
