"""The architectures: all that differs from one to the other has its home here.

Elsewhere nothing compares their names: it asks for a fact of one.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from builder.core.errors import UserError


@dataclass(frozen=True)
class Arch:
    """One of them. `name` is what the kernel, Alpine and most others call it."""

    name: str
    debian: str
    docker: str
    elf_machine: int  # e_machine of its programs: /usr/include/elf.h
    grub: str  # the target of grub-mkimage for UEFI
    efi_file: str  # what UEFI starts of a disk: UEFI specification 2.10, 3.5.1.1
    has_bios: bool
    has_netboot: bool  # whether its machines boot from the network by iPXE
    serial: str  # the first serial line, as the kernel calls it
    emulator: str  # Alpine's package and program that runs its programs elsewhere
    qemu: str
    qemu_packages: tuple[str, str]  # that bring qemu and UEFI: on Debian and Ubuntu, on Alpine
    machine: tuple[str, ...]  # qemu's words for the kind of machine
    screen: str  # qemu's device
    watchdog: str  # qemu's device; nothing: its virtual machines have none
    emulated_cpu: str
    # UEFI for virtual machines, and the template of its variables, where distributions put them.
    firmware: tuple[tuple[str, str], ...]
    loader: str  # of Debian's C library
    char_is_signed: bool  # in C
    # For seccomp: what the kernel calls it, and the numbers of its calls seccomp, and of chown,
    # fchown, lchown and fchownat; -1: there is none. Source: linux/audit.h, asm/unistd.h.
    audit: int
    seccomp: int
    chowns: tuple[int, int, int, int]

    @property
    def libraries(self) -> str:
        """The folder of Debian's libraries, below lib and usr/lib."""
        return f"{self.name}-linux-gnu"


X86_64 = Arch(
    name="x86_64",
    debian="amd64",
    docker="amd64",
    elf_machine=62,
    grub="x86_64-efi",
    efi_file="BOOTX64.EFI",
    has_bios=True,
    has_netboot=True,
    serial="ttyS0",
    emulator="qemu-x86_64",
    qemu="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86 ovmf", "qemu-system-x86_64 ovmf"),
    machine=(),
    screen="VGA",
    watchdog="i6300esb",
    # Without the flaws that a kernel works around: under emulation that only takes time.
    emulated_cpu="qemu64,vendor=CentaurHauls,family=5",
    firmware=(
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),  # Debian, Ubuntu
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),  # Alpine, older Debian
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),  # Fedora
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),  # Arch
    ),
    loader="ld-linux-x86-64.so.2",
    char_is_signed=True,
    audit=0xC000003E,
    seccomp=317,
    chowns=(92, 93, 94, 260),
)
AARCH64 = Arch(
    name="aarch64",
    debian="arm64",
    docker="arm64",
    elf_machine=183,
    grub="arm64-efi",
    efi_file="BOOTAA64.EFI",
    has_bios=False,
    has_netboot=False,
    serial="ttyAMA0",
    emulator="qemu-aarch64",
    qemu="qemu-system-aarch64",
    qemu_packages=("qemu-system-arm qemu-efi-aarch64 ipxe-qemu", "qemu-system-aarch64 aavmf"),
    machine=("-M", "virt"),
    screen="ramfb",
    watchdog="",  # linux-virt has no drivers of watchdogs there
    emulated_cpu="cortex-a57",  # newer ones take twice the time, for what they can do more
    firmware=(
        ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),  # Debian, Alpine
        ("/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),  # Arch
    ),
    loader="ld-linux-aarch64.so.1",
    char_is_signed=False,
    audit=0xC00000B7,
    seccomp=277,
    chowns=(-1, 55, -1, 54),
)
ARCHES: Mapping[str, Arch] = {arch.name: arch for arch in (X86_64, AARCH64)}


def host_arch() -> Arch:
    """That of this machine, on which the tools run. Raises UserError."""
    name = platform.machine()
    if name not in ARCHES:
        raise UserError(f"this machine is {name}", f"build on one of: {', '.join(ARCHES)}")
    return ARCHES[name]
