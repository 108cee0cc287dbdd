"""The real init of the initramfs, unprivileged: ROOT is a folder, MOCK notes what it would do."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from builder.core.paths import PROJECT

INIT = PROJECT / "initramfs" / "init"
GUID = "89701fa8-0b32-5483-b3ac-fdb6308d7520"

MOCK = """\
#!/bin/sh
echo "$*" >>"$NOTES"
case $1 in
losetup) [ "$2" = -f ] && echo "/dev/loop$(grep -c 'losetup -f' "$NOTES")" ;;
$FAILING) exit 1 ;;
esac
case "$*" in "$FAILING"*) [ -n "$FAILING" ] && exit 1 ;; esac
exit 0
"""


def squashfs(size: int) -> bytes:
    head = b"hsqs" + bytes(36) + struct.pack("<Q", size) + bytes(48)
    return head.ljust(-(-size // 4096) * 4096, b"\0")


SLOT = squashfs(5000) + squashfs(4096) + squashfs(100)
SLOT_ROOT_AT, SLOT_MODLOOP_AT = 8192, 12288


class Boot:
    """A machine whose partition vda4 holds SLOT; `run` boots it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        for name in (
            "proc",
            "dev",
            "newroot/etc/belay",
            "sys/class/block/vda4",
            "belay/below/sbin",
        ):
            (self.root / name).mkdir(parents=True)
        (self.root / "sys/class/block/vda4/uevent").write_text(f"PARTN=4\nPARTUUID={GUID}\n")
        (self.root / "dev/vda4").write_bytes(SLOT)
        (self.root / "belay/below/sbin/init").symlink_to("/bin/busybox")
        device = self.root / "sys/bus/virtio/devices/virtio0"
        device.mkdir(parents=True)
        (device / "modalias").write_text("virtio:d00000002v00001AF4\n")
        self.cmdline = f"quiet belay.slot=b belay.partuuid={GUID}"
        self.mock = folder / "mock"
        self.mock.write_text(MOCK)
        self.mock.chmod(0o755)
        self.notes = folder / "notes"

    def run(self, failing: str = "") -> tuple[int, str]:
        """Its exit code, and what it said."""
        (self.root / "proc/cmdline").write_text(self.cmdline + "\n")
        env = {
            **os.environ,
            "ROOT": str(self.root),
            "MOCK": str(self.mock),
            "NOTES": str(self.notes),
            "FAILING": failing,
            "SLOT_TIMEOUT_S": "2",
            "DOUBT_S": "1",
        }
        done = subprocess.run(
            ["sh", INIT], env=env, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    @property
    def done(self) -> list[str]:
        return self.notes.read_text().replace(str(self.root), "").splitlines()


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    return Boot(tmp_path)


def test_the_root_is_put_together_and_started(boot: Boot) -> None:
    code, output = boot.run()
    assert (code, output) == (0, "")
    expected = [
        f"losetup -r -o {SLOT_ROOT_AT} /dev/loop1 /dev/vda4",
        "mount -t squashfs -o ro /dev/loop1 /belay/below",
        "mount -t tmpfs -o mode=755 above /belay/above",
        "mount -t overlay -o lowerdir=/belay/below,upperdir=/belay/above/upper,"
        "workdir=/belay/above/work root /newroot",
        f"losetup -r -o {SLOT_MODLOOP_AT} /dev/loop2 /dev/vda4",
        "mount -t squashfs -o ro /dev/loop2 /newroot/.modloop",
        "switch_root /newroot /sbin/init",
    ]
    assert [line for line in boot.done if line in expected] == expected
    assert boot.done[-1] == expected[-1]


def test_devices_without_a_driver_get_one(boot: Boot) -> None:
    boot.run()
    assert "modprobe -a -b -q virtio:d00000002v00001AF4" in boot.done


@pytest.mark.parametrize(
    ("cmdline", "message"),
    [
        (f"belay.partuuid={GUID}", "belay.slot= on the kernel command line: wanted a or b"),
        (f"belay.slot=c belay.partuuid={GUID}", "belay.slot=c on the kernel command line"),
        ("belay.slot=a belay.partuuid=.*", "belay.partuuid=.* on the kernel command line"),
        ("belay.slot=a belay.partuuid=89701fa8", "no partition 89701fa8 within 2 s"),
    ],
)
def test_a_wrong_command_line_is_named(boot: Boot, cmdline: str, message: str) -> None:
    boot.cmdline = cmdline
    code, output = boot.run()
    assert code == 1
    assert message in output
    assert message in (boot.root / "dev/kmsg").read_text()
    assert not any(line.startswith("switch_root") for line in boot.done)


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (bytes(8192), "vda4 begins with no squashfs: the slot is empty"),
        (SLOT[:SLOT_ROOT_AT] + bytes(8192), "vda4 has no root part at byte 8192"),
        (SLOT[:SLOT_MODLOOP_AT] + bytes(8192), "vda4 has no modloop part at byte 12288"),
    ],
)
def test_an_incomplete_slot_is_not_started(boot: Boot, slot: bytes, message: str) -> None:
    (boot.root / "dev/vda4").write_bytes(slot)
    code, output = boot.run()
    assert code == 1
    assert f"belay: slot b can't boot: {message}" in output
    assert not any(line.startswith("switch_root") for line in boot.done)


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("losetup -f", "the root part of vda4 can't be mounted"),
        ("mount -t squashfs", "the root part of vda4 can't be mounted"),
        ("mount -t tmpfs", "no tmpfs"),
        ("mount -t overlay", "the overlay of vda4 can't be mounted"),
    ],
)
def test_what_fails_is_named(boot: Boot, failing: str, message: str) -> None:
    code, output = boot.run(failing)
    assert code == 1
    assert message in output


def test_a_root_without_init_is_not_started(boot: Boot) -> None:
    (boot.root / "belay/below/sbin/init").unlink()
    code, output = boot.run()
    assert code == 1
    assert "the root part of vda4 has no /sbin/init" in output


def add_disk(boot: Boot, disk: str, stamp: str, guid: str = GUID) -> None:
    """A disk with an ESP and a slot; GRUB noted `stamp` on it."""
    blocks, device = boot.root / "sys/class/block", boot.root / "sys/devices" / disk
    for number, name in ((2, "esp"), (4, "slot-b")):
        partition = device / f"{disk}{number}"
        partition.mkdir(parents=True)
        own = guid if name == "slot-b" else f"{disk}-esp"
        (partition / "uevent").write_text(f"PARTNAME={name}\nPARTUUID={own}\n")
        (blocks / partition.name).symlink_to(partition)
    block = f"# GRUB Environment Block\na_state=good\nstamp={stamp}\n".encode()
    (boot.root / f"dev/{disk}2").write_bytes(bytes(1 << 20) + block.ljust(1024, b"#"))
    (boot.root / f"dev/{disk}4").write_bytes(SLOT)


@pytest.fixture
def disks(boot: Boot) -> Boot:
    """Two disks that are the same but for the note; `sda` comes first by its name."""
    shutil.rmtree(boot.root / "sys/class/block/vda4")
    add_disk(boot, "sda", "2026111012000")
    add_disk(boot, "vdb", "202611101200")
    return boot


def booted(boot: Boot) -> str:
    return (boot.root / "newroot/etc/belay/booted").read_text().strip()


def test_of_two_that_are_the_same_the_disk_is_taken_that_was_booted(disks: Boot) -> None:
    disks.cmdline += " belay.stamp=202611101200"
    code, output = disks.run()
    assert (code, output, booted(disks)) == (0, "", "vdb4")
    assert any("losetup -r -o" in line and line.endswith("/dev/vdb4") for line in disks.done)


def test_where_no_disk_has_the_note_one_is_taken_and_that_is_said(disks: Boot) -> None:
    disks.cmdline += " belay.stamp=999"
    code, output = disks.run()
    assert (code, booted(disks)) == (0, "sda4")
    assert output == "belay: no disk says that it was booted; sda4 was taken\n"
    warnings = (disks.root / "newroot/etc/belay/boot-warnings").read_text()
    assert warnings == "no disk says that it was booted; sda4 was taken\n"


@pytest.mark.parametrize("guid", ["", "89701fa8-0b32-5483-b3ac-fdb6308d7521"])
def test_without_its_guid_a_slot_is_found_by_its_name(disks: Boot, guid: str) -> None:
    """Power was lost while the disk got GUIDs of its own, or GRUB could not tell it."""
    disks.cmdline = f"quiet belay.slot=b belay.partuuid={guid} belay.stamp=202611101200"
    code, output = disks.run()
    assert (code, output, booted(disks)) == (0, "", "vdb4")
    assert (disks.root / "newroot/etc/belay/booted").read_text() == "vdb4\n"
    (disks.root / "sys/class/block/vdb4").unlink()
    (disks.root / "sys/class/block/sda4").unlink()
    code, output = disks.run()
    assert code == 1 and "no partition" in output
