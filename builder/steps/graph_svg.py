"""Draws the steps as an SVG picture, from top to bottom in the order in which they can run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from builder.steps.explain import Report

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 190, 46, 30, 44, 20
COLOURS = {"cached": "#d9ead3", "stale": "#fce5cd", "absent": "#eeeeee"}


def svg(reports: Sequence[Report], details: Sequence[str]) -> str:
    """The picture; `details` has a second line for each step."""
    rows: list[list[int]] = []
    level: dict[str, int] = {}
    for number, report in enumerate(reports):
        level[report.step] = 1 + max((level[need] for need in report.needs), default=-1)
        while len(rows) <= level[report.step]:
            rows.append([])
        rows[level[report.step]].append(number)
    width = 2 * MARGIN + max(len(row) for row in rows) * (WIDTH + GAP_X) - GAP_X
    place: dict[str, tuple[float, float]] = {}
    for y, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for x, number in enumerate(row):
            at = (left + x * (WIDTH + GAP_X), MARGIN + y * (HEIGHT + GAP_Y))
            place[reports[number].step] = at
    height = 2 * MARGIN + len(rows) * (HEIGHT + GAP_Y) - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="13">'
    ]
    for report in reports:
        to_x, to_y = place[report.step]
        for need in report.needs:
            from_x, from_y = place[need]
            parts.append(
                f'<line x1="{from_x + WIDTH / 2}" y1="{from_y + HEIGHT}" x2="{to_x + WIDTH / 2}" '
                f'y2="{to_y}" stroke="#666"/>'
            )
    for report, detail in zip(reports, details, strict=True):
        left_x, top = place[report.step]
        parts.append(
            f'<rect x="{left_x}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
            f'stroke="#666" fill="{COLOURS[report.state]}"/>'
            f'<text x="{left_x + 10}" y="{top + 19}" '
            f'font-weight="bold">{escape(report.step)}</text>'
            f'<text x="{left_x + 10}" y="{top + 37}">{escape(detail)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
