"""How services find the disk that the system runs from, among others that look the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.core.paths import PROJECT

SCRIPT = PROJECT / "rootfs/overlay/usr/lib/belay/disk.sh"
NAMES = ("esp", "slot-a", "slot-b", "data")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with two disks made from one image, but for the identities of their partitions."""
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


def sh(root: Path, cmdline: str, command: str) -> tuple[int, str]:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cmdline").write_text(f"{cmdline}\n")
    done = subprocess.run(
        ["sh", "-c", f". '{SCRIPT}'; {command}"], env={"ROOT": str(root), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.strip()


def test_the_disk_is_that_of_the_booted_slot(root: Path) -> None:
    # GRUB has the identity in capitals or not, as it likes.
    cmdline = "quiet belay.partuuid=SDB-2 belay.slot=a"
    command = "own_disk; own_partition data sdb; own_partition data sda"
    assert sh(root, cmdline, command) == (0, "sdb\nsdb4\nsda4")


@pytest.mark.parametrize(
    "cmdline", ["quiet", "belay.partuuid=", "belay.partuuid=sdc-2"], ids=["none", "empty", "gone"]
)
def test_without_a_disk_of_its_own_no_other_is_taken(root: Path, cmdline: str) -> None:
    assert sh(root, cmdline, "disk=$(own_disk) && own_partition data $disk") == (1, "")
    code, said = sh(root, cmdline, 'own_partition data ""')
    assert code != 0 and said == ""


def test_a_partition_that_the_disk_lacks_is_not_found(root: Path) -> None:
    assert sh(root, "belay.partuuid=sda-3", "own_partition node sda") == (1, "")
