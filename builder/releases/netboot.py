"""What a machine without a disk boots from: files for any web server, and a script for iPXE."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from builder.alpine.initramfs import NET_INITRAMFS
from builder.core.arch import ARCHES, Arch
from builder.core.config import Config
from builder.core.errors import UserError
from builder.core.files import gzipped, sha256_of, write_atomically
from builder.core.paths import BUILD
from builder.disk.layout import PANIC_S
from builder.disk.table import read_table
from updater.contract import (
    ARGUMENT_FRAME,
    ARGUMENT_MODE,
    ARGUMENT_NETBOOT,
    ARGUMENT_SHA256,
    ARGUMENT_SIZE,
    PARTITION_SLOT_A,
    PARTITION_SLOT_B,
)
from updater.formats import Manifest
from updater.frame import FRAME_FILE, frame_bytes

STEPS = ("image", "net-initramfs")  # what makes all that is served
SCRIPT = "boot.ipxe"
FILES = {"vmlinuz": "vmlinuz", "initramfs": NET_INITRAMFS, "slot.img": "slot.img"}


def netboot_arch(config: Config) -> Arch:
    """The architecture of machines that boot from the network. Raises UserError for others."""
    arch = ARCHES[config.alpine.arch]
    if not arch.has_netboot:
        raise UserError(
            f"machines of {arch.name} don't boot from the network yet",
            "write the disk image to a disk: docs/hardware.md",
        )
    return arch


def write_netboot(folder: Path, url: str, cmdline: str) -> None:
    """Write all files to `folder`, which a server is to show at `url`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in FILES.items():
        path, fresh = folder / name, folder / f".{name}"
        fresh.unlink(missing_ok=True)
        try:
            os.link((BUILD / source).resolve(), fresh)
        except OSError:  # another file system
            shutil.copyfile(BUILD / source, fresh)
        fresh.replace(path)
    slot = folder / "slot.img"
    frame = frame_of(BUILD / "disk.img")
    write_atomically(folder / FRAME_FILE, frame)
    # `initrd=` is how a kernel that UEFI started finds it.
    arguments = (
        f"initrd=initramfs {cmdline} panic={PANIC_S} {ARGUMENT_MODE}=net "
        f"{ARGUMENT_NETBOOT}={url}/slot.img "
        f"{ARGUMENT_SIZE}={slot.stat().st_size} {ARGUMENT_SHA256}={sha256_of(slot)} "
        f"{ARGUMENT_FRAME}={hashlib.sha256(frame).hexdigest()}"
    )
    lines = [
        "#!ipxe",
        f"kernel {url}/vmlinuz {arguments}",
        f"initrd --name initramfs {url}/initramfs",
        "boot",
    ]
    write_atomically(folder / SCRIPT, "".join(f"{line}\n" for line in lines).encode())


def require_slot(manifest: Manifest) -> None:
    """Raise UserError unless the slot image in `build/` is the one that a signed manifest names."""
    slot = BUILD / "slot.img"
    if (found := sha256_of(slot)) != manifest.slot.sha256:
        raise UserError(
            f"{slot} has the SHA-256 {found}, and release {manifest.version} has "
            f"{manifest.slot.sha256}: it was built with another config",
            "take away what BELAY_... in the environment changes",
        )


def frame_of(image: Path) -> bytes:
    """A disk image without its slots, packed: what `belay install` wants beside a slot."""
    with image.open("rb") as disk:
        slots = [read_table(disk)[name] for name in (PARTITION_SLOT_A, PARTITION_SLOT_B)]
        disk.seek(0)
        head = disk.read(slots[0].offset)
        disk.seek(slots[-1].end)
        tail = disk.read()
    return gzipped(frame_bytes(head, [slot.offset for slot in slots], slots[-1].end, tail), 6)
