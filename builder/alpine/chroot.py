"""Packs an installed root as the steps after it want it: exactly, and the same every time."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from builder.alpine.apk_database import read_database
from builder.alpine.apk_format import text_of
from builder.alpine.kernel import FIRMWARE, PARTS, firmware_of, kernel_of, microcode_of
from builder.alpine.numbers import installed_numbers
from builder.alpine.owners import Owner, owners_of
from builder.alpine.root import Root
from builder.alpine.xattrs import attributes_of
from builder.core.commands import CommandError
from builder.core.errors import UserError

DATABASE = "lib/apk/db/installed"
SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


def pack_chroot(folder: Path, _inputs: Mapping[str, Path]) -> None:
    """Make `folder/chroot.tar` of `folder/root.tar`: sorted, without times, with right owners.

    Modules and firmware go to `folder/modules.tar`, as few steps need them; the kernel to
    `folder/vmlinuz`; what else belongs to a boot is left out. `folder/chroot.modes` has mode, user,
    group and path of what isn't root's, or has special bits; `folder/chroot.xattrs` name, value in
    hex and path of each extended attribute; `folder/microcode` what processors are given before the
    initramfs; `folder/firmware.list` the paths of all firmware; `folder/chroot.numbers` the numbers
    of users and groups; `folder/devicetrees.tar` the device trees of the kernel. Raises UserError
    without a kernel, and for what an image can't keep.
    """
    with (
        tarfile.open(folder / "root.tar") as tar,
        (folder / "chroot.tar").open("wb") as rest,
        (folder / "modules.tar").open("wb") as modules,
    ):
        root = Root(tar)
        packages = list(read_database(text_of(root.content(DATABASE))))
        kernel = kernel_of(root, packages)
        (folder / "microcode").write_bytes(microcode_of(root))
        (folder / "firmware.list").write_bytes(firmware_of(root))
        recorded = {
            file.path: (file.uid, file.gid) for package in packages for file in package.files
        }
        owners = owners_of(folder, root, recorded)
        accounts = [text_of(root.content(f"etc/{name}")) for name in ("passwd", "group")]
        owned = []
        trees: dict[str, bytes] = {}
        first: dict[tuple[BinaryIO, str], str] = {}  # of the names of a file with several
        for name, member in sorted(root.members.items()):
            if "\n" in name:
                raise UserError(
                    f"a package has {name!r}: no list of files can hold a name with a newline"
                )
            if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise _special(f"a package has {name}")
            reader = root.reader(member)
            if name == kernel and reader:
                (folder / "vmlinuz").write_bytes(reader.read())
            if name.startswith("boot/"):
                if name.endswith(".dtb") and reader:
                    trees[name.rpartition("/")[2]] = reader.read()
                continue
            target = modules if f"{name}/".startswith(PARTS) else rest
            info = _header(name, member, owners.get(name, (0, 0)))
            if reader:
                itself = member.linkname.removeprefix("./") if member.islnk() else name
                # Each file of firmware is by itself: few of them are unpacked.
                known = name if name.startswith(FIRMWARE) else itself
                info.linkname = first.setdefault((target, known), name)
                if info.linkname == name:
                    info.type, info.linkname = tarfile.REGTYPE, ""
                    info.size = root.members[itself].size
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
    (folder / "chroot.xattrs").write_bytes(attributes_of(folder, packages))
    (folder / "chroot.numbers").write_text(json.dumps(asdict(installed_numbers(*accounts))))
    _write_tar(folder / "devicetrees.tar", trees)
    (folder / "root.tar").unlink()


def _write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def explain_installation(error: CommandError) -> UserError:
    """What it means that packages couldn't be installed, where that is known."""
    refused = re.search(
        r"ERROR: (\S+): failed to extract (.+): Operation not permitted", error.output
    )
    return _special(f"{refused[1]} has {refused[2]}") if refused else error


def _special(what: str) -> UserError:
    return UserError(
        f"{what}, which is a device, a pipe or the like: an image holds files, folders and links "
        "only",
        "leave the package out, or make it at boot",
    )


def _header(name: str, member: tarfile.TarInfo, owner: Owner) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.uid, info.gid = owner
    info.type, info.linkname = member.type, member.linkname
    info.mode = 0o777 if member.issym() else member.mode
    return info
