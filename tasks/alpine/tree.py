"""Packs an installed root as a tar whose owners and modes are those that its packages want.

In the container every file belongs to the user who builds; apk's database knows the real owners.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

from tasks.alpine.apk_database import InstalledFile, read_database
from tasks.core.files import remove_tree

DATABASE = "lib/apk/db/installed"
SHADOW_GROUP = 42  # of alpine-baselayout-data
# Owners that scripts of packages set, which the database doesn't record.
SET_BY_SCRIPTS = {
    "etc/shadow": InstalledFile("etc/shadow", False, 0o640, 0, SHADOW_GROUP),
}


def pack_root(folder: Path) -> None:
    """Replace `folder/root` by `folder/chroot.tar`: sorted, without times."""
    root = folder / "root"
    owners = {
        file.path: file
        for package in read_database((root / DATABASE).read_text())
        for file in package.files
    } | SET_BY_SCRIPTS
    with (folder / "chroot.tar").open("wb") as tar:
        for name in _walk(root):
            _add(tar, root / name, name, owners.get(name))
        tar.write(bytes(2 * tarfile.BLOCKSIZE))
    remove_tree(root)


def _walk(root: Path) -> list[str]:
    """All paths below `root`, sorted, so that a folder comes before what is in it."""
    found = []
    for folder, folders, files in os.walk(root):
        prefix = os.path.relpath(folder, root)
        found += [os.path.normpath(f"{prefix}/{name}") for name in (*folders, *files)]
    return sorted(found)


def _add(tar: io.BufferedWriter, path: Path, name: str, owner: InstalledFile | None) -> None:
    found = path.lstat()
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(found.st_mode)
    if owner:
        info.uid, info.gid = owner.uid, owner.gid
        # Only what chown would have taken away; a script of a package may have changed the rest.
        info.mode |= owner.mode & (stat.S_ISUID | stat.S_ISGID)
    if stat.S_ISLNK(found.st_mode):
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
    elif stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    else:
        info.size = found.st_size
    tar.write(info.tobuf(tarfile.GNU_FORMAT))
    if info.size:
        data = path.read_bytes()
        tar.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
