"""Where the bytes of each file lie in a squashfs that is not compressed.

Format: https://dr-emann.github.io/squashfs/squashfs.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_DIRECTORIES, _FILES = (1, 8), (2, 9)  # types of inodes: basic, extended
_NO_FRAGMENT = 0xFFFFFFFF
_NO_TABLE = (1 << 64) - 1
_PLAIN = 1 << 15  # of the head of a metadata block: it is not compressed
_PLAIN_DATA = 1 << 24  # the same of a data block's size
_EMPTY_DIRECTORY = 3  # the size of a directory is that much larger than its list
_FRAGMENTS_PER_BLOCK = 512


class Extent(NamedTuple):
    """Neighbouring bytes of a file: `offset` is where they lie; None is a hole, all zeros."""

    offset: int | None
    size: int


@dataclass(frozen=True)
class File:
    """A regular file: its path, without a slash at the begin, and where its bytes are."""

    path: str
    extents: tuple[Extent, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(extent.size for extent in self.extents)


@dataclass(frozen=True)
class _Superblock:
    block_size: int
    fragments: int
    root: int
    used: int
    inodes_at: int
    directories_at: int
    fragments_at: int


class Squashfs:
    """The file system that begins at `base` of `data`. Raises ValueError where it is none."""

    def __init__(self, data: memoryview, base: int = 0) -> None:
        self._data, self.base = data, base
        magic, _, _, block_size, fragments, _, _, _, _, _, _, root, used = struct.unpack_from(
            "<4sIIIIHHHHHHQQ", data, base
        )
        inodes_at, directories_at, fragments_at = struct.unpack_from("<3Q", data, base + 64)
        if magic != b"hsqs":
            raise ValueError(f"there is no squashfs at byte {base}")
        self._super = _Superblock(
            block_size, fragments, root, used, inodes_at, directories_at, fragments_at
        )

    @property
    def tables(self) -> Extent:
        """What lies behind the data of the files: inodes, directories, fragments, owners."""
        begin, end = self._super.inodes_at, self._super.used
        return Extent(self.base + begin, end - begin)

    def files(self) -> Iterator[File]:
        """All regular files, by their names; those of several names once for each."""
        self._fragments = self._read_fragments()
        yield from self._walk(self._super.root, "")

    def _walk(self, inode: int, path: str) -> Iterator[File]:
        table, block, offset = self._super.inodes_at, inode >> 16, inode & 0xFFFF
        (kind,) = struct.unpack("<H", self._metadata(table, block, offset, 2))
        if kind in _FILES:
            yield File(path.lstrip("/"), tuple(self._extents(block, offset, kind)))
        if kind not in _DIRECTORIES:
            return
        if kind == _DIRECTORIES[0]:
            head = self._metadata(table, block, offset, 32)
            start, _, size, begin, _ = struct.unpack_from("<IIHHI", head, 16)
        else:
            head = self._metadata(table, block, offset, 40)
            _, size, start, _, _, begin, _ = struct.unpack_from("<IIIIHHI", head, 16)
        if size <= _EMPTY_DIRECTORY:
            return
        listed = self._metadata(self._super.directories_at, start, begin, size - _EMPTY_DIRECTORY)
        at = 0
        while at < len(listed):
            count, inodes, _ = struct.unpack_from("<III", listed, at)
            at += 12
            for _ in range(count + 1):
                place, _, _, length = struct.unpack_from("<HhHH", listed, at)
                name = listed[at + 8 : at + 9 + length].decode(errors="surrogateescape")
                at += 9 + length
                yield from self._walk(inodes << 16 | place, f"{path}/{name}")

    def _extents(self, block: int, offset: int, kind: int) -> Iterator[Extent]:
        """The extents of a file, neighbours joined."""
        table = self._super.inodes_at
        if kind == _FILES[0]:
            head = self._metadata(table, block, offset, 32)
            at, fragment, begin, size = struct.unpack_from("<IIII", head, 16)
        else:
            head = self._metadata(table, block, offset, 56)
            at, size, _, _, fragment, begin, _ = struct.unpack_from("<QQQIIII", head, 16)
        whole, rest = divmod(size, self._super.block_size)
        if fragment == _NO_FRAGMENT and rest:
            whole, rest = whole + 1, 0
        sizes = self._metadata(table, block, offset, len(head) + 4 * whole)[len(head) :]
        left, last = size, Extent(None, 0)
        for (packed,) in struct.iter_unpack("<I", sizes):
            if packed and not packed & _PLAIN_DATA:
                raise ValueError("a block of the squashfs is compressed")
            here = Extent(self.base + at if packed else None, min(left, self._super.block_size))
            at += packed & ~_PLAIN_DATA
            left -= here.size
            joined = _joined(last, here)
            if joined is None:
                yield last
            last = joined or here
        if last.size:
            yield last
        if rest:
            yield Extent(self.base + self._fragments[fragment] + begin, rest)

    def _read_fragments(self) -> list[int]:
        """Where each block of fragments begins."""
        found: list[int] = []
        count = self._super.fragments if self._super.fragments_at != _NO_TABLE else 0
        for first in range(0, count, _FRAGMENTS_PER_BLOCK):
            at = self.base + self._super.fragments_at + first // _FRAGMENTS_PER_BLOCK * 8
            (block,) = struct.unpack_from("<Q", self._data, at)
            entries = self._metadata(block, 0, 0, 16 * min(count - first, _FRAGMENTS_PER_BLOCK))
            found += [start for start, _, _ in struct.iter_unpack("<QII", entries)]
        return found

    def _metadata(self, table: int, block: int, offset: int, size: int) -> bytes:
        """`size` bytes of a table, from `offset` of the unpacked block that begins at `block`."""
        found, at = b"", self.base + table + block
        while len(found) < offset + size:
            (head,) = struct.unpack_from("<H", self._data, at)
            if not head & _PLAIN:
                raise ValueError("the tables of the squashfs are compressed")
            length = head & (_PLAIN - 1)
            found += bytes(self._data[at + 2 : at + 2 + length])
            at += 2 + length
        return found[offset : offset + size]


def _joined(one: Extent, other: Extent) -> Extent | None:
    """Both as one extent, where the second goes on where the first ends."""
    if not one.size:
        return other
    after = None if one.offset is None else one.offset + one.size
    return Extent(one.offset, one.size + other.size) if after == other.offset else None
