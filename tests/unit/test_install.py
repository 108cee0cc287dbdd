"""`belay install`, on a disk that is a file."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import pytest

from builder.disk.table import Place, read_table
from builder.releases import netboot
from updater.errors import Refused, UpdateError
from updater.frame import read_frame
from updater.install import install
from updater.table import with_own_guids

MIB = 1 << 20
SLOT = b"slot" * 100_000
SLOTS = {"slot-a": Place(4 * MIB, 2 * MIB), "slot-b": Place(6 * MIB, 2 * MIB)}


NAMES = ("esp", "slot-a", "slot-b")


def table(size: int) -> bytes:
    """The begin of a disk of so many bytes, with a partition table."""
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", b"k" * 16, b"u" * 16, 2048 * at, 2048 * at + 2047, 0,
                    name.encode("utf-16-le"))
        for at, name in enumerate(NAMES, 1)
    ).ljust(128 * 128, b"\0")  # fmt: skip
    last = size // 512 - 1
    head = struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", 1 << 16, 92, 0, 0, 1, last, 34, last - 33, b"d" * 16, 2,
        128, 128, zlib.crc32(entries),
    )  # fmt: skip
    head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
    return bytes(512) + head.ljust(512, b"\0") + entries


def guids(disk: bytes, header_at: int) -> list[bytes]:
    """Those of the disk and of its partitions, by one of its two tables."""
    head = disk[header_at : header_at + 92]
    (first,) = struct.unpack_from("<Q", head, 72)
    entries = disk[first * 512 : first * 512 + 128 * len(NAMES)]
    return [head[56:72], *(entries[at + 16 : at + 32] for at in range(0, len(entries), 128))]


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk image of 10 MiB: 4 before the slots, 2 of each slot, 2 behind."""
    monkeypatch.setattr(netboot, "read_table", lambda disk: SLOTS)
    path = tmp_path / "image"
    head = table(10 * MIB).ljust(4 * MIB, b"h")
    parts = [head, SLOT.ljust(2 * MIB, b"\0"), SLOT.ljust(2 * MIB, b"\0"), b"t" * 2 * MIB]
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
    data, wanted = disk.read_bytes(), image.read_bytes()
    assert data[34 * 512 : 10 * MIB - 33 * 512] == wanted[34 * 512 : 10 * MIB - 33 * 512]
    assert data[:512] == wanted[:512]


@pytest.mark.parametrize("size", [12 * MIB, 12 * MIB + 512, 13 * MIB - 4096, 12 * MIB + 7 * 512])
def test_a_disk_gets_guids_of_its_own(root: Path, tmp_path: Path, size: int) -> None:
    """In both tables; and nothing of an old one is left at its end, whatever its size is."""
    seen: set[bytes] = set()
    for _ in range(2):
        disk = disk_of(tmp_path, size)
        with disk.open("r+b") as file:
            file.seek(size - 33 * 512)
            file.write(b"o" * 33 * 512)
        install(root, str(disk), str(disk), nothing)
        data = disk.read_bytes()
        assert not any(data[size - 33 * 512 :])
        with disk.open("rb") as file:
            assert [*read_table(file)] == [*NAMES]
            assert [*read_table(file, 10 * MIB - 512)] == [*NAMES]
        own = guids(data, 512)
        assert own == guids(data, 10 * MIB - 512)
        assert len({*own, b"u" * 16, b"d" * 16}) == len(own) + 2, "none twice"
        assert not seen & {*own}
        seen |= {*own}


def test_a_disk_with_other_sectors_is_refused(root: Path, tmp_path: Path) -> None:
    disk = disk_of(tmp_path, 12 * MIB, b"old")
    queue = root / "sys/class/block" / disk.name / "queue"
    queue.mkdir(parents=True)
    (queue / "logical_block_size").write_text("4096\n")
    with pytest.raises(UpdateError, match=r"has sectors of 4096 bytes; .* of 512 bytes only"):
        install(root, str(disk), str(disk), nothing)
    assert disk.read_bytes().startswith(b"old\0")


def test_a_frame_without_a_table_is_refused() -> None:
    whole = table(10 * MIB)
    for at in (512, 512 + 8, 512 + 40, 512 + 88, 1024 + 20, 1024 + 128 * 127):
        with pytest.raises(Refused, match="no whole partition table"):
            with_own_guids(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


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
