"""`inv diff`: compares two artefacts file by file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.artefacts.listing import File, Lister
from tasks.build import plan_for
from builder.core.config import load_config
from builder.core.errors import UserError
from builder.core.output import say, show_json
from builder.core.progress import Progress


def differences(one: Mapping[str, File], two: Mapping[str, File]) -> dict[str, str]:
    """By name what differs: `only in the first`, or for instance `mode 644 -> 755, content`."""
    found = {}
    for name in sorted(one.keys() | two.keys()):
        a, b = one.get(name), two.get(name)
        if a is None or b is None:
            found[name] = "only in the second" if a is None else "only in the first"
        elif a != b:
            said = []
            if a.kind != b.kind:
                said.append(f"{a.kind} -> {b.kind}")
            if a.mode != b.mode:
                said.append(f"mode {a.mode:o} -> {b.mode:o}")
            if a.owner != b.owner:
                said.append(f"owner {a.owner} -> {b.owner}")
            if a.size != b.size:
                said.append(f"{a.size} -> {b.size} bytes")
            elif a.content != b.content:
                is_link = a.kind == b.kind == "symlink"
                said.append(f"-> {a.content} now {b.content}" if is_link else "content")
            found[name] = ", ".join(said)
    return found


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
