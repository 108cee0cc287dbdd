"""Writes both slots, and what boots them, to a disk: from a system that came over the network.

The *frame* is the disk image without its slots: `frame.gz` beside the slot image, whose hash is on
the kernel's command line as that of the slot image is. Unpacked it is a line of JSON, then the
bytes before the slots, then those behind them.

The order is what makes it safe: the disk can't be booted before all is on it. The partition tables
of before go first; the first MiB, with the new one, comes last. That has GUIDs of its own: disks
with the same system can be in one machine.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from updater.disk import Disk
from updater.errors import Refused, UpdateError
from updater.source import open_source
from updater.table import SECTOR, with_own_guids

SLOT = ".slot/slot.img"
FRAME_SIZE_MAX = 256 << 20
MIB = 1 << 20
ENDS = 64 << 10  # bytes at the end of a disk, with all of a second table


@dataclass(frozen=True)
class Frame:
    """`slots` and `tail_at` are bytes from the disk's begin; `size` is the least it must have.

    `head` bytes lie before the slots; `content` has them, and then those behind the slots. It is
    read once: unpacked it is larger than some machines' memory.
    """

    slots: tuple[int, ...]
    head: int
    tail_at: int
    size: int
    content: io.BufferedIOBase


def read_frame(packed: bytes, sha256: str) -> Frame:
    """Check a frame and read what it says. Raises Refused."""
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise Refused("the frame of the disk is not the one that the command line names")
    content = gzip.GzipFile(fileobj=io.BytesIO(packed))
    values = json.loads(content.readline())
    return Frame(tuple(values["slots"]), values["head"], values["tail_at"], values["size"], content)


def install(root: Path, disk: str, again: str, say: Callable[[str], None]) -> int:
    """Install this system to `disk`; its size in bytes.

    Raises UpdateError where it is too small, in use, or holds data and isn't named `again`.
    """
    words = (root / "proc/cmdline").read_text().split()
    argument = dict(word.split("=", 1) for word in words if "=" in word)
    if "belay.netboot" not in argument or "belay.frame" not in argument:
        raise UpdateError("only a system that came over the network can be installed: inv netboot")
    name = Path(disk).name
    if (root / "sys/class/block" / name / "partition").exists():
        raise UpdateError(f"{disk} is a partition; give the whole disk")
    if not Path(disk).exists():
        disks = sorted(path.name for path in (root / "sys/block").iterdir())
        real = [other for other in disks if not other.startswith(("loop", "ram", "zram"))]
        raise UpdateError(f"there is no {disk}; there are: {', '.join(real) or 'no disks'}")
    base = argument["belay.netboot"].rpartition("/")[0]
    answer = open_source(base).get("frame.gz", FRAME_SIZE_MAX)
    assert answer is not None, "without an etag there is always an answer"
    frame = read_frame(answer[0], argument["belay.frame"])
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
        _write(target, frame, root / SLOT, argument["belay.sha256"], say)
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
