"""What Belay says: words for people on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(text: str) -> None:
    """Tell the user what goes on; on stderr, so that `--json` owns stdout."""
    print(text, file=sys.stderr, flush=True)


def confirmed(question: str) -> bool:
    """Whether a person says yes. False where nobody is there to ask."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def show_json(result: Any) -> None:
    """Print a result for programs, on stdout."""
    print(json.dumps(result, indent=2, sort_keys=True))
