"""Gives a disk GUIDs of its own: images have the same ones wherever they are built.

Format: UEFI specification 2.10, section 5.3 (GUID partition table).
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable

from updater.errors import Refused

SECTOR = 512
ENTRIES_SECTORS = 32
_SIGNATURE = b"EFI PART"
# Size, own checksum, own sector, that of the other table; GUID of the disk; the entries' first
# sector, their number, the size of one, their checksum.
_HEADER = struct.Struct("<8x4xII4xQQ16x16sQIII")


def with_own_guids(
    begin: bytes, fresh: Callable[[], uuid.UUID] = uuid.uuid4
) -> tuple[bytes, bytes, int]:
    """The begin of a disk with other GUIDs; its second table, and the byte where that lies.

    `begin` has the first table. Raises Refused where it has none that is whole.
    """
    data = bytearray(begin)
    size, checksum, header_at, other_at, _, first, count, entry_size, entries_checksum = (
        _HEADER.unpack_from(data, SECTOR)
    )
    at, end = first * SECTOR, first * SECTOR + count * entry_size
    whole = (
        data[SECTOR : SECTOR + 8] == _SIGNATURE
        and 92 <= size <= SECTOR
        and end - at <= ENTRIES_SECTORS * SECTOR
        and end <= len(data)
        and _sum_of(data[SECTOR : SECTOR + size]) == checksum
        and zlib.crc32(data[at:end]) == entries_checksum
    )
    if not whole:
        raise Refused("the frame of the disk begins with no whole partition table")
    for entry in range(at, end, entry_size):
        if any(data[entry : entry + 16]):
            data[entry + 16 : entry + 32] = fresh().bytes_le
    entries = bytes(data[at:end])
    guid = fresh().bytes_le

    def header(own: int, other: int, entries_at: int) -> bytes:
        head = bytearray(data[SECTOR : 2 * SECTOR])
        struct.pack_into("<QQ", head, 24, own, other)
        head[56:72] = guid
        struct.pack_into("<Q", head, 72, entries_at)
        struct.pack_into("<I", head, 88, zlib.crc32(entries))
        struct.pack_into("<I", head, 16, _sum_of(head[:size]))
        return bytes(head)

    second_at = other_at - ENTRIES_SECTORS
    second = entries.ljust(ENTRIES_SECTORS * SECTOR, b"\0") + header(other_at, header_at, second_at)
    data[SECTOR : 2 * SECTOR] = header(header_at, other_at, first)
    return bytes(data), second, second_at * SECTOR


def _sum_of(header: bytes | bytearray) -> int:
    """A header's checksum, which counts as 0 itself."""
    return zlib.crc32(header[:16] + bytes(4) + header[20:])
