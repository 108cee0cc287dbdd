"""Makes the compressed parts of a slot, the kernel and the initramfs, from what the node has.

Compressed bytes resemble nothing. So their pieces (updater/delta.py) make the unpacked bytes, and
these are packed again, by a packer that the builder has seen to give the very same bytes. A stream
is made in order and taken in order: nothing of it is kept.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
import zlib
from collections.abc import Callable, Generator, Iterable

from updater.errors import Mismatch

Read = Callable[[int, int], bytes]  # offset, size -> bytes; fewer where there are no more

REACH = 1 << 20  # bytes before and behind a piece's own place that it may look at
BLOCK = 256 << 10
PIPE = 1 << 20  # bytes of room; more would need a right
PATIENCE_S = 60
POLL_S = 0.002  # for which a process is waited for at a time
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
        self._held, self.begin = bytearray(), 0  # what is here and wasn't taken; where that begins

    def close(self) -> None:
        """End it."""
        self._packed.close()

    def prepare(self, begin: int, end: int) -> bool:
        """Go on as far as it goes without waiting, until `end` at most; False: it has ended."""
        block: bytes | None = b"any"
        while block and self.begin + len(self._held) < end:
            block = next(self._packed, None)
            self._held += block or b""
            gone = max(0, min(begin - self.begin, len(self._held)))
            del self._held[:gone]
            self.begin += gone
        return block is not None

    def fill(self, at: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `at`, not before `begin`. Raises Mismatch where it ends."""
        end = at + len(view)
        while self.begin + len(self._held) < end:
            if not self.prepare(at, end):
                raise Mismatch("a stream ends too early")
        view[:] = self._held[at - self.begin : end - self.begin]
        del self._held[: end - self.begin]
        self.begin = end


# A packer gives what it has packed, and an empty block where there is nothing at the moment.


def by_zlib(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """As Python's zlib packs them at level 4."""
    engine = zlib.compressobj(4, zlib.DEFLATED, GZIP)
    for piece in pieces:
        if data := engine.compress(piece):
            yield data
        yield b""
    yield engine.flush()


def _require_success(process: subprocess.Popen[bytes]) -> None:
    if process.stdin and not process.stdin.closed:  # it left, and nothing was written since
        raise BrokenPipeError
    try:
        code = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise Mismatch(f"{BUSYBOX[0]} doesn't end") from None
    if code:
        raise Mismatch(f"{BUSYBOX[0]} ended with exit code {code}")


def by_busybox(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """As busybox' gzip packs them at level 9, in a process of its own.

    That works on while the caller does something else, with what is in the pipe.
    """
    try:
        process = subprocess.Popen(
            BUSYBOX, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE
        )
    except OSError as error:
        raise Mismatch(f"{BUSYBOX[0]} can't be started: {error.strerror}") from None
    assert process.stdin is not None and process.stdout is not None
    feed, packed = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(feed, False)
    upcoming, left, since = iter(pieces), memoryview(b""), time.monotonic()
    try:
        while True:
            if not left and not process.stdin.closed:
                left = memoryview(next(upcoming, b""))
                since = time.monotonic()
                if not left:
                    process.stdin.close()
            wanted = [] if process.stdin.closed else [feed]
            readable, writable, _ = select.select([packed], wanted, [], POLL_S)
            if writable:
                left = left[os.write(feed, left) :]
            if readable:
                data = os.read(packed, BLOCK)
                if not data:
                    break
                yield data
            elif not writable:
                if time.monotonic() - since > PATIENCE_S:
                    raise Mismatch(f"{BUSYBOX[0]} does nothing for {PATIENCE_S} s")
                yield b""
            if readable or writable:
                since = time.monotonic()
        _require_success(process)
    except BrokenPipeError:
        raise Mismatch(f"{BUSYBOX[0]} ended before it had packed everything") from None
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


# By the name that a manifest calls them.
PACKERS: dict[str, Callable[[Iterable[bytes]], Generator[bytes, None, None]]] = {
    "zlib-4": by_zlib,
    "gzip-9": by_busybox,
}
