"""Packs an installed root as the steps after it want it: exactly, and the same every time."""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from tasks.alpine.apk_database import InstalledPackage, read_database
from tasks.alpine.apk_format import text_of
from tasks.alpine.numbers import installed_numbers
from tasks.alpine.owners import Owner, owners_of, stripped_files
from tasks.core.commands import CommandError
from tasks.core.errors import UserError
from tasks.engines.noted_chown import CAPABILITIES

DATABASE = "lib/apk/db/installed"
SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
MODULES = ("lib/modules/", "lib/firmware/")
KERNEL, FIRMWARE = "boot/vmlinuz-", "lib/firmware/"
MICROCODE = re.compile(r"boot/[a-z0-9]+-ucode\.img")
XATTRS = "xattrs"  # of chroot.sh
KEPT_ATTRIBUTES = (b"security.", b"user.", b"trusted.")  # by squashfs
OF_THE_HOST = {b"security.selinux", b"security.ima", b"security.evm"}  # not of the packages
ESCAPED = re.compile(rb"\\([0-7]{3})")  # in getfattr's output


def pack_chroot(folder: Path, _inputs: Mapping[str, Path]) -> None:
    """Make `folder/chroot.tar` of `folder/root.tar`: sorted, without times, with right owners.

    Modules and firmware go to `folder/modules.tar`, as few steps need them; the kernel to
    `folder/vmlinuz`; what else belongs to a boot is left out. `folder/chroot.modes` has mode, user,
    group and path of what isn't root's, or has special bits; `folder/chroot.xattrs` name, value in
    hex and path of each extended attribute; `folder/microcode` what processors are given before the
    initramfs; `folder/firmware.list` the paths of all firmware; `folder/chroot.numbers` the numbers
    of users and groups. Raises UserError without a kernel, and for what an image can't keep.
    """
    with (
        tarfile.open(folder / "root.tar") as source,
        (folder / "chroot.tar").open("wb") as rest,
        (folder / "modules.tar").open("wb") as modules,
    ):
        members = {member.name.removeprefix("./"): member for member in source}
        members.pop(".", None)
        packages = list(read_database(text_of(_content(source, members, DATABASE))))
        kernel = _kernel(members, packages)
        (folder / "microcode").write_bytes(_microcode(source, members))
        (folder / "firmware.list").write_bytes(_firmware(members))
        recorded = {
            file.path: (file.uid, file.gid) for package in packages for file in package.files
        }
        owners = owners_of(folder, source, members, recorded)
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
            target = modules if f"{name}/".startswith(MODULES) else rest
            info = _header(name, member, owners.get(name, (0, 0)))
            if reader:
                itself = member.linkname.removeprefix("./") if member.islnk() else name
                # Each file of firmware is by itself: few of them are unpacked.
                known = name if name.startswith(FIRMWARE) else itself
                info.linkname = first.setdefault((target, known), name)
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
    (folder / "chroot.xattrs").write_bytes(_attributes(folder, packages))
    (folder / "chroot.numbers").write_text(json.dumps(asdict(installed_numbers(*accounts))))
    (folder / "root.tar").unlink()


def _kernel(members: Mapping[str, tarfile.TarInfo], packages: Sequence[InstalledPackage]) -> str:
    """The path of the kernel. Raises UserError where there is none, or where there are several."""
    kernels = sorted(name for name in members if name.startswith(KERNEL))
    if not kernels:
        raise UserError("the packages hold no kernel")
    trees = {name.split("/")[2] for name in members if name.startswith("lib/modules/")}
    if len(kernels) > 1 or len(trees) > 1:
        holders = {
            file.path: f"{package.fields['P']}-{package.fields['V']}"
            for package in packages
            for file in package.files
        }
        found = ", ".join(f"{name} of {holders.get(name, 'a script')}" for name in kernels)
        raise UserError(
            f"the packages hold several kernels, and an image has one: {found}; modules of "
            f"{', '.join(sorted(trees))}; kernel in [alpine] of image.toml brings its own, so take "
            "the others out of rootfs/world, and what needs them"
        )
    return kernels[0]


def _microcode(root: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> bytes:
    """What Alpine's intel-ucode and amd-ucode have, one behind the other.

    Each is a cpio that is not compressed; the kernel looks into all that come before the initramfs.
    Source: https://docs.kernel.org/arch/x86/microcode.html
    """
    found = [_content(root, members, name) for name in sorted(members) if MICROCODE.fullmatch(name)]
    return b"".join(data + bytes(-len(data) % tarfile.BLOCKSIZE) for data in found)


def _firmware(members: Mapping[str, tarfile.TarInfo]) -> bytes:
    """A line for each file and link of firmware: its path, and after a tab the link's target."""
    lines = []
    for name, member in sorted(members.items()):
        if name.startswith(FIRMWARE) and not member.isdir():
            target = f"\t{member.linkname}" if member.issym() else ""
            lines.append(os.fsencode(f"{name.removeprefix(FIRMWARE)}{target}\n"))
    return b"".join(lines)


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


def _attributes(folder: Path, packages: Sequence[InstalledPackage]) -> bytes:
    """The extended attributes in `folder/xattrs`, as `getfattr -e hex` wrote it, a line each.

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
    stripped = stripped_files(folder)
    for line in (folder / XATTRS).read_bytes().splitlines():
        if line.startswith(b"# file: "):
            path = ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), line[len(b"# file: ") :])
            continue
        name, _, value = line.partition(b"=")
        if not name or name in OF_THE_HOST or os.fsdecode(path).startswith(("boot/", *MODULES)):
            continue
        if name == CAPABILITIES.encode() and os.fsdecode(path) in stripped:
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
