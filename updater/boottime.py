"""Where the seconds of a boot went: the kernel, the initramfs, each service.

The kernel's log says when it started the initramfs, and that when it is done. OpenRC starts
one service after the other and leaves a link for each at its end (/run/openrc/started), whose time
is that moment. A service's span reaches back to the one before it.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

STARTED = "run/openrc/started"
_LINE = re.compile(r"^(?:<\d+>)?\[ *(\d+\.\d+)\] (.*)")
_MARKS = (("kernel", "Run /init as init process"), ("initramfs", "belay: starting the system"))


@dataclass(frozen=True)
class Span:
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
    spans: list[Span] = []
    now = 0.0
    for name, mark in _MARKS:
        at = _time_of(kernel_log, mark)
        if at is not None:
            spans.append(Span(name, now, at - now))
            now = at
    for at, name in _services(root):
        # The clock may have been set in between: then the span says nothing.
        spans.append(Span(name, now, max(0.0, at - now)))
        now = max(now, at)
    return spans


def _time_of(log: str, mark: str) -> float | None:
    for line in log.splitlines():
        match = _LINE.match(line)
        if match and mark in match[2]:
            return float(match[1])
    return None


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
