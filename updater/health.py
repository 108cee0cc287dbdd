"""Runs the health checks: programs in `/etc/belay/health.d`, in the order of their names.

Each says by its exit code whether the system is well: 0 yes, 77 can't be told here (the last line
says why), anything else no.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from updater.node import ETC, Node
from updater.process import run_within

SKIPPED = 77
LINES = 8  # of the output are kept


class Result(NamedTuple):
    """Of the check `name`: `failed` says so, `output` are its last lines."""

    name: str
    failed: bool
    skipped: bool
    output: str

    def __str__(self) -> str:
        state = "failed" if self.failed else "skipped" if self.skipped else "passed"
        return f"check {self.name} {state}" + (f": {self.output}" if self.output else "")


def run_checks(node: Node) -> Iterator[Result]:
    """Run the checks until one fails or the deadline for all of them has passed."""
    deadline = time.monotonic() + node.settings.deadline_s
    for path in sorted((node.root / ETC / "health.d").iterdir()):
        if os.access(path, os.X_OK):
            result = _run(path, node, max(1.0, deadline - time.monotonic()))
            yield result
            if result.failed:
                return


def _run(path: Path, node: Node, seconds: float) -> Result:
    env = {**os.environ, "BELAY_MODE": node.mode, "BELAY_NETWORK": "1" * node.settings.network}
    code, output = run_within(seconds, [path], env)
    lines = [line for line in output.split("\n") if line.strip()][-LINES:]
    text = "\n".join(lines)
    return Result(path.name, code not in (0, SKIPPED), code == SKIPPED, text)
