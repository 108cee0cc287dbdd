"""Where the seconds of a boot went: the kernel, the initramfs, each service.

The kernel's log says when it started the initramfs, and that when it is done; then belay-boot, what
it has started. After that OpenRC starts one service after the other and leaves a link for each at
its end (/run/openrc/started), whose time is that moment. A service's span reaches back to the one
before it.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from updater.contract import (
    MARK_STARTED,
    MARK_SWITCHED,
)

STARTED = "run/openrc/started"
_LINE = re.compile(r"^(?:<\d+>)?\[ *(\d+\.\d+)\] (.*)")
_MARKS = (("kernel", "Run /init as init process"), ("initramfs", MARK_SWITCHED))


class Span(NamedTuple):
    """A part of the boot: its `start` in seconds after the kernel's own, and how long it took."""

    name: str
    start: float
    seconds: float


def boot_spans(root: Path, kernel_log: str | None = None) -> list[Span]:
    """The parts of this boot in their order."""
    if kernel_log is None:
        kernel_log = subprocess.run(
            ["dmesg"], capture_output=True, text=True, errors="replace", check=False
        ).stdout
    spans: dict[str, Span] = {}
    now = 0.0
    for at, name in [*_marks(kernel_log), *_services(root)]:
        if name not in spans:
            # The clock may have been set in between: then the span says nothing.
            spans[name] = Span(name, now, max(0.0, at - now))
            now = max(now, at)
    return list(spans.values())


def _marks(log: str) -> Iterator[tuple[float, str]]:
    """What the kernel's log says is done, and when, in seconds after the kernel's start."""
    for line in log.splitlines():
        if match := _LINE.match(line):
            at, text = float(match[1]), match[2]
            if text.startswith(MARK_STARTED):
                yield at, text.removeprefix(MARK_STARTED)
            for name, mark in _MARKS:
                if mark in text:
                    yield at, name


def _services(root: Path) -> list[tuple[float, str]]:
    """When each service was up, in seconds after the kernel's start.

    The clock and the uptime of now tell when that was; a service that was up before the clock was
    set is left out.
    """
    uptime = float((root / "proc/uptime").read_text().split()[0])
    began = time.time() - uptime
    folder = root / STARTED
    links = list(folder.iterdir()) if folder.is_dir() else []
    times = [(path.lstat().st_mtime - began, path.name) for path in links]
    return sorted((at, name) for at, name in times if 0 <= at <= uptime)
