"""Reads an ext4 file system, as far as the sample needs it: extents, no encryption, no inline data.

Format: https://docs.kernel.org/filesystems/ext4/
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Read = Callable[[int, int], bytes]  # offset, size -> bytes

_MAGIC = 0xEF53
_ROOT_INODE = 2
_EXTENT_MAGIC = 0xF30A
_UNINITIALISED = 0x8000  # an extent this long or longer holds no data yet


@dataclass(frozen=True)
class Inode:
    """What is known of a file: `mode` as in os.stat, `size` in bytes."""

    mode: int
    uid: int
    gid: int
    size: int
    blocks: bytes  # the 60 bytes that say where its data lies

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


class Ext4:
    """A file system in `read`. Raises ValueError where it is none."""

    def __init__(self, read: Read) -> None:
        self._read = read
        block = read(1024, 1024)
        if struct.unpack_from("<H", block, 56)[0] != _MAGIC:
            raise ValueError("there is no ext4 file system")
        self.block_size = 1024 << struct.unpack_from("<I", block, 24)[0]
        self._inodes_per_group = struct.unpack_from("<I", block, 40)[0]
        self._inode_size = struct.unpack_from("<H", block, 88)[0]
        self._descriptor_size = struct.unpack_from("<H", block, 254)[0] or 32
        first_block = struct.unpack_from("<I", block, 20)[0]
        self._descriptors = (first_block + 1) * self.block_size

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """Every file below the root, as `etc/passwd`, folders before what is in them."""
        yield from self._walk("", self._inode(_ROOT_INODE))

    def _walk(self, prefix: str, folder: Inode) -> Iterator[tuple[str, Inode]]:
        for name, number in sorted(self._entries(folder)):
            inode = self._inode(number)
            yield prefix + name, inode
            if inode.is_dir:
                yield from self._walk(f"{prefix}{name}/", inode)

    def content(self, inode: Inode) -> bytes:
        """The bytes of a file, or the target of a symlink."""
        if inode.is_link and inode.size < len(inode.blocks):
            return inode.blocks[: inode.size]
        data = bytearray(inode.size)
        for logical, physical, count in self._extents(inode.blocks):
            start = logical * self.block_size
            part = self._read(physical * self.block_size, count * self.block_size)
            end = min(start + len(part), inode.size)
            data[start:end] = part[: end - start]
        return bytes(data)

    def _inode(self, number: int) -> Inode:
        group, index = divmod(number - 1, self._inodes_per_group)
        descriptor = self._read(self._descriptors + group * self._descriptor_size, 64)
        table = struct.unpack_from("<I", descriptor, 8)[0]
        if self._descriptor_size >= 64:
            table |= struct.unpack_from("<I", descriptor, 40)[0] << 32
        raw = self._read(table * self.block_size + index * self._inode_size, 128)
        mode, uid_low, size_low = struct.unpack_from("<HHI", raw, 0)
        gid_low = struct.unpack_from("<H", raw, 24)[0]
        size_high = struct.unpack_from("<I", raw, 108)[0]
        uid_high, gid_high = struct.unpack_from("<HH", raw, 120)
        return Inode(
            mode,
            uid_high << 16 | uid_low,
            gid_high << 16 | gid_low,
            size_high << 32 | size_low,
            raw[40:100],
        )

    def _extents(self, node: bytes) -> Iterator[tuple[int, int, int]]:
        """(first block in the file, first block on the disk, number of blocks)."""
        magic, entries, _, depth = struct.unpack_from("<HHHH", node, 0)
        if magic != _EXTENT_MAGIC:
            raise ValueError("a file without extents")
        for at in range(12, 12 + 12 * entries, 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", node, at)
                yield from self._extents(
                    self._read((high << 32 | low) * self.block_size, self.block_size)
                )
            else:
                logical, count, high, low = struct.unpack_from("<IHHI", node, at)
                if count < _UNINITIALISED or count == _UNINITIALISED:
                    yield logical, high << 32 | low, count

    def _entries(self, folder: Inode) -> Iterator[tuple[str, int]]:
        data = self.content(folder)
        at = 0
        while at < len(data):
            number, length, name_length = struct.unpack_from("<IHB", data, at)
            name = data[at + 8 : at + 8 + name_length].decode(errors="surrogateescape")
            if number and name not in (".", "..", "lost+found"):
                yield name, number
            at += length
