"""A node pulls real releases from a real web server, keeps what is well, and leaves what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.disk.boot_state import read_boot_state
from tasks.disk.table import Place, read_table
from tasks.vm.machine import Machine
from tests.project import Published
from updater.grubenv import BAD, SlotState

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("updates")]

UPDATE_TIMEOUT_S = 300
GATE = "rc-service belay-gate status"
HALF = 80 << 20


def place_of(disk: Path, name: str) -> Place:
    with disk.open("rb") as file:
        return read_table(file)[name]


def holds(disk: Path, slot: str, image: Path, at: int = 0, size: int = -1) -> bool:
    """Whether a slot of a disk has the bytes of a release, all or some."""
    with disk.open("rb") as file, image.open("rb") as wanted:
        wanted.seek(at)
        data = wanted.read(size)
        file.seek(place_of(disk, f"slot-{slot}").offset + at)
        return file.read(len(data)) == data


def test_a_node_pulls_tries_and_keeps_a_release(published: Published, tmp_path: Path) -> None:
    """With a power cut in the middle."""
    image = published.slots["1.1.0"]
    with Machine(published.first_disk, tmp_path / "machine") as machine:
        machine.wait_for_login()
        assert machine.succeed("uname -r") == "6.18.38-0-virt\n"
        machine.wait_until_succeeds(GATE)
        machine.type("belay update --json\n")
        machine.wait_until(lambda: holds(machine.disk, "b", image, HALF, 4096), UPDATE_TIMEOUT_S)
        machine.power_cut()
        assert read_boot_state(machine.disk).slots["b"].state == BAD

        machine.start()
        machine.wait_for_console(r"belay: booting slot a \(good\)")
        machine.wait_for_login()
        machine.wait_until_succeeds(GATE)
        before = len(published.log.read_text().splitlines())
        assert "release 1.1.0 is in slot b" in machine.succeed("belay update", UPDATE_TIMEOUT_S)
        assert sum(published.fetched(before)) < published.packed("1.1.0") / 2, "it went on"
        assert holds(machine.disk, "b", image)
        assert "installed already" in machine.succeed("belay update")

        machine.type("reboot\n")
        machine.wait_for_console(r"belay: booting slot b \(trial\)")
        machine.wait_for_login()
        assert machine.succeed("uname -r") == "6.18.56-0-virt\n"
        machine.wait_until_succeeds(GATE)
        state = read_boot_state(machine.disk)
        assert (state.slots["b"], state.last_good) == (SlotState("good", 8), "b")
        assert "confirmed  1.1.0 in slot b" in machine.succeed("belay history")
        assert machine.succeed("belay check") == "release 1.1.0 is running already\n"
