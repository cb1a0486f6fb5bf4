"""Figures as inline SVG with the colors of the page, for light and dark mode."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from numpy.typing import NDArray

from rt1.actions import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {
    "ink": "currentColor",
    "line": "var(--line, #ccc)",
    "policy": "var(--policy, #0072b2)",
    "expert": "var(--expert, #009e73)",
    "replay": "var(--replay, #e69f00)",
    "random": "var(--random, #888)",
    "swapped": "var(--swapped, #d55e00)",
    "recorded": "var(--recorded, #a9aeb8)",
}
"""CSS color of each name: the page's own, or a default that color-blind people can tell apart."""

INKS = {name: f"#0102{index:02x}" for index, name in enumerate(COLORS, start=3)}
"""Placeholder colors for matplotlib, which :func:`panel` replaces by :data:`COLORS`."""

BOUND: dict[str, Any] = {"color": INKS["ink"], "linewidth": 0.8, "linestyle": "--"}
"""Style of a line that marks a bound or the right value."""

_SIZE = (3.9, 1.75)  # inches, at 72 units an inch about as many units as a phone has pixels
_SQUARE = (2.8, 2.8)
_FONT_SIZE = 9
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": _FONT_SIZE,
    "text.color": INKS["ink"],
    "axes.edgecolor": INKS["line"],
    "axes.labelcolor": INKS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INKS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": INKS["ink"],
    "ytick.color": INKS["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
}


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Markup]:
    """Draw loss and token accuracy over the updates, in training and held out, from records of ``metrics.jsonl``.

    Returns the title of each curve that has records and its ``<svg>``.
    """
    curves = {"Loss": ("loss", "heldout_loss"), "Token accuracy": ("accuracy", "heldout_accuracy")}
    out: dict[str, Markup] = {}
    for title, (training, held_out) in curves.items():
        if not any(key in record for record in metrics for key in (training, held_out)):
            continue
        with panel(f"{title} over updates", x="update") as (axes, svg):
            for key, ink, style in ((training, "policy", "-"), (held_out, "swapped", "o--")):
                points = [(record["update"], record[key]) for record in metrics if key in record]
                x, y = zip(*points, strict=True) if points else ((), ())
                axes.plot(x, y, style, color=INKS[ink], markersize=3)
            axes.set_ylim(bottom=0)
        out[title] = svg()
    return out


def action_plots(dimension_names: Sequence[str], recorded: FloatArray, predicted: FloatArray) -> dict[str, Markup]:
    """Draw the recorded and the predicted action over the steps of one episode, a plot per dimension.

    Args:
        dimension_names: A names.
        recorded: float (S, A), physical units.
        predicted: float (S, A), physical units, at the same images.
    """
    plots: dict[str, Markup] = {}
    for index, name in enumerate(dimension_names):
        with panel(f"{name}: recorded and predicted over the steps", x="step") as (axes, svg):
            axes.plot(recorded[:, index], "-", color=INKS["recorded"], linewidth=3.2)
            axes.plot(predicted[:, index], "o--", color=INKS["policy"], markersize=2, linewidth=1.2)
        plots[name] = svg()
    return plots


def success_bars(label: str, rates: Mapping[str, tuple[float | None, tuple[float, float] | None]]) -> Markup:
    """Draw the success rates of one task as bars.

    ``rates`` maps a key of ``COLORS`` to a success rate, 0..1 or ``None`` where not run, and its interval if known.
    """
    with panel(label, left=0.18) as (axes, svg):
        for row, (name, (rate, interval)) in enumerate(rates.items()):
            axes.barh(row, rate or 0.0, height=0.62, color=INKS[name])
            if interval is not None:
                axes.plot(interval, (row, row), color=INKS["ink"], linewidth=1.2, solid_capstyle="butt")
            axes.text(1.03, row, "not run" if rate is None else percent(rate), va="center")
        axes.set_yticks(range(len(rates)), list(rates))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], [percent(rate) for rate in (0, 0.25, 0.5, 0.75, 1)])
        axes.set_xlim(0, 1.2)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines[["left", "bottom"]].set_visible(False)
    return svg()


def share_bars(
    axes: Axes, positions: NDArray[Any], shares: NDArray[Any], *, width: float, inks: str | Sequence[str] = "policy"
) -> None:
    """Draw shares, 0..1, as bars at x positions that are ``width`` apart, with a y axis in percent."""
    colors = INKS[inks] if isinstance(inks, str) else [INKS[ink] for ink in inks]
    axes.bar(positions, shares, width=0.9 * width, color=colors)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", pad=6)  # clear of the 0 % next to it
    axes.set_ylim(0, 1.05 * float(shares.max()))
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(percent_tick)


def percent_tick(rate: float, _position: object) -> str:
    """Return the label of an axis at a rate."""
    return percent(rate)


def percent(rate: float) -> str:
    """Return a rate in 0..1 in percent with two digits, enough for some ten trials.

    >>> percent(0.95).split(), percent(0.025).split(), percent(1).split()
    (['95', '%'], ['2.5', '%'], ['100', '%'])
    """
    digits = f"{100 * rate:.2g}" if rate < 0.095 else f"{100 * rate:.0f}"
    return f"{digits}\N{NO-BREAK SPACE}%"


def require_figures() -> None:
    """Raise ``ModuleNotFoundError`` if matplotlib is not installed. Call it before work whose result is a page."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("figures need matplotlib, which is not installed. Run: pip install 'rt1[report]'")


@contextmanager
def panel(
    label: str, *, x: str = "", left: float = 0.13, square: bool = False
) -> Iterator[tuple[Axes, Callable[[], Markup]]]:
    """Yield axes to draw on, and a function that returns the ``<svg>`` after the block.

    ``label`` describes the figure for screen readers, ``x`` names the x axis, ``left`` is the left margin as a share of
    the width. Updates and steps get whole numbers as ticks.
    """
    require_figures()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn: list[Markup] = []
    with mpl.rc_context({**_STYLE, "svg.hashsalt": label}):
        size = _SQUARE if square else _SIZE
        figure = Figure(figsize=size)
        figure.subplots_adjust(left=left, right=0.98, top=0.96, bottom=0.4 / size[1])
        axes = figure.add_subplot(xlabel=x)
        if x in ("update", "step"):
            axes.locator_params(axis="x", integer=True)
        yield axes, drawn.pop
        raw = io.StringIO()
        # No metadata: the same numbers give the same picture, and nothing in it points to a network.
        figure.savefig(
            raw, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    drawn.append(_to_svg(raw.getvalue(), label, size))


def _to_svg(raw: str, label: str, size: tuple[float, float]) -> Markup:
    """Reduce matplotlib's SVG file to one element with the page's colors."""
    body = raw[raw.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[a-z_A-Z0-9.]+_\d+"', "", body)
    body = re.sub(r"font(-size|-family)?: [^;\"]+;? ?", "", body)
    body = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", body)
    body = re.sub(r">\s+<", "><", body)
    for name, ink in INKS.items():
        body = body.replace(ink, COLORS[name])
    frame = Markup(
        '<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" '
        'style="font: {}px system-ui, sans-serif; stroke-linejoin: round">'
    )
    width, height = (72 * inches for inches in size)
    return frame.format(label, width, height, _FONT_SIZE) + Markup(body.strip())  # noqa: S704 (matplotlib escapes text)
