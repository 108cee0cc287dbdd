"""A slot image: three squashfs one after the other, the bytes of one slot partition.

    boot       kernel and initramfs; GRUB reads it at the start of the partition
    root       the root file system
    modloop    kernel modules and firmware

Each begins on a 4096-byte border and says its own length, so the next is found without a table; the
initramfs does the same in shell (initramfs/init).

Format: https://dr-emann.github.io/squashfs/squashfs.html
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

PARTS = ("boot", "root", "modloop")
ALIGNMENT = 4096
MAGIC = b"hsqs"
_SUPERBLOCK = 96
_BYTES_USED_AT = 40

Read = Callable[[int, int], bytes]  # offset, size -> bytes


@dataclass(frozen=True)
class Part:
    """Where a part lies in its slot, in bytes; `size` includes the padding up to the next."""

    name: str
    offset: int
    size: int


def parts(read: Read) -> list[Part]:
    """The parts of a slot. Raises ValueError where one is missing."""
    found = []
    offset = 0
    for name in PARTS:
        superblock = read(offset, _SUPERBLOCK)
        if superblock[:4] != MAGIC:
            raise ValueError(f"there is no {name} part at byte {offset}")
        (used,) = struct.unpack_from("<Q", superblock, _BYTES_USED_AT)
        size = -(-used // ALIGNMENT) * ALIGNMENT
        found.append(Part(name, offset, size))
        offset += size
    return found
