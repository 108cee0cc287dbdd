"""Draws the steps and what they need: as text for graphviz, for Mermaid, or as SVG by graphviz."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

from builder.core.host import require_program
from builder.core.progress import human_size
from builder.steps.explain import Report

DOT = "dot"
COLOURS = {"cached": "#d9ead3", "stale": "#fce5cd", "absent": "#eeeeee"}


def detail(report: Report) -> str:
    """State, size and duration, in a line."""
    return f"{report.state}, {human_size(report.size)}, {report.seconds:.1f} s"


def dot(reports: Sequence[Report]) -> str:
    """The graph in graphviz' language.

    Source of the format: https://graphviz.org/doc/info/lang.html
    """
    lines = ['node [shape=box style="rounded,filled" fontname="sans-serif"]']
    for report in reports:
        label, colour = f"{report.step}\\n{detail(report)}", COLOURS[report.state]
        lines.append(f'"{report.step}" [label="{label}" fillcolor="{colour}"]')
    lines += [f'"{need}" -> "{step}"' for need, step in _arrows(reports)]
    return "digraph steps {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def mermaid(reports: Sequence[Report]) -> str:
    """The graph for Mermaid, as forges draw it in their pages.

    Source of the format: https://mermaid.js.org/syntax/flowchart.html
    """
    lines = [f"classDef {state} fill:{colour}" for state, colour in COLOURS.items()]
    for report in reports:
        lines.append(f'{report.step}("{report.step}<br>{detail(report)}"):::{report.state}')
    lines += [f"{need} --> {step}" for need, step in _arrows(reports)]
    return "flowchart TD\n" + "".join(f"  {line}\n" for line in lines)


def svg(reports: Sequence[Report]) -> str:
    """The picture, laid out by graphviz. Raises UserError where that isn't installed."""
    program = require_program(DOT)
    done = subprocess.run(
        [program, "-Tsvg"], input=dot(reports), check=True, capture_output=True, text=True
    )
    return done.stdout


def _arrows(reports: Sequence[Report]) -> Iterator[tuple[str, str]]:
    return ((need, report.step) for report in reports for need in report.needs)
