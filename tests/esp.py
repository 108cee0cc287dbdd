"""A small FAT32 file system with EFI/BOOT/grubenv and its copy, as bytes."""

from __future__ import annotations

import struct

from updater.grubenv import BootState, render

SECTOR = 512
RESERVED, FATS, FAT_SECTORS = 32, 2, 2
ROOT, EFI, BOOT, GRUBENV, COPY = 2, 3, 4, 6, 8  # first clusters, of one sector each
SIZE = 128 * SECTOR
FAT_AT = RESERVED * SECTOR
GRUBENV_AT, COPY_AT = (
    (RESERVED + FATS * FAT_SECTORS + cluster - 2) * SECTOR for cluster in (GRUBENV, COPY)
)


def esp(state: BootState | None = None, *, copy: bool = True) -> bytes:
    """The file system; `BOOT` goes on in cluster 5, where grubenv is named.

    Images of versions before have no `copy` of it.
    """
    image = bytearray(b"\x55" * SIZE)
    head = bytearray(SECTOR)
    struct.pack_into("<HBHB", head, 11, SECTOR, 1, RESERVED, FATS)
    struct.pack_into("<IIHHI", head, 32, SIZE // SECTOR, FAT_SECTORS, 0, 0, ROOT)
    head[510:512] = b"\x55\xaa"
    image[:SECTOR] = head
    end = 0x0FFFFFFF
    fat = struct.pack("<10I", end, end, end, end, 5, end, 7, end, 9, end)
    fat = fat.ljust(FAT_SECTORS * SECTOR, b"\0")
    image[RESERVED * SECTOR : (RESERVED + FATS * FAT_SECTORS) * SECTOR] = fat * FATS

    def put(cluster: int, data: bytes) -> None:
        at = (RESERVED + FATS * FAT_SECTORS + cluster - 2) * SECTOR
        image[at : at + len(data)] = data

    put(ROOT, _entry(b"EFI", EFI).ljust(SECTOR, b"\0"))
    put(EFI, _entry(b"BOOT", BOOT).ljust(SECTOR, b"\0"))
    put(BOOT, b"".join(_entry(b"F%d" % number, 0) for number in range(SECTOR // 32)))
    names = _entry(b"GRUBENV", GRUBENV) + (_entry(b"GRUBENV2", COPY) if copy else b"")
    put(5, names.ljust(SECTOR, b"\0"))
    put(GRUBENV, render(state or BootState()))
    put(COPY, render(state or BootState()))
    return bytes(image)


def _entry(name: bytes, cluster: int) -> bytes:
    return struct.pack("<11sB8xH4xHI", name.ljust(11), 0x20, cluster >> 16, cluster & 0xFFFF, 1024)
