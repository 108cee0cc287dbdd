"""Reads a qcow2 disk image, as far as the sample needs it: no backing file, no encryption.

Format: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from pathlib import Path

MAGIC = b"QFI\xfb"
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZEROES = 1


class Qcow2:
    """The guest's disk as a file that can be read at any place. Raises ValueError where unfit."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        header = self._file.read(48)
        magic, version, backing, _, self._cluster_bits, self.size, crypt, l1_size, l1_offset = (
            struct.unpack(">4sIQIIQIIQ", header)
        )
        if magic != MAGIC or version not in (2, 3) or backing or crypt:
            raise ValueError(f"{path}: is no qcow2 image of the simple kind")
        self._l1 = struct.unpack(f">{l1_size}Q", self._at(l1_offset, 8 * l1_size))
        self.cluster_size = 1 << self._cluster_bits
        self._cluster = lru_cache(maxsize=64)(self._read_cluster)
        self._table = lru_cache(maxsize=64)(self._read_table)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes of the disk from `offset` on."""
        parts = []
        while size > 0:
            number, skip = divmod(offset, self.cluster_size)
            part = self._cluster(number)[skip : skip + size]
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _read_table(self, entry: int) -> tuple[int, ...]:
        data = self._at(entry & _OFFSET_MASK, self.cluster_size)
        return struct.unpack(f">{self.cluster_size // 8}Q", data)

    def _read_cluster(self, number: int) -> bytes:
        l1_index, l2_index = divmod(number, self.cluster_size // 8)
        entry = self._l1[l1_index] and self._table(self._l1[l1_index])[l2_index]
        if not entry or (entry & _ZEROES and not entry & _COMPRESSED):
            return bytes(self.cluster_size)
        if not entry & _COMPRESSED:
            return self._at(entry & _OFFSET_MASK, self.cluster_size)
        # A compressed cluster says where it begins, and in how many 512-byte sectors it ends.
        bits = 62 - (self._cluster_bits - 8)
        offset = entry & ((1 << bits) - 1)
        sectors = (entry & (_COMPRESSED - 1)) >> bits
        packed = self._at(offset, (sectors + 1) * 512 - offset % 512)
        return zlib.decompressobj(wbits=-12).decompress(packed, self.cluster_size)
