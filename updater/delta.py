"""Makes chunks of a release from what the slot that runs holds, and little that is fetched.

A chunk is a prediction and a residual. The prediction is put together from ranges of the active
slot; it is zero where there is none. The residual is added to it byte by byte, modulo 256. Where a
chunk holds part of a stream (updater/streams.py), that is laid over it last.

A *piece* is what is fetched: raw LZMA2 (https://tukaani.org/xz/format.html) of, all little-endian,

    n               u32, the number of ranges
    n gaps          u32 each, from the end of the range before to the begin of this one
    n lengths       u32 each
    n seeks         i64 each, from the end of the source of the range before to that of this one
    the residual    without the zeros at its end

The first gap counts from the begin of the chunk, the first seek from where the chunk itself lies.
Pieces of a stream may look further: what lies behind the active slot is the new one, as far as it
is written.

Nothing here is trusted, neither the slot nor the piece: what is made counts if it has the hash that
is signed. Else the whole chunk is fetched.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from updater.errors import GaveWay, Mismatch, Missing, Unreachable
from updater.formats import CHUNK, SLOT_SIZE_MAX, Delta, Piece, SlotImage, Stream, StreamPiece
from updater.streams import PACKERS, Read, Taker, Window

DICTIONARY = 3 << 20  # bytes that a piece looks back at
OUTAGES = 2  # of the line, after which the delta is tried again
RANGES_MAX = 1 << 16  # of a piece
RANGE_SIZE = 16  # bytes that each takes
SLICE = 16 << 10  # bytes that are added at a time
FETCH = 256 << 10  # bytes of pieces that are asked for at once
HOPELESS = 3  # pieces in a row that made nothing: the slot isn't what it should be
LOW = int.from_bytes(b"\x7f" * SLICE, "little")
HIGH = int.from_bytes(b"\x80" * SLICE, "little")
_ZEROS = bytes(SLICE)
Made = TypeVar("Made")
_FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY}]


class Maker:
    """Makes chunks of `image` from the active slot by `delta`. As a context it is closed.

    `target` is the slot that is written. `fetch` brings bytes of the delta's blob; it raises
    Unreachable where they don't come.
    """

    def __init__(
        self, image: SlotImage, delta: Delta, active: Path, target: Path, fetch: Read
    ) -> None:
        self.image, self.delta, self.active, self._fetch = image, delta, active, fetch
        self.failed: set[int] = set()  # the chunks that have to be fetched whole
        self.problem = ""  # of the last of these
        self._in_a_row = 0
        self._outages, self._is_down = 0, False  # of the line
        self._here: dict[int, bytes] = {}  # pieces that came with others
        self._came: set[int] = set()  # all that ever came
        self._takers: dict[Stream, Taker] = {}
        self._descriptor = os.open(active, os.O_RDONLY | os.O_CLOEXEC)
        self._target = os.open(target, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Maker:
        return self

    def __exit__(self, *_: object) -> None:
        for taker in self._takers.values():
            taker.close()
        os.close(self._descriptor)
        os.close(self._target)

    def order(self) -> tuple[list[int], set[int]]:
        """All chunks, in the order to make them, and which have to wait until others are written.

        Those wait that have parts of streams which look at the new slot. Streams that do not are
        packed while other chunks are made; so their chunks come in between.
        """
        streams = {at: [s for s, _, _ in self._parts(at)] for at in range(len(self.image.chunks))}
        late = [at for at, found in streams.items() if not all(s.source for s in found)]
        early = [at for at, found in streams.items() if found and at not in late]
        # Those without a piece last: what is made is looked for in this order after a cut.
        rest = [at for at, found in streams.items() if not found]
        rest.sort(key=lambda at: not self.delta.pieces[at].size)
        order = rest.copy()
        for count, at in enumerate(early):
            order.insert(count + len(rest) * (count + 1) // len(early), at)
        return order + late, set(late)

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing is made any more."""
        return self._in_a_row >= HOPELESS

    def chunk(self, number: int) -> bytearray | None:
        """A chunk; None where it has to be fetched whole."""
        data = self._tried(number, self._chunk)
        if data is not None:
            self._in_a_row = 0
        return data

    def prepare(self, numbers: list[int]) -> None:
        """Go on with what the first of these chunks needs that has a part of a stream."""
        for number in numbers:
            if self._is_made(number) and any(self._parts(number)):
                self._tried(number, self._prepare)
                return

    def _is_made(self, number: int) -> bool:
        useful = self.delta.pieces[number].size and not self.is_hopeless
        return bool(useful) and number not in self.failed

    def _tried(self, number: int, make: Callable[[int], Made]) -> Made | None:
        if not self._is_made(number):
            return None
        try:
            return make(number)
        except GaveWay:
            raise
        except (Mismatch, OSError, Unreachable) as error:
            self.problem = str(error)
            self.failed.add(number)
            self._in_a_row += 1
            if isinstance(error, Unreachable):
                self._in_a_row = HOPELESS
                self._is_down = not isinstance(error, Missing)
                self._outages += self._is_down
            return None

    def resume(self) -> bool:
        """Go on after an outage, as whole chunks come again; False: nothing changes by that.

        Not again and again: it may be the delta alone that can't be had.
        """
        if not self._is_down or self._outages > OUTAGES:
            return False
        self._in_a_row, self.problem, self._is_down = 0, "", False
        self.failed.clear()
        return True

    def _prepare(self, number: int) -> None:
        for stream, begin, end in self._parts(number):
            self._taken(stream, Taker.prepare, begin, end)

    def _chunk(self, number: int) -> bytearray:
        at, size = number * CHUNK, self.image.chunk_size(number)
        try:
            data = made(self._piece(number), at, size, self._read)
            for stream, begin, end in self._parts(number):
                view = memoryview(data)[stream.at + begin - at : stream.at + end - at]
                self._taken(stream, Taker.fill, begin, view)
            if hashlib.sha256(data).hexdigest() != self.image.chunks[number].sha256:
                raise Mismatch(
                    f"either {self.active} is not what release {self.delta.version} wrote, or "
                    "the delta is another, or busybox packs otherwise"
                )
        finally:
            # What is read once needn't stay in memory; what was read ahead is needed next.
            if at > CHUNK:
                os.posix_fadvise(self._descriptor, 0, at - CHUNK, os.POSIX_FADV_DONTNEED)
        return data

    def _piece(self, number: int) -> bytes:
        """A piece; those that lie behind it come with it."""
        if number not in self._here:
            behind = takewhile(
                lambda at: at not in self._came, range(number + 1, len(self.image.chunks))
            )
            pieces = {at: self.delta.pieces[at] for at in (number, *behind)}
            offset, extent = pieces[number].offset, _extent(list(pieces.values()))
            fetched = self._fetch(offset, extent)
            for at, piece in pieces.items():
                if offset <= piece.offset and piece.offset + piece.size <= offset + extent:
                    self._here[at] = fetched[piece.offset - offset :][: piece.size]
            self._came |= set(self._here)
        return self._here.pop(number)

    def _parts(self, number: int) -> Iterator[tuple[Stream, int, int]]:
        """The streams of which a chunk holds a part: from where in the stream, and to where."""
        begin, end = number * CHUNK, number * CHUNK + self.image.chunk_size(number)
        for stream in self.delta.streams:
            low, high = max(begin, stream.at), min(end, stream.at + stream.size)
            if low < high:
                yield stream, low - stream.at, high - stream.at

    def _taken(self, stream: Stream, take: Callable[..., object], begin: int, what: object) -> None:
        """Take from a stream at `begin`; it starts anew where that went by, or after an error."""
        taker = self._takers.pop(stream, None)
        if taker and begin < taker.begin:
            taker.close()
            taker = None
        if stream.packer not in PACKERS:
            raise Mismatch(f"there is no packer {stream.packer} here")
        taker = taker or Taker(PACKERS[stream.packer](self._unpacked(stream)))
        try:
            take(taker, begin, what)
        except BaseException:
            taker.close()
            raise
        self._takers[stream] = taker

    def _unpacked(self, stream: Stream) -> Iterator[bytes]:
        """What a stream has inside, piece by piece."""
        window = Window(self._read, *stream.source[0]) if stream.source else None
        at, begin, fetched = 0, 0, b""
        for number, (offset, packed, size) in enumerate(stream.pieces):
            if window:
                window.move(at, size)
            if not begin <= offset <= offset + packed <= begin + len(fetched):
                begin, fetched = offset, self._fetch(offset, _extent(stream.pieces[number:]))
            read = window.read if window else self._read_both
            yield bytes(made(fetched[offset - begin :][:packed], at, size, read))
            at += size

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def _read_both(self, offset: int, size: int) -> bytes:
        """Of the active slot, and behind it of the new one."""
        if offset < self.delta.size:
            return self._read(offset, size)
        return os.pread(self._target, size, offset - self.delta.size)


def _extent(pieces: Sequence[Piece | StreamPiece]) -> int:
    """The bytes that are fetched at once: of the first piece, and of those right behind it."""
    extent = pieces[0].size
    for piece in pieces[1:]:
        if piece.offset != pieces[0].offset + extent or extent + piece.size > FETCH:
            break
        extent += piece.size
    return extent


def made(packed: bytes, at: int, size: int, read: Read) -> bytearray:
    """The `size` bytes at `at`, from a piece and from what `read` has. Raises Mismatch."""
    most = 4 + RANGE_SIZE * RANGES_MAX + size
    try:
        raw = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(packed, most)
    except lzma.LZMAError as error:
        raise Mismatch(f"a piece can't be unpacked: {error}") from None
    count = int.from_bytes(raw[:4], "little")
    begin = 4 + RANGE_SIZE * count
    if not begin <= len(raw) <= begin + size:
        raise Mismatch("a piece has the wrong length")
    numbers = memoryview(raw)[:begin]
    gaps, lengths = numbers[4 : 4 + 4 * count].cast("I"), numbers[4 + 4 * count :][: 4 * count]
    seeks = numbers[4 + 8 * count :].cast("q")
    chunk, here, there = bytearray(size), 0, at
    for gap, length, seek in zip(gaps, lengths.cast("I"), seeks, strict=True):
        here += gap
        there += seek
        if here + length > size or not 0 <= there <= SLOT_SIZE_MAX:
            raise Mismatch("a range lies outside")
        data = read(there, length)
        if len(data) != length:
            raise Mismatch("a range has no bytes")
        chunk[here : here + length] = data
        here += length
        there += length
    add(chunk, raw, begin)
    return chunk


def add(chunk: bytearray, raw: bytes, begin: int = 0) -> None:
    """Add the bytes of `raw` from `begin` on to `chunk`, one by one, modulo 256.

    Large integers add thousands of bytes at once. The highest bit of each byte is added apart, so
    that nothing is carried over into the next.
    """
    for at in range(0, len(raw) - begin, SLICE):
        part = raw[begin + at : begin + at + SLICE]
        if part == _ZEROS[: len(part)]:
            continue
        a, b = (int.from_bytes(data, "little") for data in (chunk[at : at + len(part)], part))
        total = ((a & LOW) + (b & LOW)) ^ ((a ^ b) & HIGH)
        chunk[at : at + len(part)] = total.to_bytes(SLICE, "little")[: len(part)]
