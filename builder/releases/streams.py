"""Finds the compressed parts of a slot that nodes of an older release can pack themselves.

What is inside of such a stream (updater/streams.py) is predicted like the rest of a slot. It counts
only if the older release's own programs were seen to pack it to the very same bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from builder.alpine.initramfs import cpio_begins, cpio_entries
from builder.core.parallel import workers
from builder.disk.squashfs import Extent
from builder.releases.ranges import Range, Region, digest, in_slot, regions, shared
from updater.formats import CHUNK, Piece
from updater.streams import GZIP, REACH, Read

KERNEL, INITRAMFS = "boot/vmlinuz", "boot/initramfs"
STEP = 1 << 20  # bytes inside of a stream that are a piece

# The older release's bytes of a packer's name and what is packed; nothing if it has no such packer.
PackAgain = Callable[[str, bytes], bytes]


@dataclass(frozen=True)
class Found:
    """A stream: `size` bytes at `at` of the new slot, which hold `content`, packed by `packer`.

    `ranges` of the content are nearly those of what nodes have, and `read`. `source` is where the
    old slot has the same stream, if that is what they look at.
    """

    name: str
    at: int
    size: int
    packer: str
    content: bytes
    ranges: Sequence[Range]
    read: Read
    source: tuple[Piece, ...] = ()


def streams(old: memoryview, new: memoryview, pack_again: PackAgain) -> list[Found]:
    """The streams of a slot; none of a file that the old slot has as it is."""
    before = {region.name: region for region in regions(old)}
    after = {region.name: region for region in regions(new)}
    found = []
    for name, find in ((INITRAMFS, _initramfs), (KERNEL, _kernel)):
        one, other = before.get(name), after.get(name)
        if not one or not other or len(one.extents) != 1 or len(other.extents) != 1:
            continue
        if digest(one, old) == digest(other, new):
            continue
        if stream := find(one, other, old, new):
            packed = pack_again(stream.packer, stream.content)
            if packed == bytes(new[stream.at : stream.at + stream.size]):
                found.append(stream)
    return found


def _initramfs(_old: Region, other: Region, old: memoryview, new: memoryview) -> Found | None:
    """The last cpio of the initramfs: most of its files are in the root or modloop part too."""
    (at, size), data = other.extents[0], other.content(new)
    assert at is not None
    *_, begin = cpio_begins(data)
    content = zlib.decompress(data[begin:], GZIP)
    # What the new slot has in chunks with streams only is not written yet when it is needed.
    ends = [(offset or 0) + length for extents in _extents(new) for offset, length in extents]
    free = -(-max(ends) // CHUNK) * CHUNK
    known: dict[str, tuple[Region, int]] = {}
    for image, base, first in ((new, len(old), free), (old, 0, 0)):  # rather of the old one
        for region in regions(image):
            if all(offset is not None and offset >= first for offset, _ in region.extents):
                known[digest(region, image)] = region, base
    ranges: list[Range] = []
    whole = Region("", (Extent(0, len(content)),))
    for entry in cpio_entries(bytearray(content)):
        name = hashlib.sha256(content[entry.data_at : entry.data_at + entry.size]).hexdigest()
        if entry.size and name in known:
            region, base = known[name]
            for item in in_slot(region, whole, [Range(entry.data_at, 0, entry.size)]):
                ranges.append(item._replace(old=item.old + base))

    def read(offset: int, length: int) -> bytes:
        image, begin = (old, offset) if offset < len(old) else (new, offset - len(old))
        return bytes(image[begin : begin + length])

    return Found(INITRAMFS, at + begin, size - begin, "zlib-4", content, ranges, read)


def _extents(image: memoryview) -> list[tuple[Extent, ...]]:
    """Those of the files that have streams."""
    return [region.extents for region in regions(image) if region.name in (KERNEL, INITRAMFS)]


def _kernel(one: Region, other: Region, old: memoryview, new: memoryview) -> Found | None:
    """The payload of a bzImage, https://docs.kernel.org/arch/x86/boot.html, or of an EFI zboot.

    That is the other architectures' way: drivers/firmware/efi/libstub/zboot-header.S of Linux.
    """
    at, source = other.extents[0].offset, one.extents[0].offset
    assert at is not None and source is not None
    before, after = payload(one.content(old)), payload(other.content(new))
    if not before or not after:
        return None
    (begin, size, content), (old_begin, old_size, known) = after, before

    def nearby(here: int) -> list[Range]:
        piece = content[here : here + STEP]
        low, high = max(0, here - REACH), min(len(known), here + len(piece) + REACH)
        found = shared(known[low:high], piece)
        return [Range(here + item.new, low + item.old, item.size) for item in found]

    with workers() as pool:
        parts = pool.map(nearby, range(0, len(content), STEP))
        ranges = [item for part in parts for item in part]

    def read(offset: int, length: int) -> bytes:
        return known[offset : offset + length]

    where = (Piece(source + old_begin, old_size),)
    return Found(KERNEL, at + begin, size, "gzip-9", content, ranges, read, where)


def payload(kernel: bytes) -> tuple[int, int, bytes] | None:
    """Where the gzip stream of a kernel is, how long it is, and what is in it."""
    if kernel[0x202:0x206] == b"HdrS":
        begin, size = struct.unpack_from("<II", kernel, 0x248)
        begin += ((kernel[0x1F1] or 4) + 1) * 512
    elif kernel[4:8] == b"zimg" and kernel[24:29] == b"gzip\0":
        begin, size = struct.unpack_from("<II", kernel, 8)
    else:
        return None
    engine = zlib.decompressobj(GZIP)
    try:
        content = engine.decompress(kernel[begin : begin + size])
    except zlib.error:
        return None
    return (begin, size - len(engine.unused_data), content) if engine.eof else None
