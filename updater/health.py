"""Runs the health checks: programs in `/etc/belay/health.d`, in the order of their names.

Each says by its exit code whether the system is healthy: 0 yes, 77 can't be told here, 75 not yet
(something else can't be reached), anything else no. The last line of its output says why.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from updater.contract import (
    ETC_CHECKS,
    EXIT_NOT_YET,
    EXIT_SKIPPED,
)
from updater.errors import UpdateError, printable
from updater.node import Node
from updater.process import TOO_LATE, run_within

AGAIN_S = 5.0  # after that what is not yet is looked at again
LINES = 8  # of the output are kept


class Result(NamedTuple):
    """Of the check `name`: `failed` says so; `output` is its last line, then those before it.

    `unreached`: it failed only because something could not be reached until the deadline. `late`:
    it was ended, as its time was over.
    """

    name: str
    failed: bool
    skipped: bool
    output: str
    unreached: bool = False
    late: bool = False

    def __str__(self) -> str:
        state = "failed" if self.failed else "skipped" if self.skipped else "passed"
        return f"check {self.name} {state}" + (f": {self.output}" if self.output else "")


def run_checks(node: Node, reached: bool = False) -> Iterator[Result]:
    """Run the checks until one fails or the deadline for all of them has passed.

    `reached`: whether this release came from the server. docs/updates.md says what each is given.

    One that can't be run has failed: nobody knows what it would have found.
    """
    deadline = time.monotonic() + node.settings.deadline_s
    for path in sorted((node.root / ETC_CHECKS).iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and os.access(path, os.X_OK):
            result = _run(path, node, deadline, reached)
            while result.unreached and time.monotonic() + AGAIN_S < deadline:
                time.sleep(AGAIN_S)
                again = _run(path, node, deadline, reached)
                # The last look may have no time left: what is not yet stays so.
                result = result if again.late else again
        else:
            result = Result(path.name, True, False, "it is no executable file: chmod +x it")
        yield result
        if result.failed:
            return


def _run(path: Path, node: Node, deadline: float, reached: bool) -> Result:
    seconds = max(1.0, deadline - time.monotonic())
    env = {**os.environ, "BELAY_MODE": node.mode, "BELAY_REACHED": "1" if reached else ""}
    for name, value in node.settings._asdict().items():
        text = ("1" if value else "") if isinstance(value, bool) else str(value)
        env[f"BELAY_{name.upper()}"] = text
    with suppress(UpdateError):
        env["BELAY_DATA"] = node.boot.read().data
    env["BELAY_LEFT_S"] = str(int(seconds))
    try:
        code, output = run_within(seconds, [path], env)
    except OSError as error:  # no interpreter, or not a program at all
        code, output = 1, f"it can't be run: {error.strerror}; does its first line name a program?"
    lines = [line for line in output.split("\n") if line.strip()][-LINES:]
    output = printable("\n".join([*lines[-1:], *lines[:-1]]))
    failed, skipped = code not in (0, EXIT_SKIPPED), code == EXIT_SKIPPED
    return Result(path.name, failed, skipped, output, code == EXIT_NOT_YET, code == TOO_LATE)
