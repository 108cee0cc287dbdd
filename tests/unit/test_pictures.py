"""Pictures of the steps: each has every step and every arrow."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from builder.steps.explain import Report
from builder.steps.pictures import COLOURS, dot, mermaid, svg

REPORTS = [
    Report("rope", "cached", (), (), 2 << 20, 1.5),
    Report("knot", "stale", ("input rope",), ("rope",), 0, 0.0),
    Report("net-knot", "absent", ("never built",), ("rope", "knot"), 0, 0.0),
]
ARROWS = {("rope", "knot"), ("rope", "net-knot"), ("knot", "net-knot")}


def test_dot_and_mermaid_have_every_step_and_arrow() -> None:
    text = dot(REPORTS)
    assert set(re.findall(r'"(\S+)" -> "(\S+)"', text)) == ARROWS
    assert '"rope" [label="rope\\ncached, 2.0 MiB, 1.5 s" fillcolor="#d9ead3"]' in text
    text = mermaid(REPORTS)
    assert text.startswith("flowchart TD\n")
    assert set(re.findall(r"^  (\S+) --> (\S+)$", text, re.MULTILINE)) == ARROWS
    assert 'net-knot("net-knot<br>absent, 0 B, 0.0 s"):::absent' in text


def test_graphviz_draws_them() -> None:
    root = ElementTree.fromstring(svg(REPORTS))
    titles = {title.text for title in root.iter("{http://www.w3.org/2000/svg}title")}
    assert {f"{one}->{other}" for one, other in ARROWS} <= titles
    fills = {path.get("fill") for path in root.iter("{http://www.w3.org/2000/svg}path")}
    assert set(COLOURS.values()) <= fills


@pytest.mark.parametrize("state", COLOURS)
def test_each_state_has_a_colour_in_mermaid(state: str) -> None:
    assert f"classDef {state} fill:" in mermaid(REPORTS)
