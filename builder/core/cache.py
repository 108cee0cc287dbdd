"""What lies in the cache, and making room in it: what was not used for longest goes first."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.core.files import only_one, remove_tree
from builder.core.paths import CACHE

KINDS = ("results", "containers", "worlds", "apk", "keys", "packages", "chunks", "deltas")
# A build that runs right now may count on what it has just found.
SAFE_FOR_S = 3600.0
KEEP_MIB = 4096  # what is proposed: some builds of each of some configs


@dataclass(frozen=True)
class Entry:
    """One thing in the cache: `size` in bytes on the disk, `used` in seconds since 1970."""

    kind: str
    path: Path
    size: int
    used: float


def mark_used(path: Path) -> None:
    """Note that something was used now, so that it stays."""
    try:
        os.utime(path)
    except PermissionError:  # another user's: then it is not ours to remove, either
        return


def entries() -> list[Entry]:
    """Everything that can be removed, what was used last at the end."""
    found = []
    for kind in KINDS:
        folder = CACHE / kind
        for path in folder.iterdir() if folder.is_dir() else ():
            if not path.name.startswith(".") and not path.is_symlink():
                with suppress(FileNotFoundError):  # another build removed it just now
                    found.append(Entry(kind, path, _size(path), path.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def size_of_all() -> int:
    """The bytes on the disk of all that can be removed."""
    return sum(entry.size for entry in entries())


def prune(older_s: float | None, keep_bytes: int | None) -> list[Entry]:
    """Remove what was not used for `older_s`, and more until `keep_bytes` are left; what went."""
    now = time.time()
    found = entries()
    left = sum(entry.size for entry in found)
    gone = []
    for entry in found:
        age = now - entry.used
        is_old = older_s is not None and age > older_s
        is_too_much = keep_bytes is not None and left > keep_bytes and age > SAFE_FOR_S
        if is_old or is_too_much:
            with only_one(entry.path.name):
                if entry.path.is_dir():
                    remove_tree(entry.path)
                else:
                    entry.path.unlink(missing_ok=True)
            left -= entry.size
            gone.append(entry)
    return gone


def _size(path: Path) -> int:
    """What a file or a folder takes on the disk; another build may be removing it meanwhile."""
    size = 0
    for inner in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            size += 0 if inner.is_dir() else inner.lstat().st_blocks * 512
    return size
