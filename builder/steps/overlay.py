"""`rootfs/overlay.modes`: modes and owners of files in the overlay, which git doesn't keep.

A line is `MODE OWNER:GROUP PATH`, such as `600 root:root etc/wireguard/wg0.conf`; one that begins
with # is a comment. Files that are not named there are root's, and 644, or 755 with the x bit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.alpine.apk_format import bytes_of, text_of
from builder.alpine.numbers import LAST
from builder.core.errors import UserError
from builder.core.paths import PROJECT
from builder.core.sources import files_below

OVERLAY = PROJECT / "rootfs" / "overlay"
MODES = PROJECT / "rootfs" / "overlay.modes"
READABLE = 0o044  # by others than the owner
_LINE = re.compile(r"([0-7]{3,4}) +([a-z0-9_][\w.-]*):([a-z0-9_][\w.-]*) +(\S.*)")


@dataclass(frozen=True)
class Wanted:
    """What is asked for of one file or folder: `mode` in octal, names or numbers of its owners."""

    mode: str
    owner: str
    group: str
    path: str  # below the overlay


def read_modes(modes: Path = MODES, overlay: Path = OVERLAY) -> list[Wanted]:
    """What the file asks for. Raises UserError at the first mistake."""
    if not modes.exists():
        return []
    files = {file.relative_to(overlay) for file in files_below(overlay)}
    known = files | {folder for file in files for folder in file.parents if folder.name}
    found: dict[str, Wanted] = {}
    for number, line in enumerate(text_of(modes.read_bytes()).split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"rootfs/{modes.name}:{number}:"
        match = _LINE.fullmatch(line.strip())
        if not match:
            wanted = "MODE OWNER:GROUP PATH, such as 600 root:root etc/secret"
            raise UserError(f'{where} found "{line.strip()}", wanted {wanted}')
        mode, owner, group = match[1], match[2], match[3]
        path = os.path.normpath(match[4].strip("/"))
        if (overlay / path).is_symlink():
            raise UserError(f"{where} {path} is a link, which has no mode", "name what it leads to")
        if Path(path) not in known:
            ignored = ", that git would keep" if (overlay / path).exists() else ""
            raise UserError(f"{where} there is no file or folder {path} in {overlay}{ignored}")
        if path.startswith("lib/firmware/"):
            raise UserError(f"{where} {path}: what lies in lib/firmware is root's, and 644")
        if path in found:
            raise UserError(f"{where} {path} has a line already", "leave one")
        for name in (owner, group):
            if name.isdigit() and int(name) > LAST:
                raise UserError(f"{where} found {name}, wanted a name, or a number up to {LAST}")
        found[path] = Wanted(mode, owner, group, path)
    return list(found.values())


def script_lines(wanted: list[Wanted]) -> bytes:
    """The same for `rootfs.sh`: a line each, with the path last."""
    return bytes_of("".join(f"{w.mode} {w.owner} {w.group} {w.path}\n" for w in wanted))


def notes(modes: Path = MODES, overlay: Path = OVERLAY) -> Iterator[str]:
    """What is private here and won't be in the image."""
    asked = {wanted.path for wanted in read_modes(modes, overlay)}
    private = [
        path.relative_to(overlay).as_posix()
        for path in files_below(overlay)
        if not path.is_symlink() and not path.stat().st_mode & READABLE
    ]
    private = [path for path in private if path not in asked]
    if private:
        such = f" and {len(private) - 1} more" if len(private) > 1 else ""
        yield (
            f"rootfs/overlay/{private[0]}{such}: only you may read it here, and everybody in the "
            f"image: git keeps no such mode; to have it there, ask for it in rootfs/{modes.name}"
        )
