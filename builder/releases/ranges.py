"""Which bytes of a new slot an old slot has, or nearly: ranges that predict it.

Files are paired by path, whatever their kernel's version, else by content, else by name; where two
differ, bsdiff finds what they share.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import bsdiff4.core

from builder.core.cache import mark_used
from builder.core.files import write_atomically
from builder.core.paths import CACHE
from builder.disk.squashfs import Extent, Squashfs
from updater import slot

CACHED = CACHE / "deltas"
WINDOW = 4 << 20  # a larger file is compared piece by piece, each with what lies around its place
_KERNEL = re.compile(r"(^|/)\d+\.\d+\.\d+-[^/]+(?=/)")
_TRIPLE = struct.Struct("<3q")
_RUN = re.compile(rb"(.{24})\1{42,}", re.DOTALL)  # 1 KiB or more of up to 24 bytes


class Range(NamedTuple):
    """`size` bytes at `new` are nearly those at `old`."""

    new: int
    old: int
    size: int

    def without(self, count: int) -> Range:
        """What is left of it behind its first `count` bytes."""
        count = max(0, count)
        return Range(self.new + count, self.old + count, self.size - count)


@dataclass(frozen=True)
class Region:
    """Bytes of a slot that belong together: a file, or tables of a part."""

    name: str
    extents: tuple[Extent, ...]

    def content(self, image: memoryview) -> bytes:
        """Its bytes."""
        return b"".join(
            bytes(size) if offset is None else bytes(image[offset : offset + size])
            for offset, size in self.extents
        )

    def located(self, at: int, size: int) -> Iterator[tuple[int | None, int]]:
        """Where `size` of its bytes from `at` are in the slot, extent by extent."""
        begin = 0
        for offset, length in self.extents:
            low, high = max(at, begin), min(at + size, begin + length)
            if low < high:
                yield None if offset is None else offset + low - begin, high - low
            begin += length


def regions(image: memoryview) -> list[Region]:
    """The regions of a slot image, in the order of their bytes."""
    found = []
    for part in slot.parts(lambda offset, size: bytes(image[offset : offset + size])):
        squashfs = Squashfs(image, part.offset)
        tables = squashfs.tables
        end = part.offset + part.size
        found.append(Region(f"{part.name}: superblock", (Extent(part.offset, 96),)))
        assert tables.offset is not None
        found.append(Region(f"{part.name}: tables", (Extent(tables.offset, end - tables.offset),)))
        found += [
            Region(f"{part.name}/{file.path}", file.extents)
            for file in squashfs.files()
            if file.extents
        ]
    once = {region.extents: region for region in reversed(found)}  # of several names the first
    return sorted(once.values(), key=lambda region: _begin(region.extents))


def _begin(extents: Sequence[Extent]) -> int:
    return next((extent.offset for extent in extents if extent.offset is not None), 0)


def pairs(
    old: memoryview, new: memoryview, left_out: Iterable[str] = ()
) -> list[tuple[Region, Region, bool]]:
    """New regions with the old one that each resembles, and whether they are equal.

    Those named in `left_out` are compared by content alone: what is compressed resembles nothing.
    """
    before = [(region, digest(region, old)) for region in regions(old)]
    by_content = {digest: region for region, digest in reversed(before)}
    by_path = {_plain(region.name): region for region, _ in reversed(before)}
    by_name = {region.name.rpartition("/")[2]: region for region, _ in reversed(before)}
    found = []
    for region in regions(new):
        if same := by_content.get(digest(region, new)):
            found.append((same, region, True))
            continue
        if region.name in left_out:
            continue
        like = by_path.get(_plain(region.name)) or by_name.get(region.name.rpartition("/")[2])
        if like:
            found.append((like, region, False))
    return found


def _plain(name: str) -> str:
    return _KERNEL.sub(r"\1KERNEL", name)


def digest(region: Region, image: memoryview) -> str:
    """The SHA-256 of its content."""
    return hashlib.sha256(region.content(image)).hexdigest()


def shared(old: bytes, new: bytes) -> list[Range]:
    """Which ranges of `new` are nearly some of `old`, by bsdiff; kept in the cache."""
    name = "-".join(hashlib.sha256(data).hexdigest()[:32] for data in (old, new))
    cached = CACHED / f"{name}.ranges-2"
    if cached.exists() and (kept := _kept(cached, len(old), len(new))) is not None:
        mark_used(cached)
        return kept
    ranges: list[Range] = []
    for at in range(0, len(new), WINDOW):
        low, high = max(0, at - WINDOW // 4), min(len(old), at + WINDOW + WINDOW // 4)
        if len(new) <= 2 * WINDOW:
            low, high = 0, len(old)
        end = len(new) if len(new) <= 2 * WINDOW else at + WINDOW
        ranges += (
            Range(at + one.new, low + one.old, one.size)
            for one in _compared(old[low:high], new[at:end])
        )
        if end >= len(new):
            break
    write_atomically(cached, b"".join(_TRIPLE.pack(*found) for found in ranges))
    return ranges


def _kept(cached: Path, old: int, new: int) -> list[Range] | None:
    """What the cache has; None where that is damaged."""
    data = cached.read_bytes()
    if len(data) % _TRIPLE.size:
        return None
    found = [Range(*numbers) for numbers in _TRIPLE.iter_unpack(data)]
    sound = all(
        item.size > 0 <= item.new <= new - item.size and 0 <= item.old <= old - item.size
        for item in found
    )
    return found if sound else None


def _compared(old: bytes, new: bytes) -> Iterator[Range]:
    """Ranges without what says little: bsdiff takes ages for zeros, and LZMA packs them anyway."""
    before, after = _telling(old), _telling(new)
    dense_old, dense_new = (
        b"".join(data[at : at + size] for _, at, size in segments)
        for data, segments in ((old, before), (new, after))
    )
    for new_at, old_at, size in _by_bsdiff(dense_old, dense_new):
        done = 0
        for place, length in _located(after, new_at, size):
            here = place
            for there, count in _located(before, old_at + done, length):
                yield Range(here, there, count)
                here += count
            done += length


Segment = tuple[int, int, int]  # where it begins among what tells something, where it is, its size


def _telling(data: bytes) -> list[Segment]:
    """What is no run of a few bytes again and again."""
    found, at, dense = [], 0, 0
    for begin, end in [*(run.span() for run in _RUN.finditer(data)), (len(data), len(data))]:
        if begin > at:
            found.append((dense, at, begin - at))
            dense += begin - at
        at = end
    return found


def _located(segments: Sequence[Segment], at: int, size: int) -> Iterator[tuple[int, int]]:
    """Where `size` bytes from `at` on really are, segment by segment."""
    number = bisect.bisect_right(segments, (at, sys.maxsize, 0)) - 1
    while size > 0:
        begin, place, length = segments[number]
        count = min(size, begin + length - at)
        yield place + at - begin, count
        at, size, number = at + count, size - count, number + 1


def _by_bsdiff(old: bytes, new: bytes) -> Iterator[Range]:
    """Of bsdiff's control data the ranges; source: https://www.daemonology.net/bsdiff/."""
    if not old or not new:
        return
    control, _, _ = bsdiff4.core.diff(old, new)
    here = there = 0
    numbers = [_signed(number) for (number,) in struct.iter_unpack("<Q", control)]
    for size, extra, seek in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        if size:
            yield Range(here, there, size)
        here += size + extra
        there += size + seek


def _signed(number: int) -> int:
    """Bsdiff's numbers have their sign in the highest bit."""
    return -(number & (1 << 63) - 1) if number >> 63 else number


def in_slot(old: Region, new: Region, ranges: Iterable[Range]) -> Iterator[Range]:
    """Ranges of a region as ranges of the slot: cut where either side's extents end."""
    for here, there, size in ranges:
        at = 0
        for offset, length in new.located(here, size):
            if offset is not None:
                done = 0
                for source, count in old.located(there + at, length):
                    if source is not None:
                        yield Range(offset + done, source, count)
                    done += count
            at += length


def ordered(ranges: Iterable[Range]) -> list[Range]:
    """By where they are in the new slot, without overlaps, neighbours joined."""
    found: list[Range] = []
    end = 0
    for item in sorted(ranges):
        here = item.without(end - item.new)
        if here.size <= 0:
            continue
        last = found[-1] if found else None
        if last and (last.new + last.size, last.old + last.size) == here[:2]:
            found[-1] = last._replace(size=last.size + here.size)
        else:
            found.append(here)
        end = here.new + here.size
    return found


def outside(ranges: Iterable[Range], begin: int, end: int) -> Iterator[Range]:
    """What of the ranges predicts nothing from `begin` to `end`."""
    for item in ranges:
        if before := max(0, min(item.size, begin - item.new)):
            yield item._replace(size=before)
        behind = item.without(end - item.new)
        if behind.size > 0:
            yield behind


def cut(ranges: Iterable[Range], size: int, step: int) -> list[list[Range]]:
    """The ranges of each `step` bytes of `size`; `new` counts from the begin of each."""
    found: list[list[Range]] = [[] for _ in range(-(-size // step))]
    for item in ranges:
        left = item
        while left.size:
            number, here = divmod(left.new, step)
            count = min(left.size, step - here)
            found[number].append(Range(here, left.old, count))
            left = left.without(count)
    return found
