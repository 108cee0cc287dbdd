"""`inv clean`: removes what was generated."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from tasks.core.config import MIB
from tasks.core.errors import UserError
from tasks.core.files import DAY_S, remove_tree
from tasks.core.output import say, show_json
from tasks.core.paths import BUILD, CACHE
from tasks.core.progress import human_size


@task(
    help={
        "older": "from the cache: what was not used for so many days",
        "keep": "from the cache: what was not used for longest, until so many MiB are left",
        "json": "print what was removed as JSON",
    }
)
def clean(c: Context, older: int = -1, keep: int = -1, json: bool = False) -> None:
    """Remove build/; with --older or --keep, prune the cache that all checkouts share instead."""
    if older < 0 and keep < 0:
        remove_tree(BUILD)
        say(f"removed build/; the cache stays: {CACHE}")
        return
    if older == 0 or keep == 0:
        raise UserError(f"to remove everything: rm -r {CACHE}")
    from tasks.core.cache import prune

    gone = prune(older * DAY_S if older > 0 else None, keep * MIB if keep > 0 else None)
    if json:
        show_json([{"path": str(e.path), "size": e.size, "used": e.used} for e in gone])
    else:
        total = human_size(sum(entry.size for entry in gone))
        say(f"removed {len(gone)} things from {CACHE}, {total}")
