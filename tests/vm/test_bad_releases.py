"""Releases that must not stay: each goes back by itself, and the node says why.

One with a service that fails is rejected in test_updates.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.disk.boot_state import read_boot_state, write_boot_state
from builder.disk.table import read_table
from builder.vm.hardware import free_port
from builder.vm.machine import Machine
from tests.project import Project
from updater.contract import BAD
from updater.grubenv import SlotState

pytestmark = pytest.mark.vm

RESET_TIMEOUT_S = 1200
OVERLAY = "rootfs/overlay/etc"


def needs_network(root: Path) -> dict[str, str]:
    return {"BELAY_UPDATE_NETWORK": "true"}


def hangs_early(root: Path) -> dict[str, str]:
    init = root / "initramfs/init"
    text = init.read_text()
    before, mark, after = text.partition("$MOCK modprobe -a -q loop squashfs")
    assert mark
    init.write_text(f'{before}say "this is where it hangs"\nsleep 999999\n{mark}{after}')
    return {}


def hangs_late(root: Path) -> dict[str, str]:
    service = root / OVERLAY / "init.d/stuck"
    service.write_text("#!/sbin/openrc-run\nstart() {\n\tsleep 999999\n}\n")
    service.chmod(0o755)
    with (root / "rootfs/services").open("a") as services:
        services.write("default stuck\n")
    return {"BELAY_UPDATE_BOOT_S": "60"}


CASES: dict[str, tuple[Callable[[Path], dict[str, str]], str, str]] = {
    "no network": (needs_network, "check 40-network failed", "there is no default route"),
    "a hang, early": (hangs_early, "", ""),  # of which the node says what it says of the next one
    "a hang, late": (hangs_late, "it hung or lost power", "left no trace"),
}


@pytest.fixture(scope="module")
def project(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone that has built the disk of release 1.0.0."""
    project = Project(tmp_path_factory.mktemp("bad"), free_port())
    project.commit("v1.0.0")
    project.inv("image", BELAY_OS_VERSION="1.0.0")
    return project


@pytest.mark.parametrize("name", CASES)
def test_it_goes_back_by_itself(name: str, project: Project, tmp_path: Path) -> None:
    change, check, reason = CASES[name]
    machine = Machine(project.build / "disk.img", tmp_path / "machine", bios=True, watchdog=True)
    env = change(project.root)
    try:
        project.inv("slot", BELAY_OS_VERSION="1.9.0", **env)
    finally:
        project.git("checkout", "-q", ".")
        project.git("clean", "-q", "-f", "-d")
    with machine.disk.open("r+b") as disk:
        disk.seek(read_table(disk)["slot-b"].offset)
        disk.write((project.build / "slot.img").read_bytes())
    state = read_boot_state(machine.disk)
    slots = {**state.slots, "b": SlotState("trial", 1)}
    write_boot_state(machine.disk, state._replace(order=("b", "a"), slots=slots))

    with machine:
        if name == "no network":
            machine.qmp("set_link", name="net", up=False)
        machine.wait_for_console(r"belay: booting slot b \(trial\)")
        machine.wait_for_console(r"belay: booting slot a \(good\)", RESET_TIMEOUT_S)
        if check:
            machine.wait_for_login()
            machine.wait_until_confirmed()
            output = machine.succeed("belay status")
            assert "belay 1.0.0 (x86_64) runs in slot a (good)" in output
            assert check in output and reason in output
        machine.power_cut()
        after = read_boot_state(machine.disk)
        assert (after.slots["b"].state, after.last_good) == (BAD, "a")
