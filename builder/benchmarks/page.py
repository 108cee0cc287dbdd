"""One page with the figures of a run, and the words of docs/performance.md that explain them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markdown_it import MarkdownIt

from builder.core.paths import PROJECT
from updater.bars import bars
from updater.boottime import Span

WORDS = PROJECT / "docs" / "performance.md"
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left }
svg { max-width: 100%; height: auto }
"""


@dataclass(frozen=True)
class Row:
    """A row of a table: what was measured, and its figures, each shown as its column wants."""

    what: str
    figures: tuple[float, ...]
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a benchmark. `places` are the decimal places of each column of figures."""

    titles: tuple[str, ...]
    rows: tuple[Row, ...]
    places: tuple[int, ...]

    def cells(self) -> list[tuple[str, ...]]:
        """The rows as words: what, the figures, and the unit where rows have one."""
        return [
            (
                row.what,
                *(f"{figure:.{n}f}" for figure, n in zip(row.figures, self.places, strict=True)),
                *((row.unit,) if row.unit else ()),
            )
            for row in self.rows
        ]

    def pictures(self) -> list[str]:
        """For each column, or each unit where rows have one, its figures as bars."""
        columns: dict[str, list[Span]] = defaultdict(list)
        for row in self.rows:
            for title, figure in zip(self.titles[1:], row.figures, strict=False):
                columns[row.unit or title].append(Span(row.what, 0, figure))
        return [
            f"<h4>{escape(name)}</h4>\n" + "\n".join(bars(spans, "")) + "\n"
            for name, spans in columns.items()
        ]


def page(chapters: Mapping[str, Sequence[Table]]) -> str:
    """The page: for each chapter of docs/performance.md that was measured, figures and words.

    `chapters` has the tables by the chapter's heading. The words' own figures are those of another
    machine, and stay below those of this run.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    _, *written = re.split(r"^## ", WORDS.read_text(), flags=re.MULTILINE)
    words = dict(text.split("\n", 1) for text in written)
    parts = []
    for name, tables in chapters.items():
        parts.append(f"<h2>{escape(name)}</h2>\n<h3>This run</h3>\n")
        for item in tables:
            parts += [_html(item), *item.pictures()]
        parts.append(f"<h3>What is measured</h3>\n{markdown.render(words[name])}")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>Belay: where the time goes</title>\n<style>{STYLE}</style>\n"
        f"<h1>Where the time goes</h1>\n{''.join(parts)}</html>\n"
    )


def _html(item: Table) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    rows = [row("th", item.titles), *(row("td", cells) for cells in item.cells())]
    return f"<table>\n{''.join(rows)}</table>\n"
