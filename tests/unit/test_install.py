"""`belay install`, on a disk that is a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tasks.disk.table import Place
from tasks.vm import netboot
from updater.errors import Refused, UpdateError
from updater.install import install, read_frame

MIB = 1 << 20
SLOT = b"slot" * 100_000
SLOTS = {"slot-a": Place(4 * MIB, 2 * MIB), "slot-b": Place(6 * MIB, 2 * MIB)}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk image of 10 MiB: 4 before the slots, 2 of each slot, 2 behind."""
    monkeypatch.setattr(netboot, "read_table", lambda disk: SLOTS)
    path = tmp_path / "image"
    parts = [b"h" * 4 * MIB, SLOT.ljust(2 * MIB, b"\0"), SLOT.ljust(2 * MIB, b"\0"), b"t" * 2 * MIB]
    path.write_bytes(b"".join(parts))
    return path


@pytest.fixture
def root(tmp_path: Path, image: Path) -> Path:
    """A system that came from a folder that stands for a server."""
    root, www = tmp_path / "root", tmp_path / "www"
    for folder in (root / "proc", root / ".slot", root / "sys/block/vda", www):
        folder.mkdir(parents=True)
    (root / ".slot/slot.img").write_bytes(SLOT)
    frame = netboot.frame_of(image)
    (www / "frame.gz").write_bytes(frame)
    (root / "proc/cmdline").write_text(
        f"quiet belay.netboot={www}/slot.img belay.sha256={hashlib.sha256(SLOT).hexdigest()} "
        f"belay.frame={hashlib.sha256(frame).hexdigest()}\n"
    )
    return root


def disk_of(folder: Path, size: int, begin: bytes = b"") -> Path:
    disk = folder / "disk"
    disk.write_bytes(begin.ljust(size, b"\0"))
    return disk


def nothing(text: str) -> None:
    """Say nothing."""


def test_the_disk_becomes_the_image(root: Path, image: Path, tmp_path: Path) -> None:
    disk = disk_of(tmp_path, 12 * MIB, b"old")
    with pytest.raises(UpdateError, match=f"is lost: belay install {disk} {disk}"):
        install(root, str(disk), "", nothing)
    assert disk.read_bytes().startswith(b"old\0")
    assert install(root, str(disk), str(disk), nothing) == 12 * MIB
    assert disk.read_bytes()[: 10 * MIB] == image.read_bytes()


def test_a_disk_that_is_too_small_stays_as_it_is(root: Path, tmp_path: Path) -> None:
    disk = disk_of(tmp_path, 9 * MIB, b"old")
    with pytest.raises(UpdateError, match="has 9 MiB; the system takes 10"):
        install(root, str(disk), str(disk), nothing)
    assert disk.read_bytes().startswith(b"old\0")


def test_what_is_no_disk_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match="there is no /dev/nothing; there are: vda"):
        install(root, "/dev/nothing", "", nothing)
    (root / "proc/cmdline").write_text("quiet belay.slot=a\n")
    with pytest.raises(UpdateError, match="only a system that came over the network"):
        install(root, str(disk_of(tmp_path, MIB)), "", nothing)


def test_a_frame_that_was_changed_is_refused(image: Path) -> None:
    frame = netboot.frame_of(image)
    with pytest.raises(Refused, match="not the one that the command line names"):
        read_frame(frame[:-1], hashlib.sha256(frame).hexdigest())


def test_slots_that_read_back_otherwise_are_no_success(root: Path, tmp_path: Path) -> None:
    (root / ".slot/slot.img").write_bytes(SLOT[:-1] + b"x")
    disk = disk_of(tmp_path, 12 * MIB)
    with pytest.raises(UpdateError, match="other bytes at 4194304 than were written"):
        install(root, str(disk), "", nothing)
    assert not any(disk.read_bytes()[:MIB]), "it can't be booted"
