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
from tasks.core.config import load_config
from tasks.core.errors import UserError
from tasks.core.files import copy_sparse
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
        "keep": "keep the machine's disk in build/qemu, and go on with it the next time",
    }
)
def qemu(
    c: Context,
    slot: str = "",
    bios: bool = False,
    usb: str = "",
    memory: int = 512,
    keep: bool = False,
) -> None:
    """Boot build/disk.img in a virtual machine; Ctrl-A X ends it."""
    if slot not in ("", *SLOTS):
        raise UserError(f"--slot {slot}: wanted a or b")
    if usb and not Path(usb).is_dir():
        raise UserError(f"--usb {usb}: there is no such folder")
    from tasks.disk.boot_state import read_boot_state, write_boot_state
    from tasks.vm.hardware import Hardware, copy_variables, qemu_program

    config = load_config()
    qemu_program()
    build(c, "image", config)
    if c.config.run.dry:
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT, prefix="once-") as scratch:
        folder = KEPT if keep else Path(scratch)
        disk = folder / "disk.img"
        if not disk.exists():
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
