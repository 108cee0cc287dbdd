"""Where the seconds of a boot went."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from updater.bars import BARS, LABELS, bars
from updater.boottime import Span, boot_spans

LOG = """\
[    0.000000] Linux version 6.18
[    1.250000] Run /init as init process
[    2.750000] belay: starting the system of slot a
[    3.000000] belay: started openrc
"""


def test_the_parts_of_a_boot_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("updater.boottime.time.time", lambda: 1000100.0)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/uptime").write_text("100.00 40.00\n")
    started = tmp_path / "run/openrc/started"
    started.mkdir(parents=True)
    # The clock was set after the first service, so its time says nothing; openrc is known already.
    times = (("early", 7.0), ("devfs", 1000004.0), ("openrc", 1000004.1), ("syslog", 1000004.5))
    for name, at in times:
        (started / name).symlink_to(f"/etc/init.d/{name}")
        os.utime(started / name, (at, at), follow_symlinks=False)
    assert boot_spans(tmp_path, LOG) == [
        Span("kernel", 0.0, 1.25),
        Span("initramfs", 1.25, 1.5),
        Span("openrc", 2.75, 0.25),
        Span("devfs", 3.0, 1.0),
        Span("syslog", 4.0, 0.5),
    ]


def test_a_log_that_lost_its_begin_leaves_the_services(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/uptime").write_text("100.00 40.00\n")
    assert boot_spans(tmp_path, "") == []


@pytest.mark.parametrize("scale", [0.004, 1, 30, 12_345])
def test_a_picture_has_a_bar_for_each_part(scale: float) -> None:
    spans = [Span("kernel", 0, 2 * scale), Span("<odd>", 2 * scale, scale), Span("quick", 0, 0)]
    picture = ElementTree.fromstring("".join(bars(spans, "s")))
    svg = "{http://www.w3.org/2000/svg}"
    _, *found = picture.findall(f"{svg}rect")
    drawn = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in found]
    third = BARS / 3
    assert drawn == [(LABELS, 2 * third), (LABELS + 2 * third, third), (LABELS, 1)]
    marks = [text for text in picture.findall(f"{svg}text") if text.get("fill")]
    assert 3 < len(marks) <= 13 and marks[0].text == "0"
    values = [float(mark.text or "") for mark in marks]
    assert len({round(b - a, 6) for a, b in pairwise(values)}) == 1, "they are evenly spaced"
    texts = [text.text for text in picture.findall(f"{svg}text")]
    assert "<odd>" in texts and f"{scale:.2f} s" in texts


def test_a_picture_of_nothing_is_empty() -> None:
    assert "".join(bars([], "s")).count("<rect") == 1
