"""What of an installed root is the kernel's: itself, its firmware, microcode for the processor."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Sequence

from builder.alpine.apk_database import InstalledPackage
from builder.alpine.initramfs import cpio_entries
from builder.alpine.root import Root
from builder.core.errors import UserError

KERNEL, FIRMWARE = "boot/vmlinuz-", "lib/firmware/"
PARTS = ("lib/modules/", FIRMWARE)  # what lies in the modloop
MICROCODE_PACKAGES = ("amd-ucode", "intel-ucode")
MICROCODE = re.compile(r"boot/[a-z0-9]+-ucode\.img")


def kernel_of(root: Root, packages: Sequence[InstalledPackage]) -> str:
    """The path of the kernel. Raises UserError where there is none, or where there are several."""
    kernels = root.below(KERNEL)
    if not kernels:
        raise UserError("the packages hold no kernel")
    trees = {name.split("/")[2] for name in root.below("lib/modules/")}
    if len(kernels) > 1 or len(trees) > 1:
        holders = {
            file.path: f"{package.fields['P']}-{package.fields['V']}"
            for package in packages
            for file in package.files
        }
        found = ", ".join(f"{name} of {holders.get(name, 'a script')}" for name in kernels)
        raise UserError(
            f"the packages hold several kernels, and an image has one: {found}; modules of "
            f"{', '.join(sorted(trees))}",
            "kernel in [alpine] of image.toml brings its own: take the others out of rootfs/world, "
            "and what needs them",
        )
    return kernels[0]


def microcode_of(root: Root) -> bytes:
    """What Alpine's intel-ucode and amd-ucode have, one behind the other.

    Each is a cpio that is not compressed; the kernel looks into all that come before the initramfs.
    Source: https://docs.kernel.org/arch/x86/microcode.html
    """
    found = {name: root.content(name) for name in root.below("boot/") if MICROCODE.fullmatch(name)}
    for name, data in found.items():
        try:
            list(cpio_entries(bytearray(data)))
        except (ValueError, IndexError):
            raise UserError(
                f"{name} of a package is no cpio that is not compressed, as microcode has to be: "
                "the kernel would find no initramfs behind it",
                "leave the package out",
            ) from None
    return b"".join(data + bytes(-len(data) % tarfile.BLOCKSIZE) for data in found.values())


def firmware_of(root: Root) -> bytes:
    """A line for each file and link of firmware: its path, and after a tab the link's target."""
    lines = []
    for name in root.below(FIRMWARE):
        member = root.members[name]
        if not member.isdir():
            target = f"\t{member.linkname}" if member.issym() else ""
            lines.append(os.fsencode(f"{name.removeprefix(FIRMWARE)}{target}\n"))
    return b"".join(lines)
