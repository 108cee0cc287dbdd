"""Reads the partition table of a disk image.

Format: UEFI specification 2.10, section 5.3 (GUID partition table).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import IO

from builder.disk.layout import SECTOR

_SIGNATURE = b"EFI PART"
# Size and checksum of the header; the entries' first sector, number, size of one, checksum.
_TABLE = struct.Struct("<12x I I 52x Q I I I")
_CHECKSUM = slice(16, 20)  # where the header's own lies, which counts as 0
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


def read_table(disk: IO[bytes], header_at: int = SECTOR) -> dict[str, Place]:
    """The partitions of a disk by name; `header_at` is the byte where a table's header lies.

    Raises ValueError where there is no whole table.
    """
    disk.seek(header_at)
    header = disk.read(SECTOR)
    if not header.startswith(_SIGNATURE):
        raise ValueError(f"{disk.name}: there is no GUID partition table")
    header_size, checksum, first_entry, count, size, entries_checksum = _TABLE.unpack_from(header)
    own = bytearray(header[:header_size])
    own[_CHECKSUM] = bytes(4)
    disk.seek(first_entry * SECTOR)
    entries = disk.read(count * size)
    if (zlib.crc32(own), zlib.crc32(entries)) != (checksum, entries_checksum):
        raise ValueError(f"{disk.name}: its GUID partition table is damaged")
    table = {}
    for at in range(0, len(entries), size):
        kind, first, last, name = _ENTRY.unpack_from(entries, at)
        if any(kind):
            text = name[::2].decode("ascii", "replace").rstrip("\0")
            table[text] = Place(first * SECTOR, (last + 1 - first) * SECTOR)
    return table
