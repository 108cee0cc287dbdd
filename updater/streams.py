"""Makes the compressed parts of a slot, the kernel and the initramfs, from what the node has.

Compressed bytes resemble nothing. So their pieces (updater/delta.py) make the unpacked bytes, and
these are packed again, by a packer that the builder has seen to give the very same bytes. A stream
is made in order and taken in order: nothing of it is kept.
"""

from __future__ import annotations

import subprocess
import threading
import zlib
from collections.abc import Callable, Generator, Iterable

from updater.errors import Mismatch

Read = Callable[[int, int], bytes]  # offset, size -> bytes; fewer where there are no more

REACH = 1 << 20  # bytes before and behind a piece's own place that it may look at
BLOCK = 256 << 10
GZIP = zlib.MAX_WBITS | 16  # zlib's word for a gzip stream
BUSYBOX = ("busybox", "gzip", "-9", "-c")


class Window:
    """A gzip stream, `size` bytes at `at` of what `read` has, unpacked from begin to end.

    It holds what lies around the place that it is moved to.
    """

    def __init__(self, read: Read, at: int, size: int) -> None:
        self._source, self._at, self._end = read, at, at + size
        self._engine = zlib.decompressobj(GZIP)
        self._held, self._begin, self._limit = bytearray(), 0, 0

    def move(self, at: int, size: int) -> None:
        """Hold what is around `size` bytes at `at`."""
        if (gone := at - REACH - self._begin) > 0:
            self._reach(self._begin + gone)
            del self._held[:gone]
            self._begin += gone
        self._limit = at + size + REACH

    def read(self, offset: int, size: int) -> bytes:
        """Unpacked bytes; none where they are out of reach."""
        if offset < self._begin or offset + size > self._limit:
            return b""
        self._reach(offset + size)
        return bytes(self._held[offset - self._begin : offset - self._begin + size])

    def _reach(self, end: int) -> None:
        while self._begin + len(self._held) < end and not self._engine.eof:
            data = self._engine.unconsumed_tail
            if not data:
                data = self._source(self._at, min(BLOCK, self._end - self._at))
                self._at += len(data)
                if not data:
                    return
            try:
                self._held += self._engine.decompress(data, BLOCK)
            except zlib.error as error:
                raise Mismatch(f"what the slot has can't be unpacked: {error}") from None


class Taker:
    """Takes bytes of a stream, in order; what lies before goes by."""

    def __init__(self, packed: Generator[bytes, None, None]) -> None:
        self._packed = packed
        self._block, self.begin = b"", 0  # what came last, and where that begins

    def close(self) -> None:
        """End it."""
        self._packed.close()

    def fill(self, at: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `at`, not before `begin`. Raises Mismatch where it ends."""
        done = 0
        while done < len(view):
            here = at + done - self.begin
            data = self._block[here : here + len(view) - done]
            view[done : done + len(data)] = data
            done += len(data)
            if done < len(view):
                self.begin += len(self._block)
                self._block = next(self._packed, b"")
                if not self._block:
                    raise Mismatch("a stream ends too early")


def by_zlib(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """As Python's zlib packs them at level 4."""
    engine = zlib.compressobj(4, zlib.DEFLATED, GZIP)
    for piece in pieces:
        if data := engine.compress(piece):
            yield data
    yield engine.flush()


def by_busybox(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """As busybox' gzip packs them at level 9, in a process of its own; a thread feeds it."""
    failed: list[BaseException] = []
    try:
        process = subprocess.Popen(BUSYBOX, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise Mismatch(f"{BUSYBOX[0]} can't be started: {error.strerror}") from None
    assert process.stdin is not None and process.stdout is not None
    stdin = process.stdin

    def feed() -> None:
        try:
            with stdin:
                for piece in pieces:
                    stdin.write(piece)
        except BaseException as error:
            failed.append(error)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        while data := process.stdout.read(BLOCK):
            yield data
        feeder.join()
        if failed:
            raise failed[0]
    finally:
        process.kill()
        process.wait()
        feeder.join()
        process.stdout.close()


# By the name that a manifest calls them.
PACKERS: dict[str, Callable[[Iterable[bytes]], Generator[bytes, None, None]]] = {
    "zlib-4": by_zlib,
    "gzip-9": by_busybox,
}
