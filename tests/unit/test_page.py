"""The page with the figures of a benchmark's run."""

from __future__ import annotations

import re

import pytest

from builder.benchmarks.page import WORDS, Row, Table, page

TIMES = Table(
    ("build", "seconds", "of the tools alone"),
    (Row("the tools alone", (3.14, 1.0)), Row("everything <else>", (4.19, 1.334))),
    (2, 2),
)
FIGURES = Table(
    ("", "figure", ""),
    (Row("plain tools", (4.91,), "s"), Row("fetched", (52.7,), "MB"), Row("ours", (4.32,), "s")),
    (2,),
)


def test_a_table_shows_each_figure_as_its_column_wants() -> None:
    assert TIMES.cells()[1] == ("everything <else>", "4.19", "1.33")
    assert FIGURES.cells()[1] == ("fetched", "52.70", "MB")


@pytest.mark.parametrize(
    ("item", "pictures"),
    [(TIMES, {"seconds": 2, "of the tools alone": 2}), (FIGURES, {"s": 2, "MB": 1})],
)
def test_what_has_one_unit_is_one_picture(item: Table, pictures: dict[str, int]) -> None:
    found = {}
    for text in item.pictures():
        (title,) = re.findall("<h4>(.*)</h4>", text)
        found[title] = text.count("<rect ") - 1  # the first is what they are drawn on
    assert found == pictures


def test_the_page_has_this_run_s_figures_above_the_words() -> None:
    text = page({"Builds": [TIMES], "Updates": [FIGURES]})
    begin = text.index("<h2>Builds</h2>")
    figures = text.index("<td>everything &lt;else&gt;</td><td>4.19</td><td>1.33</td>", begin)
    words = text.index("apk, mkinitfs, gunzip", figures)
    assert words < text.index("<h2>Updates</h2>") < text.index("<td>fetched</td>")
    assert "<h2>Boots</h2>" not in text, "it was not measured"
    assert "<code>inv bench build</code>" in text and "| build |" not in text, "it is no Markdown"


@pytest.mark.parametrize("name", ["Builds", "Boots", "Memory", "Updates"])
def test_each_benchmark_has_a_chapter(name: str) -> None:
    assert f"\n## {name}\n" in WORDS.read_text()
    assert f"<h2>{name}</h2>" in page({name: []})
