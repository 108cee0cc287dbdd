"""Reads and writes disks past the page cache, so that what is read back is what the disk has.

Memory that goes to the disk directly lies on page borders, and so does what it is for on the disk.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from updater.errors import UpdateError

ALIGNMENT = 4096


class Disk:
    """A partition, or a file that stands for one. As a context it is closed at the end.

    `exclusive`: to write it as a whole. Raises UpdateError where it is mounted, or opened so by
    another process already.
    """

    def __init__(self, path: Path, *, exclusive: bool = False, write: bool = False) -> None:
        self.path = path
        flags = (os.O_RDWR if write or exclusive else os.O_RDONLY) | os.O_CLOEXEC
        try:
            if exclusive and stat.S_ISBLK(path.stat().st_mode):
                flags |= os.O_EXCL  # refuses what is mounted
            self._descriptor = _open_direct(path, flags)
        except OSError as error:
            why = "it is in use" if error.errno == errno.EBUSY else error.strerror
            raise UpdateError(f"{path} can't be opened: {why}") from None
        self.size = os.lseek(self._descriptor, 0, os.SEEK_END)
        self._buffer = mmap.mmap(-1, ALIGNMENT)

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, which must lie on a sector border; less at the end."""
        view = self._room(-(-size // ALIGNMENT) * ALIGNMENT)
        try:
            count = os.preadv(self._descriptor, [view], offset)
        except OSError as error:
            raise self._failed("read", offset, error) from None
        return bytes(view[: min(count, size)])

    def write(self, offset: int, data: bytes | bytearray, alignment: int = ALIGNMENT) -> None:
        """Write `data` at `offset`; zeros fill it up to a border."""
        size = -(-len(data) // alignment) * alignment
        view = self._room(size)
        view[:size] = data.ljust(size, b"\0")
        try:
            done = os.pwritev(self._descriptor, [view[:size]], offset)
        except OSError as error:
            raise self._failed("written", offset, error) from None
        if done != size:
            raise UpdateError(f"{self.path}: only {done} of {size} bytes were written at {offset}")

    def flush(self) -> None:
        """Return when all that was written is on the disk for good."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failed("flushed", 0, error) from None

    def pieces(self, size: int, piece: int = 1 << 20) -> Iterator[bytes]:
        """The first `size` bytes, one after the other."""
        for offset in range(0, size, piece):
            data = self.read(offset, min(piece, size - offset))
            if not data:
                return
            yield data

    def sha256(self, size: int) -> str:
        """The hash of the first `size` bytes, as the disk has them."""
        import hashlib  # which brings OpenSSL along

        digest = hashlib.sha256()
        for data in self.pieces(size):
            digest.update(data)
        return digest.hexdigest()

    def _room(self, size: int) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = mmap.mmap(-1, size)
        return memoryview(self._buffer)[:size]

    def _failed(self, what: str, offset: int, error: OSError) -> UpdateError:
        return UpdateError(f"{self.path} can't be {what} at byte {offset}: {error.strerror}")


def _open_direct(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags)  # a file system without direct I/O, such as tmpfs
