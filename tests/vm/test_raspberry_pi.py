"""The boot of a Raspberry Pi 3, as far as qemu has one.

It has none of the board's first stages, so U-Boot gets the device tree from qemu as it gets it
from them. Nor has it fast cards: a boot as far as a login takes it many minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.core.arch import AARCH64
from builder.disk.boot_state import read_boot_state, write_boot_state
from builder.sample.standins import unpack_debian
from builder.vm.hardware import Hardware, accelerator, qemu_program
from builder.vm.machine import Machine
from tests.boards import board_mirror, debian_kernel, use_board_mirror
from tests.mirror import Mirror
from tests.programs import program
from tests.project import Project
from updater.contract import TRIAL

CARD_SIZE = 2 << 30  # qemu's cards have a power of two


@dataclass(frozen=True)
class RaspberryPi3(Hardware):
    """One with an SD card; the serial line is the second one, which is at its pins."""

    u_boot: Path = Path()
    tree: Path = Path()

    def command(self) -> list[str]:
        qemu = qemu_program(AARCH64)
        emulation = accelerator(qemu, AARCH64)[:2]
        card = f"if=sd,format=raw,file={self.disk}"
        return [
            *(qemu, "-M", "raspi3b", "-nodefaults", "-display", "none", *emulation),
            *("-kernel", str(self.u_boot), "-dtb", str(self.tree), "-drive", card),
            *("-serial", "null"),
        ]


@pytest.mark.vm(minutes=6)
def test_a_raspberry_pi_counts_tries_on_its_card(tmp_path: Path) -> None:
    program(AARCH64.qemu)
    debian = tmp_path / "debian"
    unpack_debian(tmp_path / "scratch", debian, AARCH64, ["u-boot-rpi", "linux-image-arm64"])
    u_boot = debian / "usr/lib/u-boot/rpi_arm64/u-boot.bin"
    (tree,) = debian.glob("usr/lib/linux-image-*/broadcom/bcm2837-rpi-3-b.dtb")
    mirror = tmp_path / "mirror"
    trees = {"bcm2710-rpi-3-b.dtb": tree.read_bytes()}
    board_mirror(mirror, debian_kernel(debian), trees, u_boot.read_bytes())
    server = Mirror(mirror)
    project = Project(tmp_path, 1)
    use_board_mirror(project, mirror, server.url)
    project.inv("image", BELAY_BOOT_CMDLINE="console=ttyS1,115200")
    server.close()

    machine = Machine((project.build / "disk.img").resolve(), tmp_path / "machine", arch=AARCH64)
    machine.hardware = RaspberryPi3(machine.disk, None, u_boot=u_boot, tree=tree)
    with machine.disk.open("r+b") as card:
        card.truncate(CARD_SIZE)
    state = read_boot_state(machine.disk).with_slot("b", TRIAL)
    write_boot_state(machine.disk, state._replace(order=("b", "a"), tried="9.9.9"))
    with machine:
        machine.wait_for_console(r"belay: booting slot b \(trial\)")
        machine.wait_for_console("EFI stub: Using DTB from configuration table")
        machine.wait_for_console("Machine model: Raspberry Pi 3 Model B")
        machine.wait_for_console("belay: starting the system of slot b")
        machine.power_cut()
        slot = read_boot_state(machine.disk).slots["b"]
        assert (slot.state, slot.tries) == (TRIAL, 2), "GRUB took one try, on the card"
