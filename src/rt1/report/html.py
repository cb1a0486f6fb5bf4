"""Building blocks of the pages: small pieces of HTML in which everything from outside is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template


def escape(text: str) -> str:
    """Return text as HTML that shows exactly that text, in an element or in a quoted attribute.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(text, quote=True)


def fill(room: str, template: str, /, **parts: str) -> str:
    """Return a template with its parts (HTML) filled in.

    Args:
        room: package the template lies in, e.g. ``rt1.evaluate``.
        template: its file name.
        parts: what stands in place of each ``$name``; all of them must be given.
    """
    text = resources.files(room).joinpath(template).read_text(encoding="utf-8")
    return Template(text).substitute(parts)


def page(*, title: str, subtitle: str, headline: str, body: str) -> str:
    """Return a whole page in the frame and the style that all pages share.

    Args:
        title: heading, plain text.
        subtitle: the line below it, plain text.
        headline: HTML of :func:`headline`.
        body: HTML of the sections.
    """
    return fill(
        "rt1.report",
        "templates/base.html",
        title=escape(title),
        style=shared_style(),
        subtitle=escape(subtitle),
        headline=headline,
        body=body,
    )


def shared_style() -> str:
    """Return the style that all pages share, CSS."""
    return resources.files("rt1.report").joinpath("templates/page.css").read_text(encoding="utf-8").strip()


def headline(figures: Sequence[tuple[str, str, str, str]]) -> str:
    """Return the large figures at the top of a page: of each its colour class, name, figure and a note, plain text."""
    cells = "\n".join(
        f'<div class="{escape(colour)}"><dt>{escape(name)}</dt>'
        f'<dd><span class="figure">{escape(figure)}</span> <small>{escape(note)}</small></dd></div>'
        for colour, name, figure, note in figures
    )
    return f'<dl class="headline{" four" if len(figures) == 4 else ""}">\n{cells}\n</dl>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    last: Sequence[str] = (),
    sentence_column: int | None = None,
) -> str:
    """Return a table in a box that scrolls sideways where the page is narrow.

    Args:
        head: column headings, plain text.
        rows: cells as HTML; the first of each row is its heading.
        last: a closing row, set apart.
        sentence_column: index of the column that holds sentences, which may wrap.
    """
    kinds = [' class="sentence"' if index == sentence_column else "" for index in range(len(head))]
    cells = zip(head, kinds, strict=True)
    heading = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for cell, kind in cells)
    body = "\n".join(_row(row, kinds, "") for row in rows)
    closing = _row(last, kinds, ' class="mean"') if last else ""
    # Focusable, so that the keyboard can scroll it too.
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heading}</tr></thead>\n'
        f"<tbody>{body}{closing}</tbody></table></div>"
    )


def _row(cells: Sequence[str], kinds: Sequence[str], row_kind: str) -> str:
    first, *others = cells
    rest = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
    return f'<tr{row_kind}><th scope="row">{first}</th>{rest}</tr>'


def video(data: bytes, label: str, caption: str) -> str:
    """Return an mp4 as a figure that plays on its own, over and over, without sound."""
    return (
        f'<figure><video muted loop playsinline controls preload="metadata" aria-label="{escape(label)}" '
        f'src="{_data_uri("video/mp4", data)}"></video><figcaption>{escape(caption)}</figcaption></figure>'
    )


def no_video(sentence: str) -> str:
    """Return the place of a video that does not exist, with the sentence that says why."""
    return f'<div class="none">{escape(sentence)}</div>'


def image_grid(images: Sequence[tuple[bytes, str]], *, small: bool = False) -> str:
    """Return JPEG images, each with its caption, side by side, as many in a row as fit; more of them if ``small``."""
    cells = "\n".join(
        f'<figure><img alt="{escape(caption)}" src="{_data_uri("image/jpeg", jpeg)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for jpeg, caption in images
    )
    return f'<div class="images{" small" if small else ""}">{cells}</div>'


def plot_grid(figures: Mapping[str, str]) -> str:
    """Return plots side by side, as many in a row as fit; caption (HTML) to ``<svg>``."""
    cells = "\n".join(f"<figure><figcaption>{caption}</figcaption>{svg}</figure>" for caption, svg in figures.items())
    return f'<div class="plots">{cells}</div>'


def legend(names: Mapping[str, str]) -> str:
    """Return the key to the colours; colour class of the page to what it stands for."""
    keys = "".join(f'<span class="{escape(colour)}">{escape(meaning)}</span>' for colour, meaning in names.items())
    return f'<p class="legend">{keys}</p>'


def absent(sentence: str) -> str:
    """Return the sentence that stands where there is nothing to show."""
    return f'<p class="quiet">{escape(sentence)}</p>'


def duration(seconds: float) -> str:
    """Return seconds as they are read.

    >>> duration(7.31), duration(372), duration(3 * 3600 + 65)
    ('7.3 s', '6 min 12 s', '3 h 1 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
