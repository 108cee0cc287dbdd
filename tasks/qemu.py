"""`inv qemu`: boots the disk image in a virtual machine, with its console in the terminal."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from tasks.build import build
from tasks.core.config import Config, load_config
from tasks.core.errors import UserError
from tasks.core.files import copy_sparse, copy_sparse_to
from tasks.core.output import say
from tasks.core.paths import BUILD
from updater.grubenv import SLOTS

KEPT = BUILD / "qemu"


@task(
    help={
        "slot": "boot this slot once: a or b (default: as the boot state says)",
        "bios": "boot by BIOS instead of UEFI",
        "usb": "plug in a stick with the files of this folder, labelled for a node's own files",
        "memory": "memory in MiB",
        "release": "boot the disk image of this release, and not what the tree builds",
        "keep": "keep the machine's disk in build/qemu, and go on with it the next time",
    }
)
def qemu(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    c: Context,
    slot: str = "",
    bios: bool = False,
    usb: str = "",
    memory: int = 512,
    release: str = "",
    keep: bool = False,
) -> None:
    """Boot build/disk.img, or that of a release, in a virtual machine; Ctrl-A X ends it."""
    if slot not in ("", *SLOTS):
        raise UserError(f"--slot {slot}: wanted a or b")
    if usb and not Path(usb).is_dir():
        raise UserError(f"--usb {usb}: there is no such folder")
    from tasks.disk.boot_state import read_boot_state, write_boot_state
    from tasks.vm.hardware import Hardware, copy_variables, qemu_program

    config = load_config()
    qemu_program()
    if not release:
        build(c, "image", config)
        if c.config.run.dry:
            return
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT, prefix="once-") as scratch:
        folder = KEPT if keep else Path(scratch)
        disk = folder / "disk.img"
        if not disk.exists():
            if release:
                unpack_disk(config, release, disk)
            else:
                copy_sparse(BUILD / "disk.img", disk)
        elif keep:
            say(f"going on with {disk}; delete it to start from the image again")
        if slot:
            write_boot_state(disk, replace(read_boot_state(disk), next=slot))
        hardware = Hardware(
            disk,
            None if bios else copy_variables(folder),
            memory,
            Path(usb).resolve() if usb else None,
            config.node.label,
        )
        console = ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"]
        say("the console follows; log in as root; Ctrl-A X ends the machine")
        done = subprocess.run(
            [*hardware.command(), *console, "-mon", "chardev=console"], check=False
        )
    raise Exit(code=done.returncode)


def unpack_disk(config: Config, version: str, target: Path) -> None:
    """Put the disk image of a release to `target`."""
    import lzma

    from tasks.releases.make import DISK_IMAGE, store_of, trusted_keys

    store = store_of(config)
    blob = store.manifest(version, trusted_keys()).files[DISK_IMAGE]
    with lzma.open(store.blobs / blob.sha256) as packed, target.open("wb") as disk:
        copy_sparse_to(disk, packed)
