"""The model card of a checkpoint or an export: ``README.md`` with YAML front matter, as the Hub reads it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rt1.actions import ActionSpec, Continuous
from rt1.common.border import reading
from rt1.common.json_files import read_object
from rt1.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from jinja2 import Template

CARD_FILE = "README.md"

_MARK = "# rt1 rewrites this card unless you change it: "
_MARK_LINE = re.compile(f"^{_MARK}([0-9a-f]{{16}})\n", re.MULTILINE)
_FRONT_MATTER = re.compile(r"---\n(.*?\n)---(?:\n|$)", re.DOTALL)
_HUB_DATA = re.compile(r"hf:(?:/{1,2}datasets/)?([\w.-]+/[\w.-]+)")
_FACTS = ("preset", "update", "best", "best_metric", "init", "changes", "file", "configuration")
"""What is shown of the provenance, where it is there."""
_SUCCESS = {"metric": "success_rate", "title": "Success rate (95 % interval)"}
_RETURN = {"metric": "mean_return", "title": "Mean return"}
_CURE = "Mend it, or remove the file and let rt1 write it"


class Robot(Protocol):
    """What a checkpoint says of one embodiment."""

    @property
    def action_spec(self) -> ActionSpec: ...
    @property
    def control_rate(self) -> float | None: ...
    @property
    def provenance(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card tells."""

    name: str
    """Title."""
    address: str = "path/to/this/folder"
    """What loads it: the name of a shipped policy, ``user/name``, or a folder."""
    form: str
    """What the weights are: a checkpoint, or an export for a library."""
    window: int
    """Images the policy looks at."""
    image_size: tuple[int, int]
    """Height and width of the network's input, pixels."""
    text_width: int
    """Entries of a text embedding."""
    parameters: int
    """Trainable parameters."""
    robots: Mapping[str, Robot]
    """By embodiment. The name of the only one is empty."""
    text_encoder: str | None
    """Name of the text encoder. None where it is not known."""
    provenance: Mapping[str, Any]
    """Where the weights come from."""
    instructions: Sequence[str] = ()
    """Sentences whose text embeddings are stored."""
    license: str = "unknown"
    """Identifier of the license of the weights, as the Hub writes it."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``results.json`` of ``rt1 evaluate``. Empty where there is none."""

    @property
    def held_out(self) -> tuple[str, float] | None:
        """Name and best value of the metric on held-out episodes."""
        name, value = self.provenance.get("best_metric"), self.provenance.get("best")
        return (str(name), float(value)) if name and isinstance(value, int | float) else None


def card_text(card: CardFacts) -> str:
    """Return a model card. It ends its front matter with a checksum, see :func:`edited_card`."""
    robots = {name: _robot(robot) for name, robot in card.robots.items()}
    suites = {robot["environment"] for robot in robots.values() if robot["environment"]}
    sources = [robot["source"] for robot in robots.values()]
    text = _template().render(
        card=card,
        robots=robots,
        tags=["robotics", "rt1", "imitation-learning", *sorted(suites)],
        datasets=sorted({match[1] for source in sources if (match := _HUB_DATA.match(source))}),
        results=_results(card.results, ", ".join(sorted(suites)) or "closed loop"),
        facts={name: card.provenance[name] for name in _FACTS if card.provenance.get(name) not in (None, [], "")},
    )
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    return f"---\n{front}\n{_MARK}{_checksum(text)}\n---\n{body}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def edited_card(folder: Path) -> str | None:
    """Return the model card of a folder if somebody wrote or changed it, None if rt1 may write another.

    Bytes that are not UTF-8 are in it as :func:`write_card` writes them back.
    """
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    mark = _MARK_LINE.search(text)
    return None if mark is not None and _checksum(_MARK_LINE.sub("", text)) == mark[1] else text


def write_card(folder: Path, text: str) -> None:
    """Write a model card into a folder."""
    (folder / CARD_FILE).write_text(text, encoding="utf-8", errors="surrogateescape")


def check_card(folder: Path) -> None:
    """Refuse a model card that the Hub would not take.

    Raises:
        CheckpointError: the file is missing or no text, its front matter is missing or no YAML, or a field of it is not
            as the Hub needs it. The error has the line.
    """
    import yaml

    path = folder / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as UTF-8 text ({error}). {_CURE}") from error
    match = _FRONT_MATTER.match(text)
    if match is None:
        raise CheckpointError(f"{path}, line 1: the card must begin with YAML between two lines of ---. {_CURE}")
    try:
        root = yaml.compose(match[1], Loader=yaml.SafeLoader)
        fields = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = 2 if mark is None else mark.line + 2
        problem = getattr(error, "problem", None) or type(error).__name__
        raise CheckpointError(f"{path}, line {line}: the front matter is no YAML ({problem}). {_CURE}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}, line 2: the front matter must hold fields, as license: apache-2.0. {_CURE}")
    lines = {key.value: key.start_mark.line + 2 for key, _ in root.value}
    for name, rule in _field_problems(fields):
        raise CheckpointError(f"{path}, line {lines.get(name, 2)}: {name} must be {rule}. {_CURE}")


def _field_problems(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of a front matter that break a rule, each with the rule."""
    tests = {
        "license": (
            _are_texts([fields.get("license")]) and fields["license"],
            "the identifier of a license, as apache-2.0",
        ),
        "library_name": (fields.get("library_name") == "rt1", "rt1"),
        "tags": (_are_texts(fields.get("tags", [])), "a list of words"),
        "datasets": (_are_texts(fields.get("datasets", [])), "a list of names on the Hub, as user/name"),
        "model-index": (_is_model_index(fields.get("model-index", [])), "a list of models with results and metrics"),
    }
    return [(name, rule) for name, (holds, rule) in tests.items() if not holds]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_model_index(value: object) -> bool:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    if value == []:
        return True
    try:
        model_index_to_eval_results(value)  # type: ignore[arg-type]
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return True


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a ``results.json`` of ``rt1 evaluate``.

    Raises:
        DataError: the file cannot be read, or is none.
    """
    cure = "Give results.json of rt1 evaluate"
    results = read_object(path, error=DataError, cure=cure)
    with reading(path, cure=cure):
        _results(results, "")
        if not results["tasks"]:
            raise ValueError("it has no tasks")
    return results


def _results(results: Mapping[str, Any], dataset: str) -> dict[str, Any] | None:
    """Return results as the template shows them."""
    if not results:
        return None
    tasks = [_result(task) for task in results["tasks"]]
    values = [task["value"] for task in tasks]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"its tasks have the results {values}, must be finite")
    unit = "" if any(task["metric"] == "mean_return" for task in tasks) else " %"
    mean = sum(values) / max(1, len(values))
    groups, swapped = results.get("groups") or {}, results.get("swapped_success")
    return {
        "tasks": tasks,
        "dataset": dataset,
        "protocol": results.get("protocol"),
        "command": results.get("command"),
        "mean": f"{mean:.1f}{unit}",
        "groups": {name: f"{_percent(rate):.1f} %" for name, rate in groups.items() if rate is not None},
        "swapped": None if swapped is None else f"{_percent(swapped):.1f} %",
        "overall": {**tasks[0], "task": f"mean of {len(tasks)} tasks", "value": round(mean, 2)} if tasks else None,
    }


def _result(task: Mapping[str, Any]) -> dict[str, Any]:
    name, trials = str(task["task"]), int(task["trials"])
    if task.get("returns"):
        value = float(task["returns"]["policy"])
        return {"task": name, "trials": trials, **_RETURN, "value": value, "text": f"{value:.1f}"}
    value, (low, high) = _percent(task["success"]), map(_percent, task["interval95"])
    if trials < 1:
        raise ValueError(f"{name} has {trials} trials, must have at least 1")
    text = f"{value:.0f} % ({low:.0f}..{high:.0f} %)"
    return {"task": name, "trials": trials, **_SUCCESS, "value": round(value, 2), "text": text}


def _percent(rate: object) -> float:
    if not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise ValueError(f"a rate is {rate!r:.80}, must lie between 0 and 1")
    return 100.0 * rate


def _robot(robot: Robot) -> dict[str, Any]:
    """Return what the template shows of an embodiment."""
    made = robot.provenance
    env, tasks, held_out, size = (made.get(key) for key in ("env", "tasks", "held_out_episodes", "image_size"))
    return {
        "environment": str(env.get("suite") or env.get("name") or "") if isinstance(env, Mapping) else "",
        "tasks": [str(task) for task in tasks] if isinstance(tasks, list | tuple) else [],
        "rate": robot.control_rate,
        "source": str(made.get("source") or made.get("file") or ""),
        "episodes": made.get("episodes"),
        "held_out": len(held_out) if isinstance(held_out, list) else 0,
        "recorded_size": size if isinstance(size, list | tuple) else None,
        "bins": robot.action_spec.bins,
        "parts": [
            {
                "name": part.name,
                "shape": f"float32 ({part.size},)" if isinstance(part, Continuous) else f"int32 ({part.choices},)",
                "dimensions": list(zip(part.dimension_names, part.low, part.high, strict=True))
                if isinstance(part, Continuous)
                else [(part.name, None, part.choices)],
            }
            for part in robot.action_spec.parts
        ],
    }


def _quoted(value: object) -> str:
    """Return a value as YAML and Python both read it."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _line(value: object) -> str:
    return " ".join(str(value).encode(errors="replace").decode().split())


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 (Markdown, no HTML)
        loader=PackageLoader("rt1.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quoted": _quoted, "line": _line, "cell": lambda value: _line(value).replace("|", "\\|")}
    return environment.get_template("model_card.md")
