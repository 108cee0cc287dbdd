"""Draws spans as bars over an axis, as SVG: a boot over time, a benchmark's figures."""

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, log10

from updater.boottime import Span

LABELS, BARS, VALUES = 220, 600, 80  # widths of the three columns, in pixels
ROW, HEAD = 20, 24  # heights


def bars(spans: Sequence[Span], unit: str) -> Iterator[str]:
    """The lines of the picture: a bar for each span, named at its left, its length at its right."""
    end = max([span.start + span.seconds for span in spans], default=0.0) or 1.0
    # The axis is marked at 1, 2 or 5 times a power of ten, at most a dozen times.
    power = 10.0 ** ceil(log10(end / 12))
    step = next(step for step in (power / 5, power / 2, power) if end / step <= 12)
    width, height = LABELS + BARS + VALUES, HEAD + ROW * len(spans) + 4
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    )
    yield f'<rect width="{width}" height="{height}" fill="#fff"/>'
    for mark in range(int(end / step) + 1):
        x = LABELS + BARS * mark * step / end
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD - 4}" y2="{height}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="14" text-anchor="middle" fill="#666">{mark * step:g}</text>'
    for number, (name, start, seconds) in enumerate(spans):
        y, x = HEAD + ROW * number, LABELS + BARS * start / end
        length = max(1.0, BARS * seconds / end)
        yield f'<text x="{LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
        yield (
            f'<rect x="{x:.1f}" y="{y + 3}" width="{length:.1f}" height="{ROW - 6}" fill="#5b8"/>'
        )
        yield f'<text x="{x + length + 6:.1f}" y="{y + 14}">{seconds:.2f} {escape(unit)}</text>'
    yield "</svg>"
