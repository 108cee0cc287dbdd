"""Whose the files of an installed root are.

Where the engine only fakes owners, every file belongs to the user who builds. What is wanted then
is in apk's database, and in the notes of what the scripts of packages asked for.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from builder.alpine.root import Root
from builder.core.errors import UserError
from builder.engines.noted_chown import NOTES, Note, read_notes

SCRIPTS = "lib/apk/db/scripts.tar"
INSTALLED_AT, INODES = b"/tmp/root/", "inodes"  # of chroot.sh
# What the scripts of this package set is known without notes.
KNOWN_SCRIPTS = "alpine-baselayout-"
SHADOW, SHADOW_OWNER = "etc/shadow", (0, 42)
SETS_OWNERS = re.compile(rb"\b(chown|chgrp|install\s(.*\s)?-\w*[og])\b")

Owner = tuple[int, int]  # user and group


def owners_of(folder: Path, root: Root, recorded: dict[str, Owner]) -> dict[str, Owner]:
    """The owner of each file, as far as it isn't root's; `recorded` is what the database says.

    Raises UserError where scripts set owners that couldn't be noted.
    """
    if (folder / NOTES).exists():
        owners = _asked_for(folder)
        _inherit_groups(owners, root.members, recorded)
        return owners
    if any(member.uid or member.gid for member in root.members.values()):
        return {name: (member.uid, member.gid) for name, member in root.members.items()}
    unknown = [name for name in _scripts_setting_owners(root) if not name.startswith(KNOWN_SCRIPTS)]
    if unknown:
        raise UserError(
            f"the install scripts of {', '.join(unknown)} set owners of files, and this kernel "
            "can't tell Belay which (it needs Linux 5.6, and that no other program listens to "
            "system calls)",
            'let docker run the steps (engine = "docker" in [build] of '
            "image.toml), or build on another machine",
        )
    return recorded | {SHADOW: SHADOW_OWNER}


def _asked_for(folder: Path) -> dict[str, Owner]:
    """What the notes of the job, apk's own among them, say of the files in `folder/inodes`."""
    copies = set()
    by_inode: dict[bytes, list[Note]] = {}
    by_name: dict[bytes, list[Note]] = {}
    for note in read_notes(folder / NOTES):
        inode = _inode(note)
        if note.copied:
            copies.add(inode)
        else:
            by_inode.setdefault(inode, []).append(note)
            name = os.fsencode(note.path).removeprefix(INSTALLED_AT)
            by_name.setdefault(name, []).append(note)
    found = {}
    for inode, name in _files(folder, by_inode.keys() | copies):
        notes = by_inode.get(inode) or by_name.get(name, [])
        uid = gid = 0
        for note in notes:
            uid = uid if note.uid is None else note.uid
            gid = gid if note.gid is None else note.gid
        if notes:
            found[os.fsdecode(name)] = (uid, gid)
    return found


def _inherit_groups(
    owners: dict[str, Owner],
    members: Mapping[str, tarfile.TarInfo],
    recorded: Mapping[str, Owner],
) -> None:
    """Give what scripts made in a setgid folder its group, as the kernel does for true owners."""
    folders = {n: m for n, m in members.items() if m.isdir() and m.mode & stat.S_ISGID}
    if not folders:
        return
    for name in sorted(members.keys() - owners.keys() - recorded.keys()):
        above = name.rpartition("/")[0]
        if above in folders:
            owners[name] = (0, owners.get(above, (0, 0))[1])


def stripped_files(folder: Path) -> set[str]:
    """The files that lost their capabilities, as they got another owner."""
    if not (folder / NOTES).exists():
        return set()
    stripped = {_inode(note) for note in read_notes(folder / NOTES) if note.stripped}
    return {os.fsdecode(name) for _, name in _files(folder, stripped)}


def _inode(note: Note) -> bytes:
    """Device and inode as chroot.sh lists them."""
    return b"%d %d" % (note.device, note.inode)


def _files(folder: Path, inodes: Set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Those files in `folder/inodes` that are wanted: device and inode, and the name."""
    for line in (folder / INODES).read_bytes().split(b"\n") if inodes else ():
        inode, _, name = line.partition(b" ./")
        if inode in inodes:
            yield inode, name


def _scripts_setting_owners(root: Root) -> list[str]:
    """The packages with version whose scripts, which apk keeps, give files away."""
    found = set()
    for name in root.below(SCRIPTS):
        with tarfile.open(fileobj=io.BytesIO(root.content(name))) as scripts:
            for script in scripts:
                reader = scripts.extractfile(script)
                if reader and SETS_OWNERS.search(reader.read()):
                    found.add(script.name.rsplit(".", 2)[0])
    return sorted(found)
