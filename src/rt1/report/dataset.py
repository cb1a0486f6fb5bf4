"""What is in a data set as one self-contained HTML page: histograms against the bounds, images, instructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rt1.data.images import encode_jpeg
from rt1.files import write_text
from rt1.inspection.survey import ActionSurvey, DataSurvey, ShownEpisode
from rt1.report import dataset_figures as figures
from rt1.report import html as markup
from rt1.report.dataset_notes import BGR_MARGIN, BGR_SHARE, notes, sampling
from rt1.report.episodes import shrunk
from rt1.report.svg import percent

_SENTENCES = 200
_IMAGE_WIDTH = 320


def write_page(path: Path, survey: DataSurvey, shown: ShownEpisode, *, command: str) -> Path:
    """Write the page, replacing an older one.

    Args:
        path: the HTML file; its folder is made where it is missing.
        survey: what is in the data set.
        shown: the episode to show.
        command: how the page is made again.

    Returns:
        ``path``. The page needs no network and no other file.

    Raises:
        SaveError: the file cannot be written; the older one is untouched.
        ModuleNotFoundError: matplotlib is not installed.
    """
    actions = survey.actions
    body = markup.fill(
        "rt1.report",
        "templates/dataset.html",
        notes=_list(notes(survey)) or markup.absent("Nothing stands out."),
        bins=str(actions.spec.bins),
        legend=markup.legend({"policy": "within the bounds", "swapped": "outside"}),
        histograms=_histograms(actions),
        action_table=_action_table(actions),
        episode=markup.escape(f"Episode {shown.episode}, {len(shown.actions)} steps: {shown.instruction!r}"),
        sheet=markup.image_grid(
            [
                (encode_jpeg(shrunk(i, _IMAGE_WIDTH), 85), f"step {s}")
                for i, s in zip(shown.images, shown.steps, strict=True)
            ]
        ),
        traces=_traces(actions, shown),
        instructions=_instructions(survey),
        lengths=figures.length_histogram(survey.lengths),
        sampling=_list([*sampling(survey), _colour_test(survey)]),
        command=markup.escape(command),
    )
    title, subtitle = f"Data set {survey.name}", "; ".join(sampling(survey))
    write_text(path, markup.page(title=title, subtitle=subtitle, headline=_headline(survey), body=body))
    return path


def _headline(survey: DataSurvey) -> str:
    lengths = survey.lengths
    different = len(survey.instructions)
    first, last = int(lengths.min()), int(lengths.max())
    span = f"of {first} to {last} steps" if first < last else f"of {first} steps each"
    embedding = "no text embeddings stored"
    if survey.embedding_width is not None:
        embedding = f"text embeddings of {survey.embedding_width} stored"
    (height, width), *others = survey.images.sizes
    more = f"and {len(others)} other sizes" if others else "pixels, height first"
    return markup.headline(
        [
            ("recorded", "Episodes", f"{len(lengths):,}", span),
            ("recorded", "Steps", f"{survey.steps:,}", f"{survey.steps / len(lengths):.1f} per episode"),
            ("recorded", "Instructions", f"{different:,}", embedding),
            ("recorded", "Image", f"{height} \N{MULTIPLICATION SIGN} {width}", more),
        ]
    )


def _histograms(actions: ActionSurvey) -> str:
    spec = actions.spec
    return markup.plot_grid(
        {
            f"{markup.escape(name)} <small>{percent(float(actions.outside[index]))} outside</small>": (
                figures.action_histogram(
                    name,
                    actions.values[:, index],
                    low=float(spec.low[index]),
                    high=float(spec.high[index]),
                    choices=int(spec.discrete_choices[index]),
                )
            )
            for index, name in enumerate(spec.dimension_names)
        }
    )


def _action_table(actions: ActionSurvey) -> str:
    spec, statistics = actions.spec, actions.statistics
    head = ("Dimension", "Outside", "Low", "High", "Min", "1 %", "Mean", "99 %", "Max", "Bins", "Outliers")
    rows = []
    for index, name in enumerate(spec.dimension_names):
        numbers = (
            spec.low, spec.high, statistics.minimum, statistics.q01, statistics.mean, statistics.q99, statistics.maximum
        )  # fmt: skip
        rows.append(
            (
                markup.escape(name).replace("_", "_<wbr>"),  # a long name may break there on a phone
                percent(float(actions.outside[index])),
                *(f"{column[index]:.3g}" for column in numbers),
                str(actions.bins_used[index]),
                f"{actions.outliers[index]:,}",
            )
        )
    return markup.table(head, rows)


def _traces(actions: ActionSurvey, shown: ShownEpisode) -> str:
    spec = actions.spec
    return markup.plot_grid(
        {
            markup.escape(name): figures.episode_trace(
                name,
                shown.actions[:, index],
                low=float(spec.low[index]),
                high=float(spec.high[index]),
                steps=shown.steps,
            )
            for index, name in enumerate(spec.dimension_names)
        }
    )


def _instructions(survey: DataSurvey) -> str:
    rows = [
        (
            markup.escape(sentence) if sentence.strip() else "<em>empty</em>",
            f"{count:,}",
            percent(count / survey.instruction_episodes),
        )
        for sentence, count in survey.instructions[:_SENTENCES]
    ]
    table = markup.table(("Instruction", "Episodes", "Share"), rows)
    more = len(survey.instructions) - _SENTENCES
    return table + (markup.absent(f"and {more:,} more") if more > 0 else "")


def _colour_test(survey: DataSurvey) -> str:
    blue = float(np.mean(survey.images.blue_minus_red > BGR_MARGIN))
    return (
        f"colours: an image counts as blue where the mean of blue exceeds that of red by more than {BGR_MARGIN:g} of "
        f"255; {percent(blue)} are, and from {percent(BGR_SHARE)} on an exchange of red and blue is suspected. A scene "
        f"that is truly blue raises a false alarm, and a grey one hides an exchange"
    )


def _list(sentences: list[str]) -> str:
    items = "\n".join(f"<li>{markup.escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{items}</ul>' if items else ""
