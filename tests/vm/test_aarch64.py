"""Images for aarch64, built on this machine, boot and are updated like the others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builder.core.arch import AARCH64, host_arch
from builder.disk.boot_state import read_boot_state, write_boot_state
from builder.vm.hardware import free_port
from builder.vm.machine import Machine
from tests.programs import program
from tests.project import Nginx, Project
from tests.vm.test_nodes import Ssh, new_node
from tests.vm.test_updates import UPDATE_TIMEOUT_S, is_on_trial, stick_with_broken_service
from updater.contract import BAD, TRIAL, TRIES
from updater.grubenv import SlotState

U_BOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")

pytestmark = pytest.mark.vm(minutes=6)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    program(AARCH64.qemu)
    project = Project(tmp_path, free_port())
    project.env["BELAY_ALPINE_ARCH"] = AARCH64.name
    return project


def test_a_node_of_another_architecture_is_updated(project: Project, tmp_path: Path) -> None:
    """Both slots, a trial that is kept, one that the power ends, and one that its checks end."""
    assert host_arch() != AARCH64, "this is a test of building for another one"
    project.env["BELAY_UPDATE_SITE"] = "true"
    stick = tmp_path / "stick of crag-1"
    stick.mkdir()
    new_node(project, tmp_path, "crag-1", "--usb", str(stick))
    project.release("1.0.0")
    disk = tmp_path / "first.img"
    shutil.copy((project.build / "disk.img").resolve(), disk)
    project.release("1.1.0")
    with Nginx(project.www, project.port, tmp_path / "nginx"):
        project.upload("--channel", "stable")
        project.inv("site.publish", "--channel", "stable")
        assert (project.www / "aarch64/channels/stable").exists()
        assert not (project.www / "channels").exists(), "others see nothing of it"
        with Machine(disk, tmp_path / "machine", arch=AARCH64, usb=stick) as machine:
            with machine.stage("a boot, and a site"):
                machine.wait_for_console(r"belay: booting slot a \(good\)")
                machine.wait_for_login()
                machine.wait_until_confirmed()
                status = machine.succeed("belay status")
                assert "belay 1.0.0 (aarch64) runs in slot a (good)" in status
                assert "no watchdog" in status, "linux-virt has no driver of one there"
                assert f"console={AARCH64.serial}," in machine.succeed("cat /proc/cmdline")
                assert machine.fail("rc-status --crashed") == ""
                machine.succeed("modprobe dummy")
                a_site_makes_it_a_web_server(Ssh(machine, tmp_path))
            with machine.stage("an update by delta, and a power cut in its trial"):
                output = machine.succeed("belay update 2>&1", UPDATE_TIMEOUT_S)
                assert "whole" not in output
                assert is_on_trial(machine.disk, "b")
                machine.type("reboot\n")
                machine.wait_for_console(r"belay: booting slot b \(trial\)")
                machine.power_cut()
                slot = read_boot_state(machine.disk).slots["b"]
                assert (slot.state, slot.tries) == (TRIAL, 2), "one of three is used up"
                machine.start()
                machine.wait_for_login()
                machine.wait_until_confirmed()
                state = read_boot_state(machine.disk)
                assert (state.slots["b"], state.last_good) == (SlotState(), "b")
                assert "confirmed  1.1.0 in slot b" in machine.succeed("belay history")
            with machine.stage("a bad release from a stick"):
                bad, _ = stick_with_broken_service(project, tmp_path)
                machine.attach_usb(bad, "BELAYUPDATE")
                machine.wait_for_console("belay: booting slot a .trial.", UPDATE_TIMEOUT_S)
                machine.wait_for_console("belay: booting slot b .good.")
                machine.wait_for_login()
                assert "release 1.2.0 was rejected" in machine.succeed("belay status")
                assert read_boot_state(machine.disk).slots["a"].state == BAD


def a_site_makes_it_a_web_server(node: Ssh) -> None:
    """Seen over SSH."""
    assert "is applied" in node.succeed("belay site")
    page = "until wget -q -O - http://127.0.0.1:8080/; do sleep 1; done"
    assert "Welcome from crag-1." in node.succeed(page)


def test_u_boot_counts_tries_as_uefi_does(project: Project, tmp_path: Path) -> None:
    """Boards without UEFI have it from U-Boot: then GRUB and the boot state are the same."""
    if not U_BOOT.exists() and not os.environ.get("CI"):
        pytest.skip(f"{U_BOOT} is missing: apt-get install u-boot-qemu")
    project.inv("image")
    disk = (project.build / "disk.img").resolve()
    machine = Machine(disk, tmp_path / "machine", arch=AARCH64, firmware=U_BOOT)
    state = read_boot_state(machine.disk).with_slot("b", TRIAL)
    write_boot_state(machine.disk, state._replace(order=("b", "a"), tried="9.9.9"))
    with machine:
        with machine.stage("a trial that never gets far"):
            for left in reversed(range(TRIES[TRIAL])):
                machine.wait_for_console("U-Boot 20")
                machine.wait_for_console(r"belay: booting slot b \(trial\)")
                machine.power_cut()
                assert read_boot_state(machine.disk).slots["b"].tries == left
                machine.start()
        with machine.stage("back in the slot before"):
            machine.wait_for_console(r"belay: booting slot a \(good\)")
            machine.wait_for_login()
            assert read_boot_state(machine.disk).slots["b"].state == BAD
            assert "9.9.9 was rejected" in machine.succeed("belay status")
