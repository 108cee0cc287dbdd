"""A node pulls real releases from a real web server, keeps what is well, and leaves what is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.disk.boot_state import read_boot_state
from tasks.vm.machine import Machine
from tests.project import Project, free_port, nginx
from updater.grubenv import SlotState

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("updates")]

UPDATE_TIMEOUT_S = 300


@dataclass
class Published:
    """Releases 1.0.0 on Alpine 3.23.5 and 1.1.0 on 3.23.6, and what else tests make of them."""

    project: Project
    first_disk: Path
    slots: dict[str, Path]
    log: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("updates")
    project = Project(folder, free_port())
    with nginx(project.www, project.port, folder / "nginx") as log:
        slots = {"1.0.0": project.release("1.0.0", BELAY_ALPINE_RELEASE="3.23.5")}
        disk = folder / "first.img"
        shutil.copy((project.build / "disk.img").resolve(), disk)
        slots["1.1.0"] = project.release("1.1.0")
        project.upload("--channel", "stable")
        yield Published(project, disk, slots, log)


def slot_holds(machine: Machine, slot: str, image: Path) -> bool:
    """Whether a slot of a machine's disk holds a release, bit for bit."""
    from tasks.disk.table import read_table

    wanted = image.read_bytes()
    with machine.disk.open("rb") as disk:
        disk.seek(read_table(disk)[f"slot-{slot}"].offset)
        return disk.read(len(wanted)) == wanted


def test_a_node_pulls_tries_and_keeps_a_release(published: Published, tmp_path: Path) -> None:
    """With a power cut in the middle, and then a bad release from a stick, which it leaves."""
    with Machine(published.first_disk, tmp_path / "machine") as machine:
        machine.wait_for_login()
        assert machine.succeed("uname -r") == "6.18.38-0-virt\n"
        machine.wait_until_succeeds("rc-service belay-gate status")
        machine.type("belay update --json\n")
        wait_for_half(machine, published)
        machine.power_cut()
        assert read_boot_state(machine.disk).slots["b"].state == "bad"

        machine.start()
        machine.wait_for_console(r"belay: booting slot a \(good\)")
        machine.wait_for_login()
        machine.wait_until_succeeds("rc-service belay-gate status")
        before = len(published.log.read_text().splitlines())
        assert "release 1.1.0 is in slot b" in machine.succeed("belay update", UPDATE_TIMEOUT_S)
        lines = published.log.read_text().splitlines()[before:]
        resumed = [line for line in lines if "blobs" in line]
        whole = published.project.www / "blobs"
        size = max(path.stat().st_size for path in whole.iterdir() if path.stat().st_size < 60e6)
        assert int(resumed[0].split()[9]) < size, "what was there is not fetched again"
        assert slot_holds(machine, "b", published.slots["1.1.0"])
        assert "installed already" in machine.succeed("belay update")

        machine.type("reboot\n")
        machine.wait_for_console(r"belay: booting slot b \(trial\)")
        machine.wait_for_login()
        assert machine.succeed("uname -r") == "6.18.56-0-virt\n"
        machine.wait_until_succeeds("rc-service belay-gate status")
        state = read_boot_state(machine.disk)
        assert (state.slots["b"], state.last_good) == (SlotState("good", 8), "b")
        assert "confirmed  1.1.0 in slot b" in machine.succeed("belay history")
        assert machine.succeed("belay check") == "release 1.1.0 is running already\n"


def wait_for_half(machine: Machine, published: Published) -> None:
    """Wait until about half of the slot is written."""
    image = published.slots["1.1.0"]
    machine.wait_until(lambda: slot_has_begun(machine, image, 80 << 20), UPDATE_TIMEOUT_S)


def slot_has_begun(machine: Machine, image: Path, at: int) -> bool:
    from tasks.disk.table import read_table

    with machine.disk.open("rb") as disk, image.open("rb") as wanted:
        disk.seek(read_table(disk)["slot-b"].offset + at)
        wanted.seek(at)
        return disk.read(4096) == wanted.read(4096)
