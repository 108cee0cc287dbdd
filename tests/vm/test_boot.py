"""The disk image boots: either slot, on UEFI and BIOS, and whatever state its boot state is in."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from builder.disk.boot_state import grubenv_offset, read_boot_state, write_boot_state
from builder.disk.table import read_table
from builder.vm.machine import Machine
from updater.contract import GOOD, RESCUES, TRIES
from updater.grubenv import SIZE, BootState, SlotState, parse, render
from updater.slot import parts

pytestmark = pytest.mark.vm

# As the service runs it, with less patience.
HASTY_WATCHDOG = (
    "rc-service belay-watchdog stop; export DOWN_S=10 DISK_S=20 DISK_EVERY_S=5 RESET_S=1;"
    " setsid /usr/lib/belay/watchdog </dev/null >/dev/null 2>&1 &"
)


def test_a_system_boots_from_either_slot_on_uefi(disk_image: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "name").write_text("crag-7\n")
    (stick / "large").write_bytes(bytes(2 << 20))
    machine = Machine(disk_image, tmp_path / "machine", usb=stick)
    write_boot_state(machine.disk, read_boot_state(machine.disk)._replace(next="b"))

    with machine:
        with machine.stage("once in slot b"):
            machine.wait_for_console(r"belay: booting slot b \(once\)")
            machine.wait_for_login()
            assert "belay.slot=b" in machine.succeed("cat /proc/cmdline")
            assert machine.succeed("hostname") == "crag-7\n", "the stick's name is the node's"
            assert machine.succeed("ls /run/belay/node") == "name\n", "2 MiB are too large a file"
        with machine.stage("the system in memory"):
            # The root is the squashfs below a tmpfs; modules come from the modloop.
            assert machine.succeed("stat -f -c %T /.modloop") == "squashfs\n"
            machine.succeed("touch /etc/written")
            machine.succeed(
                "modprobe dummy && ip link show dummy0 || ip link add dummy0 type dummy"
            )
            assert machine.succeed("modinfo -n dummy").startswith("/lib/modules/")
            assert machine.fail("rc-status --crashed") == ""
            parts = [line.split()[-1] for line in machine.succeed("belay boottime").splitlines()]
            assert parts[:2] == ["kernel", "initramfs"] and {
                "openrc",
                "belay-node",
                "networking",
            } < set(parts)
        with machine.stage("devices that come and go"):
            devices_come_and_go(machine, stick)
        with machine.stage("a reboot with a service that hangs"):
            # A service that doesn't stop holds no reboot for ever.
            machine.succeed(
                "cd /etc/init.d; "
                "printf '#!/sbin/openrc-run\nstart() { :; }\nstop() { sleep 9999; }\n' >hangs; "
                "chmod +x hangs; rc-service hangs start"
            )
            machine.succeed(HASTY_WATCHDOG)
            machine.type("reboot\n")
            machine.wait_for_console(r"belay: booting slot a \(good\)")
            machine.wait_for_login()
            assert "belay.slot=a" in machine.succeed("cat /proc/cmdline")
            machine.fail("ls /etc/written")
            assert ": clean, " in machine.succeed("cat /run/belay-fsck.log"), "data was unmounted"
            machine.wait_until_confirmed()
            machine.wait_until(lambda: read_boot_state(machine.disk).slots["a"] == SlotState(), 60)
            output = machine.log.read_text(errors="replace")
        with machine.stage("a disk that vanishes"):
            # A disk that vanishes ends the boot; this one comes back as the machine is reset.
            machine.succeed(HASTY_WATCHDOG)
            machine.type("echo 1 >$(readlink -f /sys/block/vda/device/..)/remove\n")
            machine.wait_for_console(r"belay: booting slot a \(good\)")
    assert "video mode" not in output
    assert " * " not in output.rpartition("login: ")[2], "nothing comes into what is typed"


def devices_come_and_go(machine: Machine, stick: Path) -> None:
    machine.attach_usb(stick, "SECOND")
    machine.wait_until_succeeds("blkid | grep SECOND")
    machine.detach_usb()
    machine.wait_until_succeeds("! grep -q sdb /proc/partitions")

    # A card that is plugged in gets its driver and its address, by itself.
    machine.qmp("netdev_add", type="user", id="late", net="10.0.3.0/24")
    machine.qmp("device_add", driver="virtio-net-pci", id="late-card", netdev="late")
    machine.wait_until_succeeds("ip addr | grep 'inet 10.0.3.15'")
    machine.qmp("device_del", id="late-card")
    machine.wait_until_succeeds("! ip link show eth1")
    machine.qmp("device_add", driver="virtio-net-pci", id="again", netdev="late")
    machine.wait_until_succeeds("ip addr | grep 'inet 10.0.3.15'")
    assert "vda6" in machine.succeed("ls -l /dev/disk/by-label/data")
    assert machine.succeed("find /dev -type d -perm -2 ! -perm -1000") == ""


@pytest.mark.parametrize(
    ("state", "tries", "bios", "reason"),
    [
        ("trial", 2, False, "Kernel panic - not syncing: Attempted to kill init!"),
        ("good", 1, True, "it hung or lost power"),  # a BIOS keeps nothing for the next boot
    ],
    ids=["trial", "good"],
)
def test_a_slot_that_panics_is_left_for_the_other(
    disk_image: Path, tmp_path: Path, state: str, tries: int, bios: bool, reason: str
) -> None:
    """The slot's root part is damaged, so init gives up."""
    machine = Machine(disk_image, tmp_path / "machine", bios=bios)
    boot = read_boot_state(machine.disk)
    slots = {**boot.slots, "b": SlotState(state, tries)}
    boot = boot._replace(order=("b", "a"), slots=slots, last_good="b")
    write_boot_state(machine.disk, boot)
    with machine.disk.open("r+b") as disk:
        slot = read_table(disk)["slot-b"].offset

        def read(offset: int, size: int) -> bytes:
            disk.seek(slot + offset)
            return disk.read(size)

        root = next(part for part in parts(read) if part.name == "root")
        disk.seek(slot + root.offset)
        disk.write(bytes(4096))

    with machine:
        for _ in range(tries):
            machine.wait_for_console(rf"belay: booting slot b \({state}\)")
            machine.wait_for_console(r"slot b can't boot: vda4 has no root part")
        machine.wait_for_console(r"belay: slot b has no tries left")
        machine.wait_for_console(r"belay: booting slot a \(good\)")
        machine.wait_for_login()
        machine.wait_until_confirmed()
        output = machine.succeed("belay status")
        assert "slot b: bad, 0 tries left" in output
        assert "was rejected" in output and reason in output
        assert read_boot_state(machine.disk).last_good == "a"


def remove_grubenv(disk: Path) -> None:
    """Mark the directory entry of grubenv as deleted."""
    with disk.open("r+b") as file:
        offset = read_table(file)["esp"].offset
        file.seek(offset)
        esp = file.read(4 << 20)
        file.seek(offset + esp.index(b"GRUBENV    "))
        file.write(b"\xe5")


def test_a_damaged_boot_state_ends_in_a_slot_that_boots(disk_image: Path, tmp_path: Path) -> None:
    """A copy counts; else the clock says which slot comes first, and one that is erased doesn't."""
    machine = Machine(disk_image, tmp_path / "machine", bios=True)
    offset = grubenv_offset(machine.disk)
    copied = render(BootState(order=("b", "a")))
    with machine:
        with machine.stage("a copy, or the clock"):
            for copy, data, minute, slot in (
                (copied, bytes(SIZE), 0, "b"),
                (bytes(SIZE), random.Random(7).randbytes(SIZE), 30, "a"),
                (bytes(SIZE), b"", 31, "b"),
            ):
                machine.power_cut()
                with machine.disk.open("r+b") as disk:
                    disk.seek(offset)
                    disk.write(data)
                    disk.seek(offset + SIZE)  # right behind it
                    disk.write(copy)
                if not data:
                    remove_grubenv(machine.disk)
                clock = ("-rtc", f"base=2026-11-01T12:{minute:02}:00")
                machine.hardware = replace(machine.hardware, extra=clock)
                machine.start()
                if copy == copied:
                    machine.wait_for_console(r"belay: grubenv can't be read, its copy can")
                machine.wait_for_console(rf"belay: booting slot {slot} \(good\)")
                if copy == copied:
                    machine.power_cut()
                    with machine.disk.open("rb") as disk:
                        disk.seek(offset + SIZE)
                        tries = parse(disk.read(SIZE)).slots["b"].tries
                    assert tries == TRIES[GOOD] - 1, "it is counted in the copy"
        with machine.stage("slot a is erased"):
            machine.power_cut()
            with machine.disk.open("r+b") as disk:
                disk.seek(read_table(disk)["slot-a"].offset)
                disk.write(bytes(1 << 20))
            machine.hardware = replace(machine.hardware, extra=("-rtc", "base=2026-11-01T12:44:00"))
            machine.start()
            machine.wait_for_console(r"belay: slot a holds no kernel")
            machine.wait_for_console(r"belay: booting slot b \(good\)")
            machine.wait_for_console(r"OpenRC .* is starting up")


def test_without_a_bootable_slot_the_last_good_one_is_the_rescue(
    disk_image: Path, tmp_path: Path
) -> None:
    machine = Machine(disk_image, tmp_path / "machine", bios=True, watchdog=True)
    state = read_boot_state(machine.disk).with_slot("a", "bad").with_slot("b", "bad")
    write_boot_state(machine.disk, state._replace(last_good="b", rescues=2))
    with machine.disk.open("r+b") as disk:
        disk.seek(read_table(disk)["data"].offset)
        disk.write(b"\xa5" * (64 << 10))  # no superblock is left
    with machine:
        with machine.stage("a rescue that heals"):
            machine.wait_for_console(r"belay: booting slot b \(rescue\)")
            machine.wait_for_login()
            # As all is well in it, it is a rescue no more.
            machine.wait_until_confirmed()
            output = machine.succeed("belay status")
            assert "this boot is a rescue: no slot had a try left: their boots hung" in output
            assert (
                "slot a: bad, 0 tries left" in output
                and f"slot b: good, {TRIES[GOOD]} tries left" in output
            )
            assert "the next boot is of" not in output
            assert "warning: the files on /data were beyond repair, and are lost" in output
            assert "data" in machine.succeed("belay history")
            machine.succeed("grep ' /data ext4 rw' /proc/mounts && pgrep -f /usr/lib/belay/pull")
            assert machine.succeed("stat -c %s /data/belay/data-before") == "1048576\n"
        with machine.stage("too many rescues"):
            machine.power_cut()
            write_boot_state(machine.disk, state._replace(last_good="b", rescues=3))
            machine.start()
            machine.wait_for_console(rf"belay: {RESCUES} rescue boots were not answered")
        with machine.stage("a disk that takes no writes"):
            # Where the loader can't count, a slot on trial is not tried, and a good one boots.
            machine.power_cut()
            state = BootState(order=("b", "a")).with_slot("b", "trial")
            write_boot_state(machine.disk, state)
            machine.hardware = replace(machine.hardware, read_only=True)
            machine.start()
            machine.wait_for_console(r"belay: grubenv can't be written: slot b is not tried")
            machine.wait_for_console(r"belay: grubenv can't be written\r")
            machine.wait_for_console(r"belay: booting slot a \(good\)")
            machine.wait_for_login()
            machine.wait_until_confirmed()  # else the watchdog would end it
            output = machine.succeed("belay status")
            assert "warning: that slot a is good can't be kept: /dev/vda2" in output
            assert "watchdog i6300ESB timer: a hang ends in a reset after " in output
            assert "warning: the disk takes no writes: /data can be read only" in output
            machine.succeed("grep ' /data ext4 ro' /proc/mounts && pgrep -f /usr/lib/belay/pull")
            assert "did not stop" not in machine.succeed("dmesg | tail -n 5")
            assert read_boot_state(machine.disk) == state
