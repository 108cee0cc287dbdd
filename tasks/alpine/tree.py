"""Gives an installed root the owners that its packages want.

Where the engine only fakes owners, every file belongs to the user who builds. What is wanted then
is in apk's database, and in the notes of what the scripts of packages asked for.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from tasks.alpine.apk_database import InstalledPackage, read_database
from tasks.alpine.apk_format import text_of
from tasks.alpine.numbers import installed_numbers
from tasks.core.commands import CommandError
from tasks.core.errors import UserError
from tasks.engines.noted_chown import NOTES, Note, read_notes

DATABASE = "lib/apk/db/installed"
SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
MODULES = ("lib/modules", "lib/firmware")
SCRIPTS = "lib/apk/db/scripts.tar"
INSTALLED_AT, INODES = b"/tmp/root/", "inodes"  # of chroot.sh
# What the scripts of this package set is known without notes.
KNOWN_SCRIPTS = "alpine-baselayout-"
SHADOW, SHADOW_OWNER = "etc/shadow", (0, 42)
SETS_OWNERS = re.compile(rb"\b(chown|chgrp|install\s(.*\s)?-\w*[og])\b")
XATTRS = "xattrs"  # of chroot.sh
KEPT_ATTRIBUTES = (b"security.", b"user.", b"trusted.")  # by squashfs
OF_THE_HOST = {b"security.selinux", b"security.ima", b"security.evm"}  # not of the packages
ESCAPED = re.compile(rb"\\([0-7]{3})")  # in getfattr's output

Owner = tuple[int, int]  # user and group


def pack_chroot(folder: Path, _inputs: Mapping[str, Path]) -> None:
    """Make `folder/chroot.tar` of `folder/root.tar`: sorted, without times, with right owners.

    Modules and firmware go to `folder/modules.tar`, as few steps need them; the kernel to
    `folder/vmlinuz`; what else belongs to a boot is left out. `folder/chroot.modes` has mode, user,
    group and path of what isn't root's, or has special bits; `folder/chroot.xattrs` name, value in
    hex and path of each extended attribute; `folder/chroot.numbers` the numbers of users and
    groups. Raises UserError without a kernel, and for what an
    image can't keep.
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
        packages = list(read_database(text_of(_content(source, members, DATABASE))))
        recorded = {
            file.path: (file.uid, file.gid) for package in packages for file in package.files
        }
        owners = _owners(folder, source, members, recorded)
        accounts = [
            text_of(_content(source, members, f"etc/{name}")) for name in ("passwd", "group")
        ]
        owned = []
        first: dict[tuple[BinaryIO, str], str] = {}  # of the names of a file with several
        for name, member in sorted(members.items()):
            if "\n" in name:
                raise UserError(
                    f"a package has {name!r}: no list of files can hold a name with a newline"
                )
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise _special(f"a package has {name}")
            reader = source.extractfile(member) if member.isreg() or member.islnk() else None
            if name == kernel and reader:
                (folder / "vmlinuz").write_bytes(reader.read())
            if name.startswith("boot/"):
                continue
            target = modules if name.startswith(MODULES) else rest
            info = _header(name, member, owners.get(name, (0, 0)))
            if reader:
                itself = member.linkname.removeprefix("./") if member.islnk() else name
                info.linkname = first.setdefault((target, itself), name)
                if info.linkname == name:
                    info.type, info.linkname, info.size = tarfile.REGTYPE, "", members[itself].size
                else:
                    info.type, info.size, reader = tarfile.LNKTYPE, 0, None
            target.write(info.tobuf(tarfile.GNU_FORMAT))
            if target is rest and (info.uid or info.gid or info.mode & SPECIAL):
                owned.append(b"%o %d %d %s\n" % (info.mode, info.uid, info.gid, os.fsencode(name)))
            if reader:
                target.write(reader.read() + bytes(-info.size % tarfile.BLOCKSIZE))
        for target in (rest, modules):
            target.write(bytes(2 * tarfile.BLOCKSIZE))
    (folder / "chroot.modes").write_bytes(b"".join(owned))
    (folder / "chroot.xattrs").write_bytes(_attributes(folder / XATTRS, packages))
    (folder / "chroot.numbers").write_text(json.dumps(asdict(installed_numbers(*accounts))))
    (folder / "root.tar").unlink()


def explain_installation(error: CommandError) -> UserError:
    """What it means that packages couldn't be installed, where that is known."""
    refused = re.search(
        r"ERROR: (\S+): failed to extract (.+): Operation not permitted", error.output
    )
    return _special(f"{refused[1]} has {refused[2]}") if refused else error


def _special(what: str) -> UserError:
    return UserError(
        f"{what}, which is a device, a pipe or the like: an image holds files, folders and links "
        "only; leave the package out, or make it at boot"
    )


def _content(root: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str) -> bytes:
    """A file of the root. Raises UserError where it isn't there."""
    reader = root.extractfile(members[name]) if name in members else None
    if not reader:
        raise UserError(f"the packages hold no file {name}")
    return reader.read()


def _owners(
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


def _attributes(listed: Path, packages: Sequence[InstalledPackage]) -> bytes:
    """The extended attributes in the file `listed`, as `getfattr -e hex` wrote it, a line each.

    Raises UserError for what can't be kept.
    """
    for package in packages:
        if "x" in package.fields.get("f", ""):  # so apk notes what it failed to set
            raise UserError(
                f"{package.fields['P']}-{package.fields['V']} has extended attributes that can't "
                "be set here, as the log says; they would be missing in the image: leave the "
                "package out, or build on a newer kernel"
            )
    lines = []
    path = b""
    for line in listed.read_bytes().splitlines():
        if line.startswith(b"# file: "):
            path = ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), line[len(b"# file: ") :])
            continue
        name, _, value = line.partition(b"=")
        if (
            not name
            or name in OF_THE_HOST
            or path.startswith((b"boot/", *map(str.encode, MODULES)))
        ):
            continue
        if not name.startswith(KEPT_ATTRIBUTES):
            raise UserError(
                f"a script of a package gives {os.fsdecode(path)} {name.decode()}, which an image "
                "can't hold (access control lists, for example): leave the package out"
            )
        lines.append(b"%s %s %s\n" % (name, value or b"0x", path))
    return b"".join(sorted(lines))


def _header(name: str, member: tarfile.TarInfo, owner: Owner) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.uid, info.gid = owner
    info.type, info.linkname = member.type, member.linkname
    info.mode = 0o777 if member.issym() else member.mode
    return info
