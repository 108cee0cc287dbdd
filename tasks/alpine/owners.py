"""Whose the files of an installed root are.

Where the engine only fakes owners, every file belongs to the user who builds. What is wanted then
is in apk's database, and in the notes of what the scripts of packages asked for.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
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
        owners = _asked_for(folder)
        _inherit_groups(owners, members, recorded)
        return owners
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


def _asked_for(folder: Path) -> dict[str, Owner]:
    """What the notes of the job, apk's own among them, say of the files in `folder/inodes`."""
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
    for inode, name in _inodes(folder):
        notes = by_inode[inode] or (by_name[os.fsencode(name)] if inode in copies else [])
        uid = gid = 0
        for note in notes:
            uid = uid if note.uid is None else note.uid
            gid = gid if note.gid is None else note.gid
        if notes:
            found[name] = (uid, gid)
    return found


def _inherit_groups(
    owners: dict[str, Owner],
    members: Mapping[str, tarfile.TarInfo],
    recorded: Mapping[str, Owner],
) -> None:
    """Give what scripts made in a setgid folder its group, as the kernel does for true owners."""
    for name in sorted(members.keys() - owners.keys() - recorded.keys()):
        above = members.get(name.rpartition("/")[0])
        if above and above.mode & stat.S_ISGID:
            group = owners.get(name.rpartition("/")[0], (0, 0))[1]
            owners[name] = (0, group)


def stripped_files(folder: Path) -> set[str]:
    """The files that lost their capabilities, as they got another owner."""
    if not (folder / NOTES).exists():
        return set()
    stripped = {f"{n.device} {n.inode}".encode() for n in read_notes(folder / NOTES) if n.stripped}
    return {name for inode, name in _inodes(folder) if inode in stripped}


def _inodes(folder: Path) -> Iterator[tuple[bytes, str]]:
    """Device and inode of each file, as chroot.sh listed them, and its name."""
    for line in (folder / INODES).read_bytes().split(b"\n"):
        inode, _, name = line.partition(b" ./")
        yield inode, os.fsdecode(name)


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
