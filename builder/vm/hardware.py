"""A virtual machine as qemu's command line describes it."""

from __future__ import annotations

import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.core.arch import X86_64, Arch
from builder.core.errors import UserError
from builder.core.files import copy_sparse
from builder.core.host import install_command, require_program
from builder.vm.kvm import kvm_works

LOG_SIZE = 8 << 30

# UEFI prepares to boot over every network that there is, which takes it a second.
NO_NETBOOT = tuple(
    word
    for protocol in ("IPv4", "IPv6")
    for word in ("-fw_cfg", f"name=opt/org.tianocore/{protocol}PXESupport,string=n")
)


def qemu_program(arch: Arch) -> str:
    """The qemu that is used. Raises UserError where there is none."""
    return require_program(arch.qemu)


def firmware(arch: Arch) -> tuple[Path, Path]:
    """The UEFI firmware and the template of its variables. Raises UserError where there is none."""
    for code, variables in arch.firmware:
        if Path(code).exists() and Path(variables).exists():
            return Path(code), Path(variables)
    bios = "; or start the machine with --bios" if arch.has_bios else ""
    raise UserError(
        f"there is no UEFI firmware for virtual machines of {arch.name}",
        f"as root: {install_command([arch.qemu])}{bios}",
    )


def accelerator(program: str, arch: Arch) -> tuple[str, ...]:
    """KVM where it works; else emulation.

    One processor under emulation, because two are slower. Without tb-size, a reboot of the guest
    can hang in the firmware; with 256 instead of 128, a boot takes five seconds longer.
    """
    if arch.name == platform.machine() and kvm_works(program):
        return ("-accel", "kvm", "-cpu", "host", "-smp", "2")
    return ("-accel", "tcg,thread=multi,tb-size=128", "-cpu", arch.emulated_cpu, "-smp", "1")


def usb_stick(folder: Path, label: str, name: str = "stick") -> str:
    """The -blockdev value for a FAT stick that shows what is in `folder`."""
    escaped = str(folder).replace(",", ",,")
    return f"driver=vvfat,node-name={name},dir={escaped},label={label},read-only=on"


@dataclass(frozen=True)
class Hardware:
    """A machine with one disk.

    `variables` is its own copy of the firmware's; without, it is BIOS, or other `firmware`.
    """

    disk: Path
    variables: Path | None
    memory_mib: int = 512
    usb: Path | None = None
    usb_label: str = "BELAY"
    extra: Sequence[str] = field(default_factory=tuple)
    write_log: Path | None = None  # a file in which every write to the disk is kept, in order
    watchdog: bool = False
    read_only: bool = False  # the disk takes no writes
    netboot: str = ""  # the URL of an iPXE script; the disk is then only there
    ssh_port: int = 0  # of this machine, which leads to SSH of that one; 0: a free one
    arch: Arch = X86_64
    firmware: Path | None = (
        None  # in the place of UEFI's own, such as U-Boot; it keeps no variables
    )

    def command(self) -> list[str]:
        """The command line, all but where the serial console and the monitor go."""
        program = qemu_program(self.arch)
        words = [
            program,
            *self.arch.machine,
            "-nodefaults",
            "-display",
            "none",
            "-m",
            str(self.memory_mib),
        ]
        words += accelerator(program, self.arch)
        if self.firmware:
            words += ["-bios", str(self.firmware)]
        elif self.variables:
            code, _ = firmware(self.arch)
            words += ["-drive", f"if=pflash,format=raw,readonly=on,file={_escaped(code)}"]
            words += ["-drive", f"if=pflash,format=raw,file={_escaped(self.variables)}"]
            words += [
                "-device",
                self.arch.screen,
            ]  # GRUB 2.06 calls it an error when there is no screen
        words += self._disk()
        if self.watchdog:
            words += ["-device", self.arch.watchdog, "-action", "watchdog=reset"]
        # Which port is free, the monitor's `info usernet` says.
        forward = f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        network = f"user,id=net,model=virtio-net-pci,{forward}"
        if self.netboot:
            network += f",bootfile={self.netboot}"
            words += ["-boot", "n"]
        else:
            words += NO_NETBOOT
        words += ["-nic", network, "-device", "qemu-xhci,id=usb"]
        words += ["-device", "virtio-rng-pci"]
        if self.usb:
            words += ["-blockdev", usb_stick(self.usb, self.usb_label)]
            words += ["-device", "usb-storage,id=stick-device,drive=stick,bus=usb.0"]
        return [*words, *self.extra]

    def _disk(self) -> list[str]:
        if not self.write_log:
            kind = f"if=virtio,format=raw,readonly={'on' if self.read_only else 'off'}"
            return ["-drive", f"{kind},cache=writeback,file={_escaped(self.disk)}"]
        goes_on = self.write_log.exists()
        if not goes_on:
            with self.write_log.open("wb") as log:
                log.truncate(LOG_SIZE)  # it takes the room of what is written only
        nodes = (
            f"driver=file,node-name=disk,filename={_escaped(self.disk)}",
            f"driver=file,node-name=log,filename={_escaped(self.write_log)}",
            "driver=blklogwrites,node-name=logged,file=disk,log=log,log-super-update-interval=1"
            f",log-append={'on' if goes_on else 'off'}",
        )
        words = [word for node in nodes for word in ("-blockdev", node)]
        return [*words, "-device", "virtio-blk-pci,drive=logged"]


def free_port() -> int:
    """A TCP port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def copy_variables(folder: Path, arch: Arch) -> Path:
    """A machine's own firmware variables, in `folder`."""
    _, template = firmware(arch)
    variables = folder / "variables.fd"
    copy_sparse(template, variables)  # 64 MiB for some, nearly all of it zeros
    return variables


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")
