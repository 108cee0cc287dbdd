"""What would run, and why: each step against the result that `build/` has of it now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.core.paths import BUILD
from builder.steps.step import RECORD, Keyed


@dataclass(frozen=True)
class Report:
    """How a step stands.

    `state` is cached; or it would run: stale, or absent where it never did. `changed` says what is
    different from the result that `build/` has. `size` (bytes) and `seconds` are those of the
    result that would be used, else of that one.
    """

    step: str
    state: str
    changed: tuple[str, ...]
    needs: tuple[str, ...]
    size: int
    seconds: float


def report(item: Keyed) -> Report:
    """Look at one step."""
    last = _last_result(item)
    folder = item.place if item.is_built else last
    record = _record(folder)
    return Report(
        item.step.name,
        "cached" if item.is_built else "stale" if last else "absent",
        tuple(_differences(_record(last).get("parts"), item.parts)),
        tuple(sorted(item.step.needs)),
        sum(path.stat().st_size for path in _outputs(item, folder)),
        float(record.get("seconds", 0.0)),
    )


def _last_result(item: Keyed) -> Path | None:
    """The folder of the result that `build/` links to."""
    link = BUILD / item.step.outputs[0]
    return link.readlink().parent if link.is_symlink() and link.exists() else None


def _record(folder: Path | None) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text()) if folder else {}
        return record
    except FileNotFoundError:
        return {}


def _outputs(item: Keyed, folder: Path | None) -> list[Path]:
    paths = [folder / name for name in item.step.outputs] if folder else []
    return [path for path in paths if path.exists()]


def _differences(before: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """The names of inputs that differ, with values where they are words and not hashes."""
    if before is None:
        return ["build/ has no result of it"]
    lines = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if old is None or new is None:
            lines.append(f"{name} is {'new' if old is None else 'gone'}")
        elif name.startswith("$"):
            lines.append(f"{name} {_words(old, new)}")
        else:
            lines.append(f"{name} changed")
    return lines


def _words(old: str, new: str) -> str:
    """The difference of two values: of lists only the words that came and went."""
    gone, came = set(old.split()) - set(new.split()), set(new.split()) - set(old.split())
    if len(old.split()) > 1 and len(gone) + len(came) < len(old.split()):
        return " ".join([*(f"-{word}" for word in sorted(gone)), *(f"+{w}" for w in sorted(came))])
    return f"was {old!r}, is {new!r}"
