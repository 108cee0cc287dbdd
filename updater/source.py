"""Where releases come from: a web server, a folder such as that of a USB stick, or a tar of one.

All have the same files under the same names. What comes from here is bounded in size and time, and
not trusted: that is for those who read it.
"""

from __future__ import annotations

import errno
import http.client
import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from updater.errors import Refused, Unreachable, UpdateError

TIMEOUT_S = 20  # without a single byte
SLOWEST = 2 << 10  # bytes a second, over all of a transfer
GRACE_S = 30  # before that is asked for
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


def open_source(place: str, limit: int = 0, sleep: Callable[[float], None] = time.sleep) -> Source:
    """The source at a URL, in a folder or a tar. `limit`: bytes a second of a server; 0: none."""
    if place.startswith(("http://", "https://")):
        return Server(place, limit, sleep)
    if Path(place).is_dir():
        return Folder(Path(place))
    if Path(place).is_file():
        return Archive(Path(place))
    raise UpdateError(f"{place}: wanted a URL like https://example.org/belay, a folder or a tar")


class Folder:
    """Releases in a folder."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)

    def _place(self, path: str) -> tuple[Path, int, int]:
        """The file that holds `path`: the file, where in it that begins, its size."""
        file = Path(self.name, path)
        return file, 0, file.stat().st_size

    def get(self, path: str, most: int, etag: str = "") -> tuple[bytes, str] | None:
        """See Source.get."""
        try:
            _, _, size = self._place(path)
        except OSError as error:
            raise Unreachable(f"{self.name}/{path}: {error.strerror}") from None
        if size > most:
            raise _too_large(path, most)
        return b"".join(self.stream(path, 0, size)), ""

    def stream(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """See Source.stream."""
        try:
            place, begin, there = self._place(path)
            left = min(size, there - offset)
            with place.open("rb") as file:
                file.seek(begin + offset)
                while left > 0 and (data := file.read(min(left, PIECE))):
                    left -= len(data)
                    size -= len(data)
                    yield data
                    # A stick's bytes are read once: they needn't stay in memory.
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise Unreachable(f"{self.name}/{path}: {error.strerror}") from None
        if size:
            raise Unreachable(f"{self.name}/{path} ends {size} bytes too early")


class Archive(Folder):
    """Releases in one file: a tar of such a folder, not compressed."""

    def __init__(self, file: Path) -> None:
        """Raises UpdateError where it is none."""
        import tarfile

        super().__init__(file)
        try:
            with tarfile.open(file, "r:") as tar:
                self._places = {
                    member.name.removeprefix("./"): (file, member.offset_data, member.size)
                    for member in tar
                    if member.isreg() and not member.issparse()
                }
        except (tarfile.TarError, OSError) as error:
            raise UpdateError(f"{file} is no tar, or is compressed or damaged: {error}") from None

    def _place(self, path: str) -> tuple[Path, int, int]:
        if path not in self._places:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._places[path]


class Server:
    """Releases on a web server. The connection is kept for the next file."""

    remote = True

    def __init__(self, url: str, limit: int, sleep: Callable[[float], None]) -> None:
        self.name = url.rstrip("/")
        parts = urlsplit(self.name)
        self._prefix = parts.path
        self._limit = limit
        self._sleep = sleep
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.netloc, timeout=TIMEOUT_S, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)

    def get(self, path: str, most: int, etag: str = "") -> tuple[bytes, str] | None:
        """See Source.get."""
        headers = {"If-None-Match": etag} if etag else {}
        response = self._request(path, headers, (200, 304) if etag else (200,))
        if response.status == 304:
            self._end(response)
            return None
        data = b"".join(self._pieces(path, response, most + 1))
        if len(data) > most:
            self._connection.close()
            raise _too_large(path, most)
        self._end(response)
        return data, response.headers.get("ETag", "")

    def stream(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """See Source.stream."""
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        response = self._request(path, headers, (200, 206))
        wanted = f"bytes {offset}-{offset + size - 1}/"
        skip = 0
        if response.status == 200:  # a server that knows no ranges: the whole file comes
            skip = offset
        elif not response.headers.get("Content-Range", "").startswith(wanted):
            self._connection.close()
            raise Unreachable(f"{self.name}/{path}: the server gave another range than {wanted}")
        for piece in self._pieces(path, response, skip + size):
            data = piece[skip:]
            skip -= len(piece) - len(data)
            size -= len(data)
            if data:
                yield data
        if size:
            self._connection.close()
            raise Unreachable(f"{self.name}/{path} ends {size} bytes too early")
        self._end(response)

    def _request(
        self, path: str, headers: dict[str, str], wanted: tuple[int, ...]
    ) -> http.client.HTTPResponse:
        url = f"{self._prefix}/{path}"
        try:
            try:
                self._connection.request("GET", url, headers=headers)
                response = self._connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # The server let go of the kept connection, as it may at any time.
                self._connection.close()
                self._connection.request("GET", url, headers=headers)
                response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unreachable(f"{self.name}/{path}: {error or type(error).__name__}") from None
        if response.status not in wanted:
            self._connection.close()
            hint = "; redirects are not followed" if 300 <= response.status < 400 else ""
            raise Unreachable(
                f"{self.name}/{path}: the server answered {response.status} {response.reason}{hint}"
            )
        return response

    def _end(self, response: http.client.HTTPResponse) -> None:
        """Keep the connection for the next request only where nothing of this one is left on it."""
        response.close()
        if response.length != 0:
            self._connection.close()

    def _pieces(self, path: str, response: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
        """At most `most` bytes of a body, not faster than the limit, and not endlessly slow."""
        start, come = time.monotonic(), 0
        try:
            while come < most and (data := response.read1(min(PIECE, most - come))):
                come += len(data)
                yield data
                seconds = time.monotonic() - start
                if self._limit and come / self._limit > seconds:
                    self._sleep(come / self._limit - seconds)
                elif seconds > GRACE_S and come < SLOWEST * seconds:
                    raise Unreachable(f"{self.name}/{path}: {come} bytes in {seconds:.0f} s: slow")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unreachable(
                f"{self.name}/{path}: {error or type(error).__name__} after {come} bytes"
            ) from None
        except Unreachable:
            self._connection.close()
            raise


def _too_large(path: str, most: int) -> Refused:
    return Refused(f"{path} is larger than the {most} bytes that it may have")
