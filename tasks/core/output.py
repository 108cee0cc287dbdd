"""What Belay says: words for people on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(text: str) -> None:
    """Tell the user what goes on; on stderr, so that `--json` owns stdout."""
    print(text, file=sys.stderr, flush=True)


def show_json(result: Any) -> None:
    """Print a result for programs, on stdout."""
    print(json.dumps(result, indent=2, sort_keys=True))
