"""Where releases come from: a web server, a folder such as that of a USB stick, or a tar of one.

All have the same files under the same names. What comes from here is bounded in size and time, and
not trusted: that is for those who read it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from updater.errors import Missing, Refused, Unreachable, UpdateError

PIECE = 64 << 10


class Source(Protocol):
    """Read access to a server's files, by their path such as `channels/stable`."""

    name: str
    remote: bool

    def get(self, path: str, most: int, etag: str = "") -> tuple[bytes, str] | None:
        """A small file and its ETag; None where it is the one with that `etag` still.

        Raises Unreachable; Refused where it is larger than `most` bytes.
        """

    def stream(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """Bytes of a file in pieces. Raises Unreachable, and where there are less than `size`."""


def open_source(location: str, folder: str = "", **more: Any) -> Source:
    """The source at a URL, in a folder or a tar: all of it, or `folder`; `more` is for a Server."""
    if "://" in location:
        from updater.server import Server  # slow to come, and a stick needs none

        return Server(f"{location.rstrip('/')}/{folder}", **more)
    if Path(location).is_dir():
        return Folder(Path(location, folder))
    if Path(location).is_file():
        return Archive(Path(location), folder)
    raise UpdateError(f"{location}: wanted a URL like https://example.org/belay, a folder or a tar")


class Folder:
    """Releases in a folder."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)

    def _locate(self, path: str) -> tuple[Path, int, int]:
        """The file that holds `path`: the file, where in it that begins, its size."""
        file = Path(self.name, path)
        return file, 0, file.stat().st_size

    def get(self, path: str, most: int, etag: str = "") -> tuple[bytes, str] | None:
        """See Source.get."""
        try:
            _, _, size = self._locate(path)
        except OSError as error:
            raise Unreachable(f"{self.name}/{path}: {error.strerror}") from None
        if size > most:
            raise _too_large(path, most)
        return b"".join(self.stream(path, 0, size)), ""

    def stream(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """See Source.stream."""
        try:
            found, begin, held = self._locate(path)
            left = min(size, held - offset)
            # A pipe that nobody writes to would be waited for.
            descriptor = os.open(found, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "it is no file")
                file.seek(begin + offset)
                while left > 0 and (data := file.read(min(left, PIECE))):
                    left -= len(data)
                    size -= len(data)
                    yield data
                    # A stick's bytes are read once: they needn't stay in memory.
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            kind = Missing if error.errno == errno.ENOENT else Unreachable
            raise kind(f"{self.name}/{path}: {error.strerror}") from None
        if size:
            raise Unreachable(f"{self.name}/{path} ends {size} bytes too early")


class Archive(Folder):
    """Releases in one file: a tar of such a folder, not compressed; in `folder` of it."""

    def __init__(self, file: Path, folder: str = "") -> None:
        """Raises UpdateError where it is none."""
        import tarfile

        super().__init__(file)
        begin = f"{folder}/" if folder else ""
        try:
            with tarfile.open(file, "r:") as tar:
                self._members = {
                    name.removeprefix(begin): (file, member.offset_data, member.size)
                    for member in tar
                    if (name := member.name.removeprefix("./")).startswith(begin)
                    and member.isreg()
                    and not member.issparse()
                }
        # All but the first two are of numbers and depths that no sound archive has.
        except (
            tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError,
            RecursionError,
        ) as error:  # fmt: skip
            raise UpdateError(f"{file} is no tar, or is compressed or damaged: {error}") from None

    def _locate(self, path: str) -> tuple[Path, int, int]:
        if path not in self._members:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._members[path]


def _too_large(path: str, most: int) -> Refused:
    return Refused(f"{path} is larger than the {most} bytes that it may have")
