"""Gives an installed root the owners that its packages want.

In the container every file belongs to the user who builds; apk's database knows the real owners.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tasks.alpine.apk_database import InstalledFile, read_database
from tasks.alpine.apk_format import text_of
from tasks.core.errors import UserError

DATABASE = "lib/apk/db/installed"
SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
MODULES = ("lib/modules", "lib/firmware")
SHADOW_GROUP = 42  # of alpine-baselayout-data
# Owners that scripts of packages set, which the database doesn't record.
SET_BY_SCRIPTS = {
    "etc/shadow": InstalledFile("etc/shadow", False, 0o640, 0, SHADOW_GROUP),
}


def pack_chroot(folder: Path, _inputs: Mapping[str, Path]) -> None:
    """Make `folder/chroot.tar` of `folder/root.tar`: sorted, without times, with right owners.

    Modules and firmware go to `folder/modules.tar`, as few steps need them; the kernel to
    `folder/vmlinuz`; what else belongs to a boot is left out. `folder/chroot.modes` has mode, user,
    group and path of what isn't root's, or has special bits. Raises UserError without a kernel.
    """
    with (
        tarfile.open(folder / "root.tar") as source,
        (folder / "chroot.tar").open("wb") as rest,
        (folder / "modules.tar").open("wb") as modules,
    ):
        members = {member.name.removeprefix("./"): member for member in source}
        members.pop(".", None)
        kernel = next((name for name in members if name.startswith("boot/vmlinuz-")), None)
        if not kernel:
            raise UserError("the packages hold no kernel")
        database = source.extractfile(members[DATABASE])
        assert database is not None, DATABASE
        owners = {
            file.path: file
            for package in read_database(text_of(database.read()))
            for file in package.files
        } | SET_BY_SCRIPTS
        owned = []
        for name, member in sorted(members.items()):
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise UserError(
                    f"a package has {name}, which is a device, a pipe or the like: an image holds "
                    "files, folders and links only; leave the package out, or make it at boot"
                )
            reader = source.extractfile(member) if member.isreg() else None
            if name == kernel and reader:
                (folder / "vmlinuz").write_bytes(reader.read())
            if name.startswith("boot/"):
                continue
            target = modules if name.startswith(MODULES) else rest
            info = _header(name, member, owners.get(name))
            target.write(info.tobuf(tarfile.GNU_FORMAT))
            if target is rest and (info.uid or info.gid or info.mode & SPECIAL):
                owned.append(b"%o %d %d %s\n" % (info.mode, info.uid, info.gid, _line(name)))
            if reader:
                target.write(reader.read() + bytes(-member.size % tarfile.BLOCKSIZE))
        for target in (rest, modules):
            target.write(bytes(2 * tarfile.BLOCKSIZE))
    (folder / "chroot.modes").write_bytes(b"".join(owned))
    (folder / "root.tar").unlink()


def _line(name: str) -> bytes:
    """A path as it may stand at the end of a line."""
    if "\n" in name:
        raise UserError(f"a package has {name!r}: no list of files can hold a name with a newline")
    return os.fsencode(name)


def _header(name: str, member: tarfile.TarInfo, owner: InstalledFile | None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = member.type, member.size, member.linkname
    info.mode = 0o777 if member.issym() else member.mode
    if member.islnk():
        info.linkname = member.linkname.removeprefix("./")
    if owner:
        info.uid, info.gid = owner.uid, owner.gid
        # Only what chown would have taken away; a script of a package may have changed the rest.
        info.mode |= owner.mode & (stat.S_ISUID | stat.S_ISGID)
    return info
