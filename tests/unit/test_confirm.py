"""The node's confirmation of its slot: the real script, on an ESP in a file."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.paths import PROJECT
from updater import grubenv
from updater.grubenv import BootState

LIB = PROJECT / "rootfs" / "overlay" / "usr" / "lib" / "belay"
GUID = "3c0e1c9a-0000-4000-8000-00000000000b"
SECTOR = 40  # 32 reserved, two FATs of 2 sectors, then the fourth cluster


class Node:
    """A root with /proc, /sys and a disk `vdx` whose ESP is a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        device = root / "sys/devices/vdx"
        for name, text in {
            "vdx3": f"PARTUUID={GUID}\nPARTNAME=slot-b\n",
            "vdx2": "PARTUUID=x\nPARTNAME=esp\n",
        }.items():
            (device / name).mkdir(parents=True)
            (device / name / "uevent").write_text(text)
        classes = root / "sys/class/block"
        classes.mkdir(parents=True)
        for path in (device, *device.iterdir()):
            (classes / path.name).symlink_to(path)
        (root / "proc").mkdir()
        (root / "dev").mkdir()
        self.esp = root / "dev/vdx2"

    def confirm(self, state: bytes, mode: str) -> subprocess.CompletedProcess[str]:
        boot_sector = bytearray(512)
        boot_sector[14:16] = (32).to_bytes(2, "little")
        boot_sector[16] = 2
        boot_sector[36:40] = (2).to_bytes(4, "little")
        self.before = bytes(boot_sector).ljust(SECTOR * 512, b"\x55")
        self.behind = b"\xaa" * 4096
        self.esp.write_bytes(self.before + state + self.behind)
        line = f"quiet belay.slot=b belay.partuuid={GUID} belay.mode={mode}\n"
        (self.root / "proc/cmdline").write_text(line)
        return subprocess.run(
            ["sh", LIB / "confirm"],
            env={"ROOT": str(self.root), "LIB": str(LIB), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def state(self) -> bytes:
        data = self.esp.read_bytes()
        assert data.startswith(self.before), "something before grubenv was changed"
        assert data.endswith(self.behind), "something behind grubenv was changed"
        return data[len(self.before) : -len(self.behind)]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "root")


@pytest.mark.parametrize("mode", ["good", "trial"])
def test_a_slot_that_came_up_is_good_and_has_its_tries_again(node: Node, mode: str) -> None:
    old = replace(
        BootState(order=("b", "a"), rescues=2, why="gate").with_slot("b", mode), last_good="a"
    )
    old.slots["b"] = replace(old.slots["b"], tries=1)
    done = node.confirm(grubenv.render(old), mode)
    assert (done.returncode, done.stdout) == (0, "slot b is confirmed\n")
    assert grubenv.parse(node.state) == replace(
        old.with_slot("b", "good"), last_good="b", rescues=0
    )


def test_the_second_sector_is_never_written(node: Node) -> None:
    state = grubenv.render(BootState())[:512] + b"Z" * 512
    assert node.confirm(state, "good").returncode == 0
    assert node.state[512:] == b"Z" * 512


@pytest.mark.parametrize("mode", ["once", "rescue"])
def test_a_boot_that_was_no_try_changes_nothing(node: Node, mode: str) -> None:
    state = grubenv.render(BootState())
    done = node.confirm(state, mode)
    assert (done.returncode, node.state) == (0, state)
    assert f"mode {mode}: nothing to confirm" in done.stdout


def test_a_missing_grubenv_is_an_error_that_says_so(node: Node) -> None:
    done = node.confirm(bytes(1024), "good")
    assert done.returncode == 1
    assert "grubenv is not on" in done.stderr
    assert node.state == bytes(1024)
