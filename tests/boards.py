"""A mirror with packages for Raspberry Pis: made up ones, or Debian's kernel and U-Boot."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.alpine.apk_writer import Draft, Entry, draft
from builder.core.arch import AARCH64
from builder.core.files import linked
from builder.sample.mirror import sample_mirror, write_repository
from tests.offer import new_key
from tests.project import Project

FIRMWARE = ("bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat")
# What the boot from a card needs of Debian's kernel, below lib/modules/VERSION/kernel.
KERNEL_PARTS = (
    "lib",
    "crypto",
    "drivers/mmc",
    "drivers/dma",
    "drivers/block/loop",
    *(f"fs/{name}" for name in ("squashfs", "ext4", "jbd2", "mbcache", "fat", "nls", "overlayfs")),
)
BOARD = {
    "BELAY_ALPINE_ARCH": AARCH64.name,
    "BELAY_ALPINE_KERNEL": "rpi",
    "BELAY_BOOT_BOARD": "rpi",
}


def board_mirror(
    folder: Path, kernel: Iterable[Entry], trees: Mapping[str, bytes], u_boot: bytes
) -> None:
    """Make a mirror in `folder`: of the kernel's files, device trees by name, and U-Boot."""
    shutil.copytree(sample_mirror("3.23", AARCH64.name), folder, copy_function=linked)
    key = new_key(folder / "keys/offer.rsa.pub")

    def package(name: str, files: Mapping[str, bytes], more: Iterable[Entry] = ()) -> Draft:
        entries = [*more, *(Entry(path, 0o644, data) for path, data in files.items())]
        needs = "kmod mkinitfs" if name == "linux-rpi" else ""
        return draft(name, "6.18.0-r0", "a test", entries, A=AARCH64.name, D=needs)

    first, *others = ({f"boot/{name}": name.encode()} for name in FIRMWARE)
    drafts = [
        package("linux-rpi", {f"boot/{name}": tree for name, tree in trees.items()}, kernel),
        package("raspberrypi-bootloader-common", first),
        package("raspberrypi-bootloader", {k: v for files in others for k, v in files.items()}),
        package("u-boot-raspberrypi", {"usr/share/u-boot/rpi_arm64/u-boot.bin": u_boot}),
    ]
    write_repository(folder / f"v3.23/community/{AARCH64.name}", drafts, key)


def use_board_mirror(project: Project, folder: Path, url: str) -> None:
    """Have a project's images made for the board from such a mirror, which is served at `url`."""
    project.env |= BOARD | {"BELAY_ALPINE_MIRROR": url, "BELAY_ALPINE_KEYS": str(folder / "keys")}
    for lock in project.root.glob("apk*.lock"):
        lock.unlink()


def debian_kernel(tree: Path) -> list[Entry]:
    """Debian's kernel as the files of linux-rpi, from packages that are unpacked in `tree`.

    Without its hundreds of drivers, and without that of the watchdog: qemu's Raspberry Pi doesn't
    count down, it resets at once when one is started.
    """
    (modules,) = tree.glob("lib/modules/*")
    parts = tuple(f"kernel/{part}" for part in KERNEL_PARTS)
    entries = [Entry("boot/vmlinuz-rpi", 0o644, next(tree.glob("boot/vmlinuz-*")).read_bytes())]
    for path in sorted(path for path in modules.rglob("*") if path.is_file()):
        inside = str(path.relative_to(modules))
        if path.suffix != ".ko" or inside.startswith(parts):
            entries.append(Entry(f"lib/modules/{modules.name}/{inside}", 0o644, path.read_bytes()))
    return entries
