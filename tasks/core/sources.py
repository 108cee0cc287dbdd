"""Which files of the project count: one rule for steps, releases and the site.

Those that git would keep count: tracked ones, and others that nothing ignores. Outside of a git
tree all count, but for what Python leaves behind. Empty folders don't: git keeps none.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tasks.core.errors import UserError

LEFT_BEHIND = {"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
_KEPT = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")


def files_below(folder: Path) -> list[Path]:
    """All files and symlinks below a folder that count, sorted by their names."""
    found = _kept_by_git(folder)
    if found is None:
        found = [
            path
            for path in folder.rglob("*")
            if not LEFT_BEHIND & set(path.relative_to(folder).parts)
        ]
    if odd := [path for path in found if "\n" in path.name]:
        raise UserError(f"{str(odd[0])!r}: its name has a newline in it; give it another one")
    # One that was deleted is tracked still; a repository inside is no file.
    return sorted(path for path in found if path.is_symlink() or path.is_file())


def _kept_by_git(folder: Path) -> list[Path] | None:
    """What git says of a folder; None where it knows nothing of it."""
    try:
        done = subprocess.run(
            ["git", "-C", folder, *_KEPT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    if done.returncode:
        return None
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    # Of a folder that is ignored as a whole, git keeps nothing; then nobody meant its rule.
    return [folder / name for name in names] if names else None


def gather(folder: Path, target: Path) -> None:
    """Put the files of a folder that count to `target`, as links where that can be."""
    target.mkdir(parents=True)
    for path in files_below(folder):
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            place.symlink_to(path.readlink())
            continue
        try:
            os.link(path, place)
        except OSError:  # another file system
            place.write_bytes(path.read_bytes())
            place.chmod(path.stat().st_mode & 0o777)
