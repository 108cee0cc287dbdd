"""Runs a program that may hang."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

TOO_LATE = 124  # the exit code of what was ended, as timeout(1) has it
OUTPUT_MAX = 1 << 20  # bytes, the last ones


def run_within(
    seconds: float,
    words: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[int, str]:
    """Run a program; its exit code and its output. All that it started ends with its time.

    A daemon that it leaves in a session of its own goes on; its output is not waited for.
    """
    # Into a file: a pipe has its end only when everybody has closed it, daemons too.
    with os.fdopen(os.memfd_create("output"), "r+b") as output:
        # A session of its own, so that what it started can be found.
        process = subprocess.Popen(
            words, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code, late = process.wait(timeout=seconds), ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code, late = TOO_LATE, f"it was not done within {seconds:.0f} s"
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - OUTPUT_MAX))
        text = output.read(OUTPUT_MAX).decode(errors="replace")
    return code, f"{text}\n{late}" if late and text and not text.endswith("\n") else text + late
