"""Whose the files of an installed root are.

Where the engine only fakes owners, every file belongs to the user who builds. What is wanted then
is in apk's database, and in the notes of what the scripts of packages asked for.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tasks.core.errors import UserError
from tasks.engines.noted_chown import NOTES, Note, read_notes

SCRIPTS = "lib/apk/db/scripts.tar"
INSTALLED_AT, INODES = b"/tmp/root/", "inodes"  # of chroot.sh
# What the scripts of this package set is known without notes.
KNOWN_SCRIPTS = "alpine-baselayout-"
SHADOW, SHADOW_OWNER = "etc/shadow", (0, 42)
SETS_OWNERS = re.compile(rb"\b(chown|chgrp|install\s(.*\s)?-\w*[og])\b")

Owner = tuple[int, int]  # user and group


def owners_of(
    folder: Path,
    root: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    recorded: dict[str, Owner],
) -> dict[str, Owner]:
    """The owner of each file, as far as it isn't root's; `recorded` is what the database says.

    Raises UserError where scripts set owners that couldn't be noted.
    """
    if (folder / NOTES).exists():
        return recorded | _asked_for(folder, recorded)
    if any(member.uid or member.gid for member in members.values()):
        return {name: (member.uid, member.gid) for name, member in members.items()}
    unknown = [
        name
        for name in _scripts_setting_owners(root, members)
        if not name.startswith(KNOWN_SCRIPTS)
    ]
    if unknown:
        raise UserError(
            f"the install scripts of {', '.join(unknown)} set owners of files, and this kernel "
            "can't tell Belay which (it needs Linux 5.6, and that no other program listens to "
            'system calls); let docker run the steps (engine = "docker" in [build] of '
            "image.toml), or build on another machine"
        )
    return recorded | {SHADOW: SHADOW_OWNER}


def _asked_for(folder: Path, recorded: Mapping[str, Owner]) -> dict[str, Owner]:
    """What the notes of the job say of its files, of which `folder/inodes` is a list."""
    copies = set()
    by_inode: dict[bytes, list[Note]] = defaultdict(list)
    by_name: dict[bytes, list[Note]] = defaultdict(list)
    for note in read_notes(folder / NOTES):
        inode = b"%d %d" % (note.device, note.inode)
        if note.copied:
            copies.add(inode)
        else:
            by_inode[inode].append(note)
            by_name[os.fsencode(note.path).removeprefix(INSTALLED_AT)].append(note)
    found = {}
    for line in (folder / INODES).read_bytes().splitlines():
        inode, _, name = line.partition(b" ./")
        notes = by_inode[inode] or (by_name[name] if inode in copies else [])
        owner = recorded.get(os.fsdecode(name), (0, 0))
        for note in notes:
            owner = (
                owner[0] if note.uid is None else note.uid,
                owner[1] if note.gid is None else note.gid,
            )
        if notes:
            found[os.fsdecode(name)] = owner
    return found


def _scripts_setting_owners(
    root: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]
) -> list[str]:
    """The packages with version whose scripts, which apk keeps, give files away."""
    found = set()
    for name in (name for name in members if name.startswith(SCRIPTS)):
        with tarfile.open(fileobj=root.extractfile(members[name])) as scripts:
            for script in scripts:
                reader = scripts.extractfile(script)
                if reader and SETS_OWNERS.search(reader.read()):
                    found.add(script.name.rsplit(".", 2)[0])
    return sorted(found)
