"""How services find the disk that the system runs from, among others that look the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.services import add_library

SCRIPT = '"$ROOT/usr/lib/belay/disk.sh"'
SERVICE = PROJECT / "rootfs/overlay/etc/init.d/belay-node"
NAMES = ("esp", "slot-a", "slot-b", "data")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with two disks made from one image, but for the identities of their partitions."""
    add_library(tmp_path)
    blocks = tmp_path / "sys/class/block"
    blocks.mkdir(parents=True)
    for disk in ("sda", "sdb"):
        device = tmp_path / "sys/devices" / disk
        device.mkdir(parents=True)
        (device / "uevent").write_text(f"DEVNAME={disk}\nDEVTYPE=disk\n")
        (blocks / disk).symlink_to(device)
        for number, name in enumerate(NAMES, 1):
            partition = device / f"{disk}{number}"
            partition.mkdir()
            lines = f"PARTN={number}\nPARTNAME={name}\nPARTUUID={disk}-{number}\n"
            (partition / "uevent").write_text(lines)
            (blocks / partition.name).symlink_to(partition)
    return tmp_path


def sh(root: Path, command: str, booted: str = "sdb2") -> tuple[int, str]:
    (root / "etc/belay").mkdir(parents=True, exist_ok=True)
    (root / "etc/belay/booted").write_text(f"{booted}\n")
    (root / "etc/belay/node-label").write_text("BELAY\n")
    script = f". {SCRIPT}; {command}"
    done = subprocess.run(
        ["sh", "-c", script], env={"ROOT": str(root), "PATH": f"{root}/bin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.strip()


def test_the_disk_is_that_of_the_booted_slot(root: Path) -> None:
    """As the initramfs found it: the GUIDs of both may be the same."""
    command = "own_disk; own_partition data sdb; own_partition data sda"
    assert sh(root, command) == (0, "sdb\nsdb4\nsda4")


@pytest.mark.parametrize("booted", ["", "sdc2"], ids=["none", "gone"])
def test_without_a_disk_of_its_own_no_other_is_taken(root: Path, booted: str) -> None:
    assert sh(root, "disk=$(own_disk) && own_partition data $disk", booted) == (1, "")
    code, output = sh(root, 'own_partition data ""')
    assert code != 0 and output == ""


def test_a_partition_that_the_disk_lacks_is_not_found(root: Path) -> None:
    assert sh(root, "own_partition node sda") == (1, "")


@pytest.mark.parametrize(
    ("labelled", "volumes"),
    [
        (["sdb4"], "/dev/sdb4"),
        (["sda4", "sdb4"], "/dev/sdb4"),  # that of another disk with a system is not for this node
        (["sda4"], ""),
        (["sdb4", "sdc"], "/dev/sdc"),  # a stick without partitions
        (["sdb4", "sdbb1"], "/dev/sdbb1"),  # whose name begins as that of the own disk does
        (["sdbb1", "sdc"], "/dev/sdbb1 /dev/sdc"),
    ],
)
def test_the_node_s_own_files_are_of_a_stick_or_of_its_own_disk(
    root: Path, labelled: list[str], volumes: str
) -> None:
    for disk, partition in (("sdc", ""), ("sdbb", "sdbb1")):
        device = root / "sys/devices" / disk
        device.mkdir()
        (root / "sys/class/block" / disk).symlink_to(device)
        if partition:
            (device / partition).mkdir()
            (root / "sys/class/block" / partition).symlink_to(device / partition)
    for path in (root / "sys/class/block").iterdir():
        if path.name[-1].isdigit():
            (path / "partition").write_text(f"{path.name[-1]}\n")
    (root / "bin").mkdir()
    lines = [f'/dev/{name}: LABEL="BELAY" UUID="1-2" TYPE="vfat"' for name in labelled]
    (root / "bin/blkid").write_text("#!/bin/sh\ncat <<END\n" + "\n".join(lines) + "\nEND\n")
    (root / "bin/blkid").chmod(0o755)
    service = SERVICE.read_text()
    (root / "service").write_text(service)
    assert sh(root, f". {root}/service; volumes") == (0, volumes)


def test_the_driver_that_a_stick_asks_for_last_is_loaded_while_it_is_waited_for(
    root: Path,
) -> None:
    """Its SCSI device comes after all drivers were loaded."""
    interface = root / "sys/bus/usb/devices/2-1:1.0"
    scsi = interface / "host2/target2:0:0/2:0:0:0"
    scsi.mkdir(parents=True)
    (interface / "bInterfaceClass").write_text("08\n")
    (root / "sys/bus/scsi/devices").mkdir(parents=True)
    (root / "sys/bus/scsi/devices/2:0:0:0").symlink_to(scsi)
    (scsi / "modalias").write_text("scsi:t-0x00\n")
    (root / "proc").mkdir()
    (root / "proc/uptime").write_text("8.00 1.00\n")
    (root / "bin").mkdir()
    mock = root / "bin/modprobe"
    mock.write_text(f'#!/bin/sh\necho "$*" >>{root}/done\nmkdir -p "{scsi}/block/sdc"\n')
    mock.chmod(0o755)
    service = SERVICE.read_text()
    (root / "service").write_text(service)
    assert sh(root, f". {root}/service; wait_for_stick; echo over") == (0, "over")
    assert (root / "done").read_text() == "-a -b -q scsi:t-0x00\n"
