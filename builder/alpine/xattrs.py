"""The extended attributes of an installed root, file capabilities among them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from builder.alpine.apk_database import InstalledPackage
from builder.alpine.kernel import PARTS
from builder.alpine.owners import stripped_files
from builder.core.errors import UserError
from builder.engines.noted_chown import CAPABILITIES

XATTRS = "xattrs"  # of chroot.sh
KEPT = (b"security.", b"user.", b"trusted.")  # by squashfs
OF_THE_HOST = {b"security.selinux", b"security.ima", b"security.evm"}  # not of the packages
ESCAPED = re.compile(rb"\\([0-7]{3})")  # in getfattr's output


def attributes_of(folder: Path, packages: Sequence[InstalledPackage]) -> bytes:
    """The extended attributes in `folder/xattrs`, as `getfattr -e hex` wrote it, a line each.

    Raises UserError for what can't be kept.
    """
    for package in packages:
        if "x" in package.fields.get("f", ""):  # so apk notes what it failed to set
            raise UserError(
                f"{package.fields['P']}-{package.fields['V']} has extended attributes that can't "
                "be set here, as the log says; they would be missing in the image",
                "leave the package out, or build on a newer kernel",
            )
    lines = []
    path = b""
    stripped = stripped_files(folder)
    for line in (folder / XATTRS).read_bytes().splitlines():
        if line.startswith(b"# file: "):
            path = ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), line[len(b"# file: ") :])
            continue
        name, _, value = line.partition(b"=")
        if not name or name in OF_THE_HOST or os.fsdecode(path).startswith(("boot/", *PARTS)):
            continue
        if name == CAPABILITIES.encode() and os.fsdecode(path) in stripped:
            continue
        if not name.startswith(KEPT):
            raise UserError(
                f"a script of a package gives {os.fsdecode(path)} {name.decode()}, which an image "
                "can't hold (access control lists, for example): leave the package out"
            )
        lines.append(b"%s %s %s\n" % (name, value or b"0x", path))
    return b"".join(sorted(lines))
