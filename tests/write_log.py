"""Reads the log of all writes that qemu's blklogwrites keeps of a disk.

Format: "Documentation/admin-guide/device-mapper/log-writes.rst" of Linux: one sector that says how
many entries follow; of each entry one sector, then its data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.disk.table import Place

MAGIC = 0x6A736677736872
DISCARD = 4
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Write:
    """`data` was written at byte `offset`; a flush alone has no data."""

    offset: int
    data: bytes

    def touches(self, partition: Place) -> bool:
        """Whether something of a partition was written."""
        return self.offset < partition.end and self.offset + len(self.data) > partition.offset


def writes(log: Path) -> Iterator[Write]:
    """All writes in their order."""
    with log.open("rb") as file:
        magic, _, count, sector = _SUPER.unpack(file.read(_SUPER.size))
        assert magic == MAGIC, "this is no log of writes"
        file.seek(sector)
        for _ in range(count):
            at, sectors, flags, _ = _ENTRY.unpack(file.read(sector)[: _ENTRY.size])
            data = b"" if flags & DISCARD else file.read(sectors * sector)
            yield Write(at * sector, data)
