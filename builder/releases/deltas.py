"""Makes deltas: for each chunk of a release a piece by which nodes of an older one make it.

A piece is a prediction and a residual (format and the node's side: updater/delta.py). Each is
applied by the node's own code before it counts.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
import os
import struct
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from builder.alpine.archive import Transferred
from builder.core.cache import mark_used
from builder.core.files import naming, write_atomically
from builder.core.progress import Progress
from builder.releases.chunks import unpack_xz
from builder.releases.ranges import (
    CACHED,
    Range,
    Region,
    cut,
    in_slot,
    ordered,
    pairs,
    regions,
    shared,
)
from builder.releases.store import Store
from updater import delta as node
from updater.formats import CHUNK, Blob, Delta, Manifest, Piece, SlotImage

PRESET = 6
SHOWN = 5  # of the files that cost most


@dataclass(frozen=True)
class Price:
    """What nodes of an older release fetch, in bytes; `files` are shares of it, largest first."""

    version: str
    size: int
    whole: int
    files: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        largest = ", ".join(f"{name} {_mb(size)}" for name, size in self.files[:SHOWN])
        return (
            f"from {self.version}: {_mb(self.size)} to fetch (whole: {_mb(self.whole)})"
            f"{'; largest: ' if largest else ''}{largest}"
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


@dataclass(frozen=True)
class Slots:
    """An old slot image and a new one, in memory; and which files the new one has."""

    old: memoryview
    new: memoryview
    known: Sequence[Region] = ()

    def chunk(self, number: int) -> memoryview:
        """A chunk of the new one."""
        return self.new[number * CHUNK : (number + 1) * CHUNK]


def make_delta(
    slots: Slots,
    before: Manifest,
    image: SlotImage,
    blobs: Path,
    transferred: Transferred | None = None,
) -> tuple[Delta, Price]:
    """Write the pieces that lead from one slot to the other to `blobs`, as one blob."""
    return encoded(slots, predicted(slots), before.version, image, blobs, transferred)


def encoded(
    slots: Slots,
    ranges: Sequence[Range],
    version: str,
    image: SlotImage,
    blobs: Path,
    transferred: Transferred | None = None,
) -> tuple[Delta, Price]:
    """The same where it is known which ranges of the old slot predict the new one."""
    parts = cut(ranges, len(slots.new), CHUNK)
    packed, weights = [], []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        pieces = pool.map(partial(_piece, slots), range(len(parts)), parts)
        for number, (piece, weight) in enumerate(pieces):
            # What comes out larger than the whole chunk is no help.
            packed.append(piece if len(piece) < image.chunks[number].size else b"")
            weights.append(weight)
            if transferred:
                transferred(min((number + 1) * CHUNK, len(slots.new)), len(slots.new))
    data = b"".join(packed) or b"\0"
    name = hashlib.sha256(data).hexdigest()
    with naming(blobs):
        write_atomically(blobs / name, data, 0o644)
    ends = itertools.accumulate(len(piece) for piece in packed)
    places = tuple(
        Piece(end - len(piece), len(piece)) for end, piece in zip(ends, packed, strict=True)
    )
    delta = Delta(version, len(slots.old), Blob(name, len(data)), places)
    return delta, _price(delta, image, weights)


def predicted(slots: Slots) -> list[Range]:
    """The ranges of the old slot that predict the new one."""
    found: list[Range] = []
    unlike: list[tuple[Region, Region]] = []
    for old, new, same in pairs(slots.old, slots.new, left_out=("boot/vmlinuz", "boot/initramfs")):
        if same:
            found += in_slot(old, new, [Range(0, 0, sum(size for _, size in new.extents))])
        else:
            unlike.append((old, new))

    def compare(pair: tuple[Region, Region]) -> list[Range]:
        old, new = pair
        return list(in_slot(old, new, shared(old.content(slots.old), new.content(slots.new))))

    # The largest first, so that no processor is left with one at the end.
    unlike.sort(key=lambda pair: -sum(size for _, size in pair[1].extents))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for ranges in pool.map(compare, unlike):
            found += ranges
    return ordered(found)


def _piece(slots: Slots, number: int, ranges: Sequence[Range]) -> tuple[bytes, Counter[str]]:
    """A chunk as a piece; and by file how many bytes of it are not as predicted."""
    at, data = number * CHUNK, bytes(slots.chunk(number))
    prediction = bytearray(len(data))
    for new, old, size in ranges:
        prediction[new : new + size] = slots.old[old : old + size]
    residual = subtracted(data, bytes(prediction))
    weight: Counter[str] = Counter()
    for region in slots.known:
        for offset, size in region.extents:
            if offset is not None and offset < at + len(data) and at < offset + size:
                low, high = max(offset - at, 0), min(offset + size - at, len(data))
                if odd := high - low - residual.count(0, low, high):
                    weight[region.name] += odd
    packed = pack(ranges, at, residual)
    made = node.made(
        packed, at, len(data), lambda offset, size: bytes(slots.old[offset : offset + size])
    )
    assert made == data, f"the node makes another chunk {number}"
    return packed, weight


def pack(ranges: Sequence[Range], at: int, residual: bytes) -> bytes:
    """A piece; see updater/delta.py. It is kept in the cache."""
    gaps, seeks, here, there = [], [], 0, at
    for new, old, size in ranges:
        gaps.append(new - here)
        seeks.append(old - there)
        here, there = new + size, old + size
    count = len(ranges)
    head = struct.pack(
        f"<I{count}I{count}I{count}q", count, *gaps, *(r.size for r in ranges), *seeks
    )
    raw = head + residual.rstrip(b"\0")
    cached = CACHED / f"{hashlib.sha256(raw).hexdigest()}.piece-{PRESET}"
    if cached.exists():
        mark_used(cached)
        return cached.read_bytes()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": PRESET, "dict_size": node.DICTIONARY}]
    packed = lzma.compress(raw, lzma.FORMAT_RAW, filters=filters)
    write_atomically(cached, packed)
    return packed


def subtracted(data: bytes, prediction: bytes) -> bytes:
    """`data` less `prediction`, byte by byte, modulo 256; see `add` in updater/delta.py."""
    found = bytearray()
    for at in range(0, len(data), node.SLICE):
        one, other = data[at : at + node.SLICE], prediction[at : at + node.SLICE]
        if one == other:
            found += bytes(len(one))
            continue
        a, b = int.from_bytes(one, "little"), int.from_bytes(other, "little")
        left = ((a | node.HIGH) - (b & node.LOW)) ^ ((a ^ b ^ node.HIGH) & node.HIGH)
        found += left.to_bytes(node.SLICE, "little")[: len(one)]
    return bytes(found)


def _price(delta: Delta, image: SlotImage, weights: Sequence[Counter[str]]) -> Price:
    total, shares = 0, Counter[str]()
    for piece, chunk, weight in zip(delta.pieces, image.chunks, weights, strict=True):
        size = piece.size or chunk.size
        total += size
        odd = sum(weight.values())
        for name, count in weight.items():
            shares[name] += size * count // odd
    whole = sum(chunk.size for chunk in image.chunks)
    return Price(delta.version, total, whole, tuple(shares.most_common()))


def slot_of(store: Store, manifest: Manifest) -> memoryview:
    """The slot image of a release. Raises UserError where its blob is damaged."""
    with tempfile.TemporaryDirectory(prefix="belay-slot-") as folder:
        file = Path(folder) / "slot"
        unpack_xz(store.blobs / manifest.slot.blob.sha256, file)
        return memoryview(file.read_bytes())


def make_deltas(
    store: Store, olders: Sequence[Manifest], slot: Path, image: SlotImage, progress: Progress
) -> tuple[SlotImage, list[Price]]:
    """`image` with deltas from older releases, whose blobs are written; and what each costs."""
    prices, found = [], []
    new = memoryview(slot.read_bytes())
    for older in olders:
        with progress.transfer(f"delta from {older.version}") as transferred:
            slots = Slots(slot_of(store, older), new, regions(new))
            delta, price = make_delta(slots, older, image, store.blobs, transferred)
        found.append(delta)
        prices.append(price)
    return replace(image, deltas=tuple(found)), prices
