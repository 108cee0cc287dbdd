"""Makes deltas: for each chunk of a release a piece by which nodes of an older one make it.

A piece is a prediction and a residual (format and the node's side: updater/delta.py). Each is
applied by the node's own code before it counts.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from builder.alpine.archive import Transferred
from builder.core.cache import mark_used
from builder.core.errors import UserError
from builder.core.files import naming, write_atomically
from builder.core.output import say
from builder.core.parallel import workers
from builder.core.progress import Progress
from builder.releases.chunks import unpack_xz
from builder.releases.ranges import (
    CACHED,
    Range,
    Region,
    cut,
    in_slot,
    ordered,
    outside,
    pairs,
    regions,
    shared,
)
from builder.releases.store import Store
from builder.releases.streams import STEP, Found, PackAgain, streams
from updater import delta as node
from updater.errors import Mismatch, printable
from updater.formats import CHUNK, Blob, Delta, Manifest, Piece, SlotImage, Stream, StreamPiece
from updater.streams import Read

PRESET = 6
SHOWN = 5  # of the files that cost most
NAME_MAX = 80  # of the name of one that is shown
NODES_SIDE = "root/usr/lib/belay/updater/delta.py"


# What packs by the programs of an old slot image.
Prove = Callable[[memoryview], AbstractContextManager[PackAgain]]


@dataclass(frozen=True)
class Price:
    """What nodes of an older release fetch, in bytes; `files` are shares of it, largest first."""

    version: str
    size: int
    whole: int
    files: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        files = ((printable(name, NAME_MAX), size) for name, size in self.files[:SHOWN])
        largest = ", ".join(f"{name} {_mb(size)}" for name, size in files)
        return (
            f"from {self.version}: {_mb(self.size)} to fetch (whole: {_mb(self.whole)})"
            f"{'; largest: ' if largest else ''}{largest}"
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


@dataclass(frozen=True)
class Slots:
    """An old slot image and a new one, in memory; which files the new one has, and its streams."""

    old: memoryview
    new: memoryview
    known: Sequence[Region] = ()
    streams: Sequence[Found] = ()

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
    for stream in slots.streams:
        ranges = list(outside(ranges, stream.at, stream.at + stream.size))
    parts = cut(ranges, len(slots.new), CHUNK)
    packed, weights = [], []
    with workers() as pool:
        inside = [list(pool.map(*_pieces_of(stream))) for stream in slots.streams]
        made = pool.map(partial(_piece, slots), range(len(parts)), parts)
        for number, (piece, weight) in enumerate(made):
            # What comes out larger than the whole chunk is no help.
            packed.append(piece if len(piece) < image.chunks[number].size else b"")
            weights.append(weight)
            if transferred:
                transferred(min((number + 1) * CHUNK, len(slots.new)), len(slots.new))
    data = b"".join([*packed, *itertools.chain(*inside)]) or b"\0"
    name = hashlib.sha256(data).hexdigest()
    with naming(blobs):
        write_atomically(blobs / name, data, 0o644)
    places, offset = [], 0
    for piece in packed:
        places.append(Piece(offset, len(piece)))
        offset += len(piece)
    streams = []
    for stream, pieces in zip(slots.streams, inside, strict=True):
        found = []
        for number, piece in enumerate(pieces):
            left = len(stream.content) - number * STEP
            found.append(StreamPiece(offset, len(piece), min(STEP, left)))
            offset += len(piece)
        streams.append(Stream(stream.at, stream.size, stream.packer, stream.source, tuple(found)))
    blob = Blob(name, len(data))
    delta = Delta(version, len(slots.old), blob, tuple(places), tuple(streams))
    for stream, pieces in zip(slots.streams, inside, strict=True):
        weights.append(Counter({stream.name: sum(map(len, pieces))}))
    return delta, _price(delta, image, weights)


def _pieces_of(stream: Found) -> tuple[Callable[..., bytes], range, list[list[Range]]]:
    """What makes each piece of a stream: a function, and what it is called with."""

    def piece(number: int, ranges: Sequence[Range]) -> bytes:
        at = number * STEP
        return _packed(stream.content[at : at + STEP], at, ranges, stream.read)[0]

    parts = cut(stream.ranges, len(stream.content), STEP)
    return piece, range(len(parts)), parts


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
    with workers() as pool:
        for ranges in pool.map(compare, unlike):
            found += ranges
    return ordered(found)


def _piece(slots: Slots, number: int, ranges: Sequence[Range]) -> tuple[bytes, Counter[str]]:
    """A chunk as a piece; and by file how many bytes of it are not as predicted."""
    at, chunk = number * CHUNK, bytearray(slots.chunk(number))
    for stream in slots.streams:
        begin, end = max(at, stream.at), min(at + len(chunk), stream.at + stream.size)
        if begin < end:
            chunk[begin - at : end - at] = bytes(end - begin)
    data = bytes(chunk)
    packed, residual = _packed(
        data, at, ranges, lambda offset, size: bytes(slots.old[offset : offset + size])
    )
    weight: Counter[str] = Counter()
    for region in slots.known:
        for offset, size in region.extents:
            if offset is not None and offset < at + len(data) and at < offset + size:
                low, high = max(offset - at, 0), min(offset + size - at, len(data))
                if odd := high - low - residual.count(0, low, high):
                    weight[region.name] += odd
    return packed, weight


def _packed(data: bytes, at: int, ranges: Sequence[Range], read: Read) -> tuple[bytes, bytes]:
    """The piece that makes `data`, which lies at `at`, and its residual."""
    prediction = bytearray(len(data))
    for new, old, size in ranges:
        prediction[new : new + size] = read(old, size)
    residual = subtracted(data, bytes(prediction))
    raw = unpacked_piece(ranges, at, residual)
    cached = CACHED / f"{hashlib.sha256(raw).hexdigest()}.piece-{PRESET}"
    if cached.exists():
        packed = cached.read_bytes()
        with suppress(Mismatch):  # else it is damaged
            if node.made(packed, at, len(data), read) == data:
                mark_used(cached)
                return packed, residual
    packed = pack(raw)
    if node.made(packed, at, len(data), read) != data:
        raise RuntimeError(f"nodes make other bytes than those at {at}")
    write_atomically(cached, packed)
    return packed, residual


def pack(raw: bytes) -> bytes:
    """A piece from what is in it; see updater/delta.py."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": PRESET, "dict_size": node.DICTIONARY}]
    return lzma.compress(raw, lzma.FORMAT_RAW, filters=filters)


def unpacked_piece(ranges: Sequence[Range], at: int, residual: bytes) -> bytes:
    """What is in a piece; see updater/delta.py."""
    gaps, seeks, here, there = [], [], 0, at
    for new, old, size in ranges:
        gaps.append(new - here)
        seeks.append(old - there)
        here, there = new + size, old + size
    count = len(ranges)
    head = struct.pack(
        f"<I{count}I{count}I{count}q", count, *gaps, *(r.size for r in ranges), *seeks
    )
    return head + residual.rstrip(b"\0")


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
    sizes = [p.size or c.size for p, c in zip(delta.pieces, image.chunks, strict=True)]
    sizes += [sum(piece.size for piece in stream.pieces) for stream in delta.streams]
    for size, weight in zip(sizes, weights, strict=True):
        total += size
        odd = sum(weight.values())
        for name, count in weight.items():
            shares[name] += size * count // odd
    whole = sum(chunk.size for chunk in image.chunks)
    return Price(delta.version, total, whole, tuple(shares.most_common()))


def whole_price(version: str, image: SlotImage) -> Price:
    """What nodes of a release fetch from which there is no delta."""
    whole = sum(chunk.size for chunk in image.chunks)
    return Price(version, whole, whole, ())


def slot_of(store: Store, manifest: Manifest) -> memoryview:
    """The slot image of a release. Raises UserError where its blob is missing or damaged."""
    with tempfile.TemporaryDirectory(prefix="belay-slot-") as folder:
        file = Path(folder) / "slot"
        try:
            unpack_xz(store.blobs / manifest.slot.blob.sha256, file)
            return memoryview(file.read_bytes())
        except (UserError, OSError) as error:
            raise UserError(
                f"release {manifest.version} in {store.folder} is not whole: {error}",
                "bring that file back from a copy of the store, or from the server",
            ) from None


class Packed(NamedTuple):
    """The slot image that is to be released, in a file and as chunks; where its blobs go."""

    slot: Path
    image: SlotImage
    blobs: Path


def make_deltas(
    store: Store,
    olders: Sequence[Manifest],
    packed: Packed,
    prove: Prove,
    progress: Progress,
) -> tuple[SlotImage, list[Price]]:
    """The packed image with deltas from older releases of `store`, and what each of them costs.

    `prove` packs by the programs of an old slot. Where there can be no delta, nodes take whole
    chunks, and that is the price.
    """
    prices, found = [], []
    image, new = packed.image, memoryview(packed.slot.read_bytes())
    for older in olders:
        with progress.transfer(f"delta from {older.version}") as transferred:
            why, old = "", new
            try:
                old = slot_of(store, older)
            except UserError as error:
                why = f"{error}\n{error.hint}"
            if not why and all(region.name != NODES_SIDE for region in regions(old)):
                why = f"release {older.version} knows no deltas yet"
            if why:
                say(f"note: {why}\nthere is no delta from {older.version}: nodes take whole chunks")
                prices.append(whole_price(older.version, image))
                continue
            with prove(old) as pack_again:
                found_streams = streams(old, new, pack_again)
            slots = Slots(old, new, regions(new), found_streams)
            delta, price = make_delta(slots, older, image, packed.blobs, transferred)
        found.append(delta)
        prices.append(price)
    return replace(image, deltas=tuple(found)), prices
