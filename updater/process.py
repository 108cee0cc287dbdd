"""Runs a program that may hang."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_within(
    seconds: float,
    words: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[int, str]:
    """Run a program; its exit code and its output. All that it started ends with its time."""
    # A session of its own, so that what it started can be found.
    process = subprocess.Popen(
        words, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
        code, late = process.returncode, ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code, late = 1, f"it was not done within {seconds:.0f} s"
    text = output.decode(errors="replace")
    return code, f"{text}\n{late}" if late and text and not text.endswith("\n") else text + late
