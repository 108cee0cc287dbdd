"""Which files of the project count: one rule for steps, releases and the site.

Those that git would keep count: tracked ones, and others that nothing ignores. Outside of a git
tree all count, but for what Python leaves behind. Empty folders don't: git keeps none.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from builder.core.errors import UserError
from builder.core.git import environment

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
        raise UserError(f"{str(odd[0])!r}: its name has a newline in it", "give it another one")
    # One that was deleted is tracked still.
    return sorted(path for path in found if path.is_symlink() or path.is_file())


def _kept_by_git(folder: Path) -> list[Path] | None:
    """What git says of a folder; None outside of a git tree.

    Raises UserError where it is in one, and git can't say.
    """
    if not any((above / ".git").exists() for above in (folder, *folder.resolve().parents)):
        return None
    try:
        done = subprocess.run(
            ["git", "-C", folder, *_KEPT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=environment(),
        )
    except OSError:
        raise UserError(f"{folder}: git is not installed, and says which files count") from None
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip()
        raise UserError(f"{folder}: git can't say which files count:\n{complaint}")
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    for path in (folder / name for name in names):
        if path.is_dir() and not path.is_symlink():
            raise UserError(
                f"{path} is a git repository by itself, so git keeps none of its files here",
                "take its .git away, or copy its files elsewhere",
            )
    # Of a folder that is ignored as a whole, git keeps nothing; then nobody meant its rule.
    return [folder / name for name in names] if names else None


def gather(folder: Path, target: Path) -> None:
    """Put the files of a folder that count to `target`, as links where that can be."""
    target.mkdir(parents=True)
    for path in files_below(folder):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
            continue
        try:
            os.link(path, copy)
        except OSError:  # another file system
            copy.write_bytes(path.read_bytes())
            copy.chmod(path.stat().st_mode & 0o777)
