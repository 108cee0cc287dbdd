"""Writes both slots, and what boots them, to a disk: from a system that came over the network.

The order is what makes it safe: the disk can't be booted before all is on it. The partition tables
of before go first; the first MiB, with the new one, comes last. That has GUIDs of its own: disks
with the same system can be in one machine.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

from updater.contract import (
    ARGUMENT_FRAME,
    ARGUMENT_NETBOOT,
    ARGUMENT_SHA256,
)
from updater.disk import Disk
from updater.errors import UpdateError
from updater.frame import FRAME_FILE, FRAME_SIZE_MAX, Frame, read_frame
from updater.source import open_source
from updater.table import SECTOR, with_own_guids

SLOT = ".slot/slot.img"
MIB = 1 << 20
ENDS = 64 << 10  # bytes at the end of a disk, with all of a second table


def install(root: Path, disk: str, again: str, say: Callable[[str], None]) -> int:
    """Install this system to `disk`; its size in bytes.

    Raises UpdateError where it is too small, in use, or holds data and isn't named `again`.
    """
    words = (root / "proc/cmdline").read_text().split()
    argument = dict(word.split("=", 1) for word in words if "=" in word)
    if ARGUMENT_NETBOOT not in argument or ARGUMENT_FRAME not in argument:
        raise UpdateError("only a system that came over the network can be installed: inv netboot")
    name = Path(disk).name
    if (root / "sys/class/block" / name / "partition").exists():
        raise UpdateError(f"{disk} is a partition; give the whole disk")
    if not Path(disk).exists():
        disks = sorted(path.name for path in (root / "sys/block").iterdir())
        real = [other for other in disks if not other.startswith(("loop", "ram", "zram"))]
        raise UpdateError(f"there is no {disk}; there are: {', '.join(real) or 'no disks'}")
    base = argument[ARGUMENT_NETBOOT].rpartition("/")[0]
    answer = open_source(base).get(FRAME_FILE, FRAME_SIZE_MAX)
    assert answer is not None, "without an etag there is always an answer"
    frame = read_frame(answer[0], argument[ARGUMENT_FRAME])
    sectors = root / "sys/class/block" / name / "queue/logical_block_size"
    if sectors.exists() and int(sectors.read_text()) != SECTOR:
        raise UpdateError(
            f"{disk} has sectors of {sectors.read_text().strip()} bytes; a system can be installed "
            f"to disks with sectors of {SECTOR} bytes only"
        )
    with Disk(Path(disk), exclusive=True) as target:
        if target.size < frame.size:
            raise UpdateError(
                f"{disk} has {target.size // MIB} MiB; the system takes {frame.size // MIB}"
            )
        if again != disk and any(target.read(0, MIB)):
            raise UpdateError(f"{disk} holds data, which is lost: belay install {disk} {disk}")
        _write(target, frame, root / SLOT, argument[ARGUMENT_SHA256], say)
        return target.size


def _write(target: Disk, frame: Frame, slot: Path, sha256: str, say: Callable[[str], None]) -> None:
    target.write(0, bytes(MIB))
    # The second table of before lies at the very end, wherever that is.
    end = target.size // SECTOR * SECTOR
    target.write(end - ENDS, bytes(ENDS), SECTOR)
    target.flush()
    size = slot.stat().st_size
    for name, offset in zip("ab", frame.slots, strict=True):
        say(f"writing slot {name}")
        with slot.open("rb") as file:
            _copy(target, offset, file, size)
    first, second, second_at = with_own_guids(frame.content.read(MIB))
    rest = _copy(target, MIB, frame.content, frame.head - MIB)
    tail_size = frame.size - frame.tail_at
    tail = _copy(target, frame.tail_at, frame.content, tail_size)
    target.flush()
    say("reading it back")
    for offset in frame.slots:
        _compare(target, offset, size, sha256)
    _compare(target, MIB, frame.head - MIB, rest)
    _compare(target, frame.tail_at, tail_size, tail)
    target.write(second_at, second, SECTOR)
    target.write(0, first)
    target.flush()
    _compare(target, 0, MIB, hashlib.sha256(first).hexdigest())


def _copy(target: Disk, offset: int, source: io.BufferedIOBase, size: int) -> str:
    """Write the next `size` bytes of `source` to `offset`; their SHA-256."""
    digest = hashlib.sha256()
    for at in range(0, size, MIB):
        data = source.read(min(MIB, size - at))
        target.write(offset + at, data)
        digest.update(data)
    return digest.hexdigest()


def _compare(target: Disk, offset: int, size: int, sha256: str) -> None:
    digest = hashlib.sha256()
    for at in range(0, size, MIB):
        digest.update(target.read(offset + at, min(MIB, size - at)))
    if digest.hexdigest() != sha256:
        raise UpdateError(f"{target.path} has other bytes at {offset} than were written: it fails")
