"""Tables keep their shape, pages their frame."""

from __future__ import annotations

import pytest

from rt1.report.html import duration, headline, page, table


def test_a_table_has_row_and_column_headings_and_its_closing_row() -> None:
    html = table(("Task", "A & B"), [("reach", "1")], last=("Mean", "2"), sentence_column=1)
    assert '<th scope="col" class="sentence">A &amp; B</th>' in html
    assert '<tr><th scope="row">reach</th><td class="sentence">1</td></tr>' in html
    assert '<tr class="mean"><th scope="row">Mean</th>' in html


def test_a_row_that_does_not_fit_its_heading_is_our_mistake_and_raises() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(("Task", "Success"), [("reach",)])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.99, "1 min 0 s"), (3599.7, "1 h 0 min"), (5400, "1 h 30 min")]
)
def test_durations_never_show_sixty(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_page_shows_its_title_and_figures_as_they_are_written_and_points_to_no_network() -> None:
    top = headline([("policy", "Rate <1", "95 %", 'of "all"')])
    html = page(title="<T>", subtitle="a & b", headline=top, body="<p>body</p>")
    assert "<title>&lt;T&gt;</title>" in html
    assert "a &amp; b" in html
    assert '<div class="policy"><dt>Rate &lt;1</dt><dd><span class="figure">95 %</span>' in html
    assert "of &quot;all&quot;" in html
    assert "<p>body</p>" in html
    assert "default-src 'none'" in html
    assert "http:" not in html.replace("http-equiv", "")
    assert 'class="headline four"' in headline([("policy", "a", "b", "c")] * 4)
