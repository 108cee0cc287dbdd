"""An image with the kernel for real machines boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.benchmarks.lts import Shape, real_kernel, virt_package
from builder.core.config import MIB
from builder.disk.layout import SECTOR, SLOT_AUTO_MIB
from builder.vm.machine import Machine
from tests.offer import Offer
from tests.project import Project

pytestmark = pytest.mark.vm


def test_it_boots_with_microcode_before_its_initramfs_and_a_slot_sized_by_itself(
    offer: Offer, offer_project: Project, tmp_path: Path
) -> None:
    kernel = real_kernel(virt_package(), Shape(modules=1500, firmware=500, links=200))
    offer.add(*kernel.drafts)
    offer_project.inv("image", BELAY_ALPINE_KERNEL="lts")
    initramfs = (offer_project.build / "initramfs").read_bytes()
    assert b"kernel/x86/microcode/GenuineIntel.bin" in initramfs[: 64 << 10]

    firmware = kernel.firmware_for(kernel.asked_by(kernel.needs))
    link = next(path for path, target in firmware.items() if target.endswith(".zst"))
    needing = next(name for name, needs in kernel.needs.items() if needs)
    with Machine(offer_project.build / "disk.img", tmp_path / "machine") as machine:
        machine.wait_for_login()
        machine.wait_until_confirmed()
        sectors = machine.succeed("cat /sys/class/block/vda3/size")
        assert int(sectors) * SECTOR == SLOT_AUTO_MIB * MIB
        found = machine.succeed("find /lib/modules/*/kernel -name '*.ko' | wc -l")
        assert int(found) == 1500
        machine.succeed(f"[ -L /lib/firmware/{link} ] && [ -s /lib/firmware/{link} ]")
        loads = machine.succeed(f"modprobe --show-depends {needing}").splitlines()
        assert [Path(line.split()[-1]).stem for line in loads][-1] == needing
        assert len(loads) > 1
