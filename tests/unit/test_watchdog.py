"""What feeds the watchdog on a node: here a machine of files, whose time the test moves."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.services import add_library

LIB = PROJECT / "rootfs/overlay/usr/lib/belay"


class Machine:
    """`dev/watchdog` is a file: each line in it is a time that it was fed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        disk = self.root / "sys/devices/sda"
        (disk / "sda3").mkdir(parents=True)
        (disk / "size").write_text("2048\n")
        blocks = self.root / "sys/class/block"
        blocks.mkdir(parents=True)
        (blocks / "sda").symlink_to(disk)
        (blocks / "sda3").symlink_to(disk / "sda3")
        for name in ("proc", "dev", "run/openrc/started", "run/belay", "etc/belay"):
            (self.root / name).mkdir(parents=True)
        add_library(self.root)
        (self.root / "etc/belay/booted").write_text("sda3\n")
        (self.root / "etc/belay/settings").write_text("boot_s=400\n")
        (self.root / "dev/sda").write_bytes(bytes(1 << 20))
        self.at(10)
        self.cmdline = "quiet"
        self.mock = folder / "mock"
        self.mock.write_text(
            f'#!/bin/sh\necho "$*" >>{folder}/notes\n'
            f'case "$*" in *softdog) : >{self.root}/dev/watchdog ;; esac\n'
        )
        self.mock.chmod(0o755)
        self.notes = folder / "notes"
        self.notes.touch()

    def at(self, seconds: int) -> None:
        """So long ago the machine was switched on."""
        fresh = self.root / "proc/uptime.new"
        fresh.write_text(f"{seconds}.25 1.00\n")
        fresh.rename(self.root / "proc/uptime")

    def start(self) -> None:
        (self.root / "proc/cmdline").write_text(f"{self.cmdline}\n")
        env = {**os.environ, "ROOT": str(self.root), "MOCK": str(self.mock)}
        env |= {"EVERY_S": "0.05", "RESET_S": "0.1", "SYNC_S": "0.1"}
        self.process = subprocess.Popen(["sh", LIB / "watchdog"], env=env, start_new_session=True)

    def text(self, name: str) -> str:
        path = self.root / name
        return path.read_text() if path.exists() else ""

    def fed(self) -> int:
        return self.text("dev/watchdog").count("1")

    def is_fed(self) -> bool:
        """Whether that goes on."""
        before = self.fed()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.fed() >= before + 3:
                return True
            time.sleep(0.02)
        return False

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.02)

    def is_reset(self) -> str:
        """Wait for the reset; what the kernel's log says."""
        assert self.process.wait(60) == 0
        assert self.text("proc/sysrq-trigger") == "s\nu\nb\n"
        return self.text("dev/kmsg")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    (machine.root / "dev/watchdog").touch()
    yield machine
    with suppress(ProcessLookupError):  # also what it left, such as a disk that doesn't answer
        os.killpg(machine.process.pid, signal.SIGKILL)
    machine.process.wait()


def test_a_boot_that_is_not_confirmed_in_time_ends(machine: Machine) -> None:
    machine.at(399)
    machine.start()
    assert machine.is_fed()
    machine.at(400)
    assert "this boot was not confirmed within 400 s" in machine.is_reset()
    why = "this boot was not confirmed within 400 s"
    assert f"timeout 60 belay gate --overdue {why}\n" in machine.notes.read_text()


def holds(process: int, path: Path) -> int:
    """How many descriptors of a process lead to a file, of those that a program would keep."""
    found = 0
    for entry in Path(f"/proc/{process}/fd").glob("*"):
        try:
            found += entry.readlink() == path
        except OSError:  # closed meanwhile
            continue
    return found


def let_go(process: int, path: Path) -> bool:
    return holds(process, path) == 0


def test_a_confirmed_boot_goes_on_and_one_descriptor_stays_open(machine: Machine) -> None:
    """The kernel logs each that closes, at the level of a catastrophe."""
    identity = machine.root / "sys/class/watchdog/watchdog0/identity"
    identity.parent.mkdir(parents=True)
    identity.write_text("iTCO_wdt\n")
    (identity.parent / "timeout").write_text("30\n")
    (machine.root / "run/belay/confirmed").touch()
    machine.at(4000)
    machine.start()
    assert machine.is_fed()
    assert holds(machine.process.pid, machine.root / "dev/watchdog") == 1
    assert machine.text("run/belay/watchdog") == "iTCO_wdt\n30\n"
    children = Path(f"/proc/{machine.process.pid}/task/{machine.process.pid}/children")
    machine.wait_for(children.read_text)
    path = machine.root / "dev/watchdog"
    for child in children.read_text().split():  # one that hangs would keep it
        machine.wait_for(partial(let_go, int(child), path))


def test_a_watchdog_that_comes_later_is_fed(machine: Machine) -> None:
    (machine.root / "dev/watchdog").unlink()
    machine.start()
    machine.at(11)
    time.sleep(0.3)
    assert machine.notes.read_text() == "", "drivers are not there yet"
    (machine.root / "dev/watchdog").touch()
    machine.wait_for(machine.fed)
    assert machine.is_fed()


def test_without_a_watchdog_the_kernel_s_own_is_used(machine: Machine) -> None:
    (machine.root / "dev/watchdog").unlink()
    (machine.root / "run/openrc/started/belay-drivers").touch()
    machine.start()
    machine.wait_for(machine.fed)
    assert machine.is_fed()
    tried = [line.split()[-1] for line in machine.notes.read_text().splitlines()]
    assert tried == ["ipmi_watchdog", "it87_wdt", "w83627hf_wdt", "softdog"]


def test_a_machine_without_any_watchdog_is_reset_all_the_same(machine: Machine) -> None:
    (machine.root / "dev/watchdog").unlink()
    machine.at(400)
    machine.start()
    assert "this machine will be reset" in machine.is_reset()
    assert not machine.fed()


@pytest.mark.parametrize("how", ["gone", "empty", "hangs"])
def test_a_disk_that_is_gone_ends_the_boot(machine: Machine, how: str) -> None:
    (machine.root / "run/belay/confirmed").touch()
    machine.start()
    assert machine.is_fed()
    disk = machine.root / "dev/sda"
    disk.unlink()
    if how == "empty":
        disk.touch()
    elif how == "hangs":
        os.mkfifo(disk)
    machine.at(40)
    machine.wait_for(lambda: machine.fed() > 5)
    machine.at(150)
    assert machine.is_fed(), "it may come back"
    machine.at(200)
    assert "the disk sda was read last 190 s ago" in machine.is_reset()


def test_a_disk_that_reads_again_is_well(machine: Machine) -> None:
    (machine.root / "run/belay/confirmed").touch()
    machine.start()
    disk = machine.root / "dev/sda"
    disk.rename(machine.root / "away")
    machine.at(120)
    assert machine.is_fed()
    (machine.root / "away").rename(disk)
    machine.at(160)
    machine.wait_for(lambda: machine.text("run/belay/disk-read") == "160\n")
    machine.at(320)
    assert machine.is_fed()


def test_a_system_from_the_network_has_no_disk_to_read(machine: Machine) -> None:
    machine.cmdline += " belay.netboot=http://10.0.0.1/slot.img"
    (machine.root / "dev/sda").unlink()
    (machine.root / "run/belay/confirmed").touch()
    machine.start()
    machine.at(4000)
    assert machine.is_fed()


def test_what_hangs_when_it_goes_down_is_ended(machine: Machine) -> None:
    """First what doesn't stop, so that the rest goes down in order; then all."""
    (machine.root / "run/belay/confirmed").touch()
    (machine.root / "run/openrc/softlevel").write_text("default\n")
    machine.start()
    assert machine.is_fed()
    machine.at(20)
    (machine.root / "run/openrc/softlevel").write_text("shutdown\n")
    assert machine.is_fed()
    machine.at(109)
    assert machine.is_fed() and machine.notes.read_text() == ""
    machine.at(110)
    assert machine.is_fed()
    assert machine.notes.read_text().startswith("pkill -KILL -f openrc-run\n")
    machine.at(140)
    assert "going down took longer than 120 s: this machine will be reset" in machine.is_reset()
