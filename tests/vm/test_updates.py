"""A node pulls real releases from a real web server, keeps what is well, and leaves what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.core.files import copy_sparse
from builder.disk.boot_state import read_boot_state
from builder.disk.table import Place, read_table
from builder.vm.machine import Machine
from tests.project import Project, Published
from tests.write_log import writes
from updater.contract import BAD, TRIAL
from updater.formats import CHUNK
from updater.grubenv import BootState, SlotState

pytestmark = pytest.mark.vm(minutes=6)

UPDATE_TIMEOUT_S = 900
HALF = 80 << 20
DELTA_MAX = 9_500_000  # bytes from one kernel to the next
MEMORY_MAX = "45M"


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


def is_on_trial(disk: Path, slot: str) -> bool:
    return read_boot_state(disk).slots[slot].state == TRIAL


def has_lock_of(published: Published, version: str, alpine: str) -> bool:
    """Whether a release holds the lock of this Alpine."""
    store = published.project.store
    manifest = json.loads((store / "releases" / version / "manifest.json").read_text())
    lock = (store / "blobs" / manifest["files"]["apk.lock"]["sha256"]).read_text()
    return f'"alpine-release" = ["{alpine}-r' in lock


def test_a_node_pulls_tries_and_keeps_a_release(published: Published, tmp_path: Path) -> None:
    """With power cuts in the middle and at the flip; then it leaves a bad one from a stick."""
    assert has_lock_of(published, "1.0.0", "3.23.5") and has_lock_of(published, "1.1.0", "3.23.6")
    log = tmp_path / "writes"
    image = published.slots["1.1.0"]
    begin = len(published.server.log.read_text().splitlines())
    with Machine(published.first_disk, tmp_path / "machine", write_log=log) as machine:
        with machine.stage("a power cut in the middle of the write"):
            machine.wait_for_login()
            assert machine.succeed("uname -r") == "6.18.38-0-virt\n"
            machine.wait_until_confirmed()
            machine.type("belay update --json\n")
            machine.wait_until(
                lambda: holds(machine.disk, "b", image, HALF, 4096), UPDATE_TIMEOUT_S
            )
            machine.power_cut()
            assert read_boot_state(machine.disk).slots["b"].state == BAD
            # Only the begin of the kernel is there: it was cut off while that was packed.
            assert holds(machine.disk, "b", image, 0, CHUNK)
            assert not holds(machine.disk, "b", image, 5 * CHUNK, CHUNK)
        with machine.stage("a power cut at the flip"):
            machine.start()
            machine.wait_for_console(r"belay: booting slot a \(good\)")
            machine.wait_for_login()
            machine.wait_until_confirmed()
            before = len(published.server.log.read_text().splitlines())
            limit_memory(machine)
            machine.type("belay update\n")
            machine.wait_until(lambda: is_on_trial(machine.disk, "b"), UPDATE_TIMEOUT_S)
            machine.power_cut()
            both, second = (sum(published.fetched(line)) for line in (begin, before))
            assert max(both - second, second) < DELTA_MAX < published.packed("1.1.0") / 2
            assert holds(machine.disk, "b", image)
        with machine.stage("a trial without its server"):
            published.server.stop()
            machine.start()
            machine.wait_for_console(r"belay: booting slot b \(trial\)")
            machine.wait_for_login()
            # It has asked for the channel, and asks again in a while.
            machine.succeed("until pgrep -f '[s]leep 5$'; do sleep 1; done")
            machine.fail("test -e /run/belay/confirmed")
            published.server.start()
            assert machine.succeed("uname -r") == "6.18.56-0-virt\n"
            machine.wait_until_confirmed()
            state = read_boot_state(machine.disk)
            assert (state.slots["b"], state.last_good) == (SlotState(), "b")
            assert "confirmed  1.1.0 in slot b" in machine.succeed("belay history")
            assert machine.succeed("belay check") == "release 1.1.0 is running already\n"
        with machine.stage("a bad release from a stick"):
            stick, broken = stick_with_broken_service(published.project, tmp_path)
            a_bad_release_is_left(machine, stick)
            copy_sparse(machine.disk, tmp_path / "at the end")
    slots = [*published.slots.values(), broken]
    every_moment_was_safe(published.first_disk, slots, log, tmp_path)


def limit_memory(machine: Machine) -> None:
    """What is typed on the console has so much memory, and is ended where it needs more."""
    machine.type(
        "cd /tmp && mkdir groups && mount -t cgroup2 none groups && cd groups &&"
        " echo +memory >cgroup.subtree_control; mkdir update && cd update &&"
        f" echo {MEMORY_MAX} >memory.max && echo $$ >cgroup.procs\n"
    )
    machine.succeed("until grep . /tmp/groups/update/cgroup.procs; do sleep 1; done")


def a_bad_release_is_left(machine: Machine, stick: Path) -> None:
    machine.attach_usb(stick, "BELAYUPDATE")
    machine.wait_for_console("belay: booting slot a .trial.", UPDATE_TIMEOUT_S)
    machine.wait_for_console("not running: broken")
    machine.wait_for_console("belay: booting slot b .good.")
    machine.wait_for_login()
    output = machine.succeed("belay status")
    assert "belay 1.1.0 (x86_64) runs in slot b (good)" in output
    assert "release 1.2.0 was rejected: check 10-services failed" in output
    assert "not running: broken" in output


def stick_with_broken_service(project: Project, folder: Path) -> tuple[Path, Path]:
    """A stick with release 1.2.0, in which a service fails; and the slot image of that release."""
    service = project.root / "rootfs/overlay/etc/init.d/broken"
    service.write_text("#!/sbin/openrc-run\nstart() {\n\tewarn out of luck\n\treturn 1\n}\n")
    service.chmod(0o755)
    with (project.root / "rootfs/services").open("a") as services:
        services.write("default broken\n")
    own_store = {"BELAY_STORE": str(folder / "store")}  # other tests find no 1.2.0 in theirs
    slot = project.release("1.2.0", **own_store)
    project.git("reset", "-q", "--hard", "HEAD~1")
    stick = folder / "stick"
    words = ("upload", "--channel", "stable", "--to", str(stick), "--unverified")
    project.inv(*words, **own_store)
    blobs = next(stick.rglob("blobs")).iterdir()
    max(blobs, key=lambda blob: blob.stat().st_size).unlink()  # the disk: no node wants it
    return stick, slot


def every_moment_was_safe(first_disk: Path, slots: list[Path], log: Path, folder: Path) -> None:
    """Had power been lost after any write whatsoever, a whole release would have booted."""
    disk = folder / "replayed"
    shutil.copy(first_disk, disk)
    partitions = {name: place_of(disk, f"slot-{name}") for name in ("a", "b")}
    esp = place_of(disk, "esp")
    releases = [path.read_bytes() for path in slots]
    slot, whole, booted, count = "a", {"a"}, {"a"}, 0
    with disk.open("r+b") as file:
        for write in writes(log):
            file.seek(write.offset)
            file.write(write.data)
            file.flush()
            count += 1
            whole -= {name for name, slot in partitions.items() if write.touches(slot)}
            if write.touches(esp):
                slot = boots(read_boot_state(disk))
                booted.add(slot)
            if slot not in whole:
                file.seek(partitions[slot].offset)
                data = file.read(max(len(release) for release in releases))
                assert any(data.startswith(release) for release in releases), (
                    f"after write {count} slot {slot} would boot, and is not whole"
                )
                whole.add(slot)
    assert count > 100 and booted == {"a", "b"}


def boots(state: BootState) -> str:
    """The slot that the boot loader takes, as grub.cfg.in says it."""
    for name in state.order:
        if state.slots[name].state != BAD and state.slots[name].tries:
            return name
    return state.last_good
