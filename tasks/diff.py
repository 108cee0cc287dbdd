"""`inv diff`: compares two artefacts file by file."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.artefacts.listing import Lister, differences
from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.output import say, show_json
from builder.core.progress import Progress
from builder.steps.plan import plan_for


@task(
    help={
        "one": "a disk image, slot, squashfs, initramfs or tar",
        "two": "another of the same kind",
        "json": "print the differences as JSON",
    }
)
def diff(c: Context, one: str, two: str, json: bool = False) -> None:
    """Compare two artefacts file by file: content, mode, owner, size. Differences: exit code 1."""
    paths = [Path(one), Path(two)]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
    with Progress() as progress:
        plan = plan_for(load_config(), ["chroot"], progress)
        lister = Lister(plan.engine, plan.root)
        progress.started("reading", quiet=True)
        found = differences(*(lister.files(path.resolve()) for path in paths))
        progress.stopped("reading")
    if json:
        show_json(found)
    for name, what in () if json else found.items():
        say(f"{name}: {what}")
    if found:
        raise Exit(code=1)
    if paths[0].read_bytes() != paths[1].read_bytes():
        raise UserError("the files in them are the same, but not all their bytes are")
