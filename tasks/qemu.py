"""`inv qemu`: boots the disk image in a virtual machine, with its console in the terminal."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from builder.core.arch import ARCHES
from builder.core.config import Config, load_config
from builder.core.errors import UserError
from builder.core.files import copy_sparse, in_use
from builder.core.options import whole_number
from builder.core.output import say
from builder.core.paths import BUILD, KEPT, RUNS
from builder.steps.plan import build
from updater.contract import SLOTS

if TYPE_CHECKING:
    from builder.vm.hardware import Hardware

TO_GROW = 1 << 30  # bytes of an empty disk that are left when the system is on it
KEEPS = "another machine of inv qemu --keep runs from the same disk: end it first"
MEMORY_LEAST_MIB = 128  # with less, nothing ever comes on the console


@task(
    help={
        "slot": "boot this slot once: a or b (default: as the boot state says)",
        "bios": "boot by BIOS instead of UEFI",
        "usb": "plug in a stick with the files of this folder, labelled for a node's own files",
        "memory": "memory in MiB",
        "release": "boot the disk image of this release instead of this tree's",
        "netboot": "boot over the network by iPXE, with an empty disk",
        "keep": "keep the machine's disk in build/qemu, and use it again the next time",
    }
)
def qemu(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    c: Context,
    slot: str = "",
    bios: bool = False,
    usb: str = "",
    memory: str = "512",
    release: str = "",
    keep: bool = False,
    netboot: bool = False,
) -> None:
    """Boot build/disk.img, or the disk of a release, in a virtual machine; Ctrl-A X ends it."""
    if slot not in ("", *SLOTS):
        raise UserError(f"--slot {slot}: wanted a or b")
    if usb and not Path(usb).is_dir():
        raise UserError(f"--usb {usb}: there is no such folder")
    memory_mib = whole_number("memory", memory, MEMORY_LEAST_MIB, 1 << 20, "MiB")
    from builder.disk.boot_state import read_boot_state, write_boot_state
    from builder.releases.make import store_of, trusted_keys
    from builder.releases.store import unpack_disk
    from builder.vm.hardware import Hardware, copy_variables, free_port, qemu_program

    config = load_config()
    arch = ARCHES[config.alpine.arch]
    qemu_program(arch)
    if bios and not arch.has_bios:
        raise UserError(
            f"--bios: {arch.name} machines have no BIOS", "leave it out: they have UEFI"
        )
    if netboot:
        if slot or release or keep:
            raise UserError("--netboot boots no slot of a disk: not with --slot, --release, --keep")
        raise Exit(code=_run_from_network(c, config, bios, memory_mib, usb))
    if not release:
        build(c, "image", config)
        if c.config.run.dry:
            return
    KEPT.mkdir(parents=True, exist_ok=True)
    with (
        in_use(KEPT / RUNS, "inv clean is removing build/: run this again", shared=True),
        in_use(KEPT / ".keeps", KEEPS) if keep else nullcontext(),
        tempfile.TemporaryDirectory(dir=KEPT, prefix="once-") as scratch,
    ):
        folder = KEPT if keep else Path(scratch)
        disk = folder / "disk.img"
        if not disk.exists():
            if release:
                store = store_of(config)
                unpack_disk(store, store.manifest(release, trusted_keys()), disk)
            else:
                copy_sparse(BUILD / "disk.img", disk)
        elif keep:
            say(f"going on with {disk}; delete it to start from the image again")
        if slot:
            write_boot_state(disk, read_boot_state(disk)._replace(next=slot))
        hardware = Hardware(
            disk,
            None if bios else copy_variables(folder, arch),
            memory_mib,
            Path(usb).resolve() if usb else None,
            config.node.label,
            ssh_port=free_port(),
            arch=arch,
        )
        code = _run(hardware)
    raise Exit(code=code)


def _run(hardware: Hardware) -> int:
    """Start a machine with its console in the terminal, until it ends; its exit code."""
    console = ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"]
    if hardware.usb:
        say(f"SSH, where the node has your key: ssh -p {hardware.ssh_port} root@127.0.0.1")
    else:
        say("no SSH, which a node's files open: ./inv node.new NAME, then --usb nodes/NAME")
    say("the console follows; log in as root; Ctrl-A X ends the machine")
    command = [*hardware.command(), *console, "-mon", "chardev=console"]
    return subprocess.run(command, check=False).returncode


def _run_from_network(c: Context, config: Config, bios: bool, memory: int, usb: str) -> int:
    from builder.core.serve import served
    from builder.releases.netboot import SCRIPT, STEPS, netboot_arch, write_netboot
    from builder.vm.hardware import Hardware, copy_variables, free_port

    arch = netboot_arch(config)
    for step in STEPS:
        build(c, step, config)
    if c.config.run.dry:
        return 0
    with (
        in_use(KEPT / RUNS, "inv clean is removing build/: run this again", shared=True),
        tempfile.TemporaryDirectory(dir=KEPT, prefix="once-") as scratch,
    ):
        folder = Path(scratch)
        disk = folder / "disk.img"
        with disk.open("wb") as file:
            file.truncate((BUILD / "disk.img").stat().st_size + TO_GROW)
        with served(folder / "www") as port:
            url = f"http://10.0.2.2:{port}"  # this machine, as a guest sees it
            write_netboot(folder / "www", url, config.cmdline)
            return _run(
                Hardware(
                    disk,
                    None if bios else copy_variables(folder, arch),
                    memory,
                    Path(usb).resolve() if usb else None,
                    config.node.label,
                    netboot=f"{url}/{SCRIPT}",
                    ssh_port=free_port(),
                    arch=arch,
                )
            )
