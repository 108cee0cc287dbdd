"""`inv clean`: removes what was generated."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from builder.core.config import MIB
from builder.core.files import DAY_S, in_use, remove_tree
from builder.core.options import whole_number
from builder.core.output import say, show_json
from builder.core.paths import BUILD, CACHE, KEPT, RUNS
from builder.core.progress import human_size


@task(
    help={
        "older": "remove from the cache what was not used for this many days",
        "keep": "remove the oldest results from the cache, until it has this many MiB",
        "json": "print what was removed as JSON",
    }
)
def clean(c: Context, older: str = "", keep: str = "", json: bool = False) -> None:
    """Remove build/; with --older or --keep, prune the cache that all checkouts share instead."""
    from builder.core.cache import KEEP_MIB, prune, size_of_all

    older_s = whole_number("older", older, 1, 36500, "days") * DAY_S if older else None
    keep_bytes = whole_number("keep", keep, 1, 1 << 30, "MiB") * MIB if keep else None
    if older_s is None and keep_bytes is None:
        with in_use(KEPT / RUNS, f"a machine of inv qemu runs from {KEPT}: end it first"):
            remove_tree(BUILD)
        if json:
            show_json([])
        say(f"removed {BUILD}; the cache stays: {CACHE}, {human_size(size_of_all())}")
        say(f"to prune it: ./inv clean --keep {KEEP_MIB}; to remove all of it: rm -r {CACHE}")
        return
    gone = prune(older_s, keep_bytes)
    if json:
        show_json([{"path": str(e.path), "size": e.size, "used": e.used} for e in gone])
    else:
        total = human_size(sum(entry.size for entry in gone))
        say(f"removed {len(gone)} things from {CACHE}, {total}; those of the last hour stay")
