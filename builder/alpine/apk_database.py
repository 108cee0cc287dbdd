"""Reads `lib/apk/db/installed`, apk's record of what is installed and of whose the files are.

Format: https://wiki.alpinelinux.org/wiki/Apk_spec; the letters are those of apk-tools' database.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from builder.alpine.apk_format import lines_of


@dataclass(frozen=True)
class InstalledFile:
    """A file or folder as its package wants it: `path` without a leading slash."""

    path: str
    is_dir: bool
    mode: int  # permission bits, setuid and the like included
    uid: int = 0
    gid: int = 0
    checksum: str = ""  # "Q1" and the base64 SHA-1 of a file's bytes, or of a symlink's target


@dataclass
class InstalledPackage:
    """One package: its one-letter fields as they stand, and its files."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[InstalledFile] = field(default_factory=list)


def read_database(text: str) -> Iterator[InstalledPackage]:
    """Every package of the database, in its order."""
    for block in text.split("\n\n"):
        package = InstalledPackage()
        files = package.files
        folder = ""
        for line in lines_of(block):
            letter, value = line[0], line[2:]
            if letter == "F":
                folder = f"{value}/" if value else ""
                files.append(InstalledFile(value, is_dir=True, mode=0o755))
            elif letter == "R":
                files.append(InstalledFile(folder + value, is_dir=False, mode=0o644))
            elif letter in "Ma":
                uid, gid, mode = value.split(":")[:3]
                files[-1] = replace(files[-1], uid=int(uid), gid=int(gid), mode=int(mode, 8))
            elif letter == "Z":
                files[-1] = replace(files[-1], checksum=value)
            else:
                package.fields[letter] = value
        if package.fields:
            yield package
