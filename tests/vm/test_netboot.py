"""Machines without a disk boot over the network.

What is fetched is checked: tests/container/test_init.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from invoke.context import Context

from builder.core.config import load_config
from builder.core.serve import served
from builder.releases.netboot import SCRIPT, write_netboot
from builder.steps.plan import build
from builder.vm.machine import Machine
from tests.apkovl import archive

pytestmark = pytest.mark.vm(minutes=2)

INSTALL_TIMEOUT_S = 600


@pytest.fixture
def url(artefacts: Path, tmp_path: Path) -> Iterator[str]:
    """Where a guest finds what it boots; with an overlay archive."""
    config = load_config()
    build(Context(), "net-initramfs", config)
    with served(tmp_path / "www") as port:
        url = f"http://10.0.2.2:{port}"
        cmdline = f"{config.cmdline} apkovl={url}/crag.apkovl.tar.gz"
        write_netboot(tmp_path / "www", url, cmdline)
        overlay = archive(etc__fetched="over the network")
        (tmp_path / "www" / "crag.apkovl.tar.gz").write_bytes(overlay)
        yield f"{url}/{SCRIPT}"


def machine_for(url: str, folder: Path, bios: bool) -> Machine:
    """A machine that was used for something else."""
    former = folder / "former.img"
    with former.open("wb") as disk:
        disk.truncate(2 << 30)
        disk.seek(4096)
        disk.write(b"holiday pictures")
    return Machine(former, folder / "machine", bios=bios, netboot=url)


def wait_until_it_runs(machine: Machine) -> None:
    """Until a machine runs from its memory, as well as from a disk."""
    machine.wait_for_console(r"belay: bringing http://10.0.2.2:\d+/slot.img")
    machine.wait_for_login()
    machine.wait_until_confirmed()
    assert machine.succeed("stat -f -c %T /.modloop") == "squashfs\n"
    machine.succeed("modprobe dummy && touch /data/x")
    assert machine.succeed("cat /etc/fetched") == "over the network"
    assert "came over the network: there is no slot" in machine.fail("belay status")
    assert machine.fail("rc-status --crashed") == ""


def test_a_bios_boots_without_a_disk(url: str, tmp_path: Path) -> None:
    with machine_for(url, tmp_path, bios=True) as machine:
        wait_until_it_runs(machine)


def test_a_uefi_boots_without_a_disk_and_is_installed_to_one(url: str, tmp_path: Path) -> None:
    """From which it boots the next time."""
    with machine_for(url, tmp_path, bios=False) as machine:
        wait_until_it_runs(machine)
        assert "there is no /dev/sdx; there are: vda" in machine.fail("belay install /dev/sdx")
        with (tmp_path / "small.img").open("wb") as small:
            small.truncate(64 << 20)
        machine.qmp("blockdev-add", driver="file", node_name="small", filename=small.name)
        machine.qmp("device_add", driver="usb-storage", drive="small", bus="usb.0")
        machine.wait_until_succeeds("test -b /dev/sda")
        assert "/dev/sda has 64 MiB; the system takes" in machine.fail("belay install /dev/sda")
        output = machine.fail("belay install /dev/vda")
        assert "/dev/vda holds data, which is lost: belay install /dev/vda /dev/vda" in output
        output = machine.succeed("belay install /dev/vda /dev/vda", INSTALL_TIMEOUT_S)
        assert "/dev/vda has both slots" in output
        machine.succeed("partx -a /dev/vda; modprobe ext4; mount -t ext4 /dev/vda6 /mnt")
        assert "it is in use" in machine.fail("belay install /dev/vda /dev/vda")
        machine.power_cut()
        machine.hardware = replace(machine.hardware, netboot="")
        machine.start()
        machine.wait_for_console(r"belay: booting slot a \(good\)")
        machine.wait_for_login()
        machine.wait_until_confirmed()
        assert int(machine.succeed("df -m /data | tail -n 1").split()[1]) > 200, "it grew"
