"""What git says of the project."""

from __future__ import annotations

import os
import subprocess

from builder.core.errors import UserError
from builder.core.paths import PROJECT

# By these another repository could answer, as in a hook of one.
PLACES = {
    f"GIT_{name}"
    for name in ("DIR", "WORK_TREE", "INDEX_FILE", "COMMON_DIR", "OBJECT_DIRECTORY", "PREFIX")
}
NO_REPOSITORY = "not a git repository"
TIMEOUT_S = 60


def environment() -> dict[str, str]:
    """What git is to know: all but that it should look elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in PLACES}


def git(*words: str, nothing: int | None = None) -> str | None:
    """The output of a git command; None where it ends with the exit code `nothing`, in silence.

    Raises UserError, with git's own words, where git is missing or fails.
    """
    try:
        done = subprocess.run(
            ["git", *words], cwd=PROJECT, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, env=environment(),
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError("git is not installed", "install it, then run this again") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git {words[0]} took longer than {TIMEOUT_S} s in {PROJECT}") from None
    complaint = done.stderr.strip()
    if done.returncode == 0:
        return done.stdout.strip()
    if done.returncode == nothing and not complaint:
        return None
    if NO_REPOSITORY in complaint:
        raise UserError(
            f"{PROJECT} is no git repository, which this needs",
            'make it one: git init && git add -A && git commit -m "Begin"',
        )
    raise UserError(f"git {words[0]} failed in {PROJECT}:\n{complaint or done.stdout.strip()}")
