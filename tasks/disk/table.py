"""Reads the partition table of a disk image.

Format: UEFI specification 2.10, section 5.3 (GUID partition table).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

from tasks.disk.layout import SECTOR

_SIGNATURE = b"EFI PART"
_TABLE = struct.Struct("<72x Q I I")  # first sector of the entries, their number, size of one
_ENTRY = struct.Struct("<16s 16x Q Q 8x 72s")  # type, first and last sector, name (UTF-16)


@dataclass(frozen=True)
class Place:
    """Where a partition lies, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size


def read_table(disk: IO[bytes]) -> dict[str, Place]:
    """The partitions of a disk by name. Raises ValueError where there is no table."""
    disk.seek(SECTOR)
    header = disk.read(SECTOR)
    if not header.startswith(_SIGNATURE):
        raise ValueError(f"{disk.name}: there is no GUID partition table")
    first_entry, count, size = _TABLE.unpack_from(header)
    disk.seek(first_entry * SECTOR)
    entries = disk.read(count * size)
    table = {}
    for at in range(0, len(entries), size):
        kind, first, last, name = _ENTRY.unpack_from(entries, at)
        if any(kind):
            text = name[::2].decode("ascii", "replace").rstrip("\0")
            table[text] = Place(first * SECTOR, (last + 1 - first) * SECTOR)
    return table
