"""A web server with releases, which may be slow, broken, or somebody else's.

Everything that it sends is bounded, heads and trailers and what is between the pieces of a body
included: by one least rate, and by one most size. Redirects are followed, as what comes is signed.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import re
import select
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from updater.contract import RUN_NODE
from updater.errors import Missing, NotNow, Refused, Unreachable, UpdateError, printable
from updater.memory import ETAG
from updater.node import Node

TIMEOUT_S = 20  # without a single byte
SLOWEST = 2 << 10  # bytes a second, over all of an answer
GRACE_S = 30  # before that is asked for
SLICE_S = 1.0  # how often it is looked whether somebody else waits
PIECE = 64 << 10
AROUND = 256 << 10  # bytes of an answer that are no body; and as much again as that is
REDIRECTS = 5
SETTLED_S = 2
MISSING = (403, 404, 410)  # asked again, it would say the same
MOVED = (301, 302, 303, 307, 308)
REASON_MAX = 80  # characters of a server's own words
OUT_OF_DATE = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME


class Access(NamedTuple):
    """How a node gets to its server.

    `proxy` is the URL of one, `no_proxy` names hosts without one, as `localhost,.lan`.
    `authorities` is a file with certificates that are trusted too, `token` one with what the server
    wants to see. `limit` is how many bytes a second are asked for at most; 0: all there are.
    """

    proxy: str = ""
    no_proxy: str = ""
    authorities: Path | None = None
    token: Path | None = None
    limit: int = 0


def access_of(node: Node) -> Access:
    """How this node gets to its server: with its own certificates and token, if it has any."""
    settings, files = node.settings, node.root / RUN_NODE
    authorities, token = (files / name for name in ("ca.pem", "token"))
    return Access(
        settings.proxy,
        settings.no_proxy,
        authorities if authorities.exists() else None,
        token if token.exists() else None,
        settings.rate,
    )


class Server:
    """Releases on a web server. The connection is kept for the next file.

    `look` is called while the server is waited for, and may raise; `say` is told what a person
    should know.
    """

    remote = True

    def __init__(
        self,
        url: str,
        access: Access | None = None,
        sleep: Callable[[float], None] = time.sleep,
        look: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name = url.rstrip("/")
        self._url = split_url(self.name)
        self._sleep, self._look, self._say = sleep, look, say
        self._access = access or Access()
        # To which host a connection is kept.
        self._kept: tuple[tuple[str, ...], http.client.HTTPConnection, _Line] | None = None
        self._without_dates = False  # of certificates

    def get(self, path: str, most: int, etag: str = "") -> tuple[bytes, str] | None:
        """See Source.get."""
        headers = {"If-None-Match": etag} if etag else {}
        response = self._request(path, headers, most, (200, 304) if etag else (200,))
        if response.status == 304:
            self._end(response)
            return None
        data = b"".join(self._pieces(path, response, most + 1))
        if data.lstrip()[:1] == b"<":  # nothing that a server of releases has begins so
            self._drop()
            raise NotNow(
                f"{self.name}/{path}: a web page came: somebody in between answers, such as a "
                "portal where one logs in, or a proxy"
            )
        if len(data) > most:
            self._drop()
            raise Refused(f"{path} is larger than the {most} bytes that it may have")
        self._end(response)
        return data, _tag(response)

    def stream(self, path: str, offset: int, size: int) -> Iterator[bytes]:
        """See Source.stream."""
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        response = self._request(path, headers, offset + size, (200, 206))
        wanted = f"bytes {offset}-{offset + size - 1}/"
        skip = 0
        if response.status == 200:  # a server that knows no ranges: the whole file comes
            skip = offset
        elif not response.headers.get("Content-Range", "").startswith(wanted):
            self._drop()
            raise Unreachable(f"{self.name}/{path}: the server gave another range than {wanted}")
        for piece in self._pieces(path, response, skip + size):
            data = piece[skip:]
            skip -= len(piece) - len(data)
            size -= len(data)
            if data:
                yield data
        if size:
            self._drop()
            raise Unreachable(f"{self.name}/{path} ends {size} bytes too early")
        self._end(response)

    # --- one request ---

    def _request(
        self, path: str, headers: dict[str, str], most: int, wanted: tuple[int, ...]
    ) -> http.client.HTTPResponse:
        """The answer, once its head is here. Raises Unreachable."""
        name = f"{self.name}/{path}"
        url = split_url(name)
        for _ in range(REDIRECTS + 1):
            response = self._answer(name, url, headers, most)
            if response.status in wanted:
                return response
            target = response.headers.get("Location", "")
            reason = printable(f"{response.status} {response.reason}", REASON_MAX)
            self._drop()
            if response.status not in MOVED or not target:
                kind = Missing if response.status in MISSING else Unreachable
                raise kind(f"{name}: the server answered {reason}")
            try:
                moved = split_url(urljoin(url.geturl(), target))
            except (UpdateError, ValueError):
                shown = printable(target, REASON_MAX)
                raise Unreachable(f"{name}: the server sends on to {shown}, no URL") from None
            if url.scheme == "https" and moved.scheme != "https":
                raise Unreachable(f"{name}: the server sends on from https to http")
            url = moved
        raise Unreachable(f"{name}: the server sends on more than {REDIRECTS} times")

    def _answer(
        self, name: str, url: SplitResult, headers: dict[str, str], most: int
    ) -> http.client.HTTPResponse:
        host = url.netloc.rpartition("@")[2]
        headers = {**headers, "Host": host, "User-Agent": "belay", **self._credentials(url)}
        path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        proxy = self._proxy(url)
        if proxy and url.scheme == "http":
            path, headers = f"http://{host}{path}", headers | _basic(proxy, "Proxy-Authorization")
        try:
            kept = self._kept is not None and self._kept[0] == url[:2]
            try:
                return self._ask(url, path, headers, most)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                if not kept:
                    raise
                # The server let go of the kept connection, as it may at any time.
                self._drop()
                return self._ask(url, path, headers, most)
        except UpdateError:
            self._drop()
            raise
        # ValueError: of a name that no host can have, or a header that no request can.
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop()
            # Not the server itself may be what can't be reached.
            other = proxy or (url if url.netloc != self._url.netloc else None)
            by = f"{other.scheme}://{other.hostname}: " if other else ""
            raise Unreachable(f"{name}: {by}{_words(error)}") from None

    def _ask(
        self, url: SplitResult, path: str, headers: dict[str, str], most: int
    ) -> http.client.HTTPResponse:
        connection = self._connection(url, most)
        connection.request("GET", path, headers=headers)
        return connection.getresponse()

    def _connection(self, url: SplitResult, most: int) -> http.client.HTTPConnection:
        """A connection to the host of `url`, on which an answer with so much of a body may come."""
        if self._kept and (self._kept[0] != url[:2] or self._kept[1].sock is None):
            self._drop()
        if not self._kept:
            connection, line = http.client.HTTPConnection(*_address(url)), self._connect(url)
            connection.sock = line  # as much of one as is used
            self._kept = url[:2], connection, line
        _, connection, line = self._kept
        line.begin(most)
        return connection

    def _credentials(self, url: SplitResult) -> dict[str, str]:
        """What the server itself is told, and no other to which it sends on."""
        token = self._access.token
        if url[:2] != self._url[:2]:
            return {}
        if not token:
            return _basic(url)
        try:
            return {"Authorization": f"Bearer {token.read_text(encoding='ascii').strip()}"}
        except (OSError, ValueError):
            raise UpdateError(f"{token} holds no token: one line of ASCII is wanted") from None

    def _end(self, response: http.client.HTTPResponse) -> None:
        """Keep the connection for the next request only where nothing of this one is left on it."""
        left = response.length != 0
        response.close()
        if left:
            self._drop()

    def _drop(self) -> None:
        if self._kept:
            self._kept[1].close()
        self._kept = None

    def _pieces(self, path: str, response: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
        """At most `most` bytes of a body, not faster than the limit."""
        start, received = time.monotonic(), 0
        try:
            while received < most and (data := response.read1(min(PIECE, most - received))):
                received += len(data)
                yield data
                limit = self._access.limit
                early = received / limit - (time.monotonic() - start) if limit else 0
                if early > 0:
                    self._sleep(early)
                    if self._kept:
                        self._kept[2].paused += early
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise Unreachable(
                f"{self.name}/{path}: {_words(error)} after {received} bytes"
            ) from None
        except BaseException:
            self._drop()
            raise

    # --- the way to it ---

    def _proxy(self, url: SplitResult) -> SplitResult | None:
        """The proxy for a URL, if there is to be one."""
        host = (url.hostname or "").lower()
        for name in self._access.no_proxy.lower().split(","):
            if name.strip() and (host == name.strip() or host.endswith("." + name.strip(" ."))):
                return None
        if not self._access.proxy:
            return None
        proxy = split_url(self._access.proxy)
        if proxy.scheme != "http":
            raise UpdateError(f"the proxy {proxy.hostname} is to be reached by http://, not https")
        return proxy

    def _connect(self, url: SplitResult) -> _Line:
        proxy = self._proxy(url)
        while True:
            sock = self._dial(_address(proxy or url))
            try:
                if url.scheme == "https":
                    if proxy:
                        self._tunnel(sock, proxy, url)
                    sock.settimeout(TIMEOUT_S)
                    sock = self._tls.wrap_socket(sock, server_hostname=url.hostname)
                return _Line(sock, self._look)
            except ssl.SSLCertVerificationError as error:
                sock.close()
                if error.verify_code not in OUT_OF_DATE or self._without_dates:
                    raise
                # Who it is, is still looked at, and what it sends is signed.
                self._without_dates = True
                self._say(
                    f"the clock and the certificate of {url.hostname} disagree "
                    f"({error.verify_message}): its dates are not looked at"
                )
            except BaseException:
                sock.close()
                raise

    def _dial(self, address: tuple[str, int]) -> socket.socket:
        """A connection to a host, by the first of its addresses that answers; all within TIMEOUT_S.

        Each has its share of the time that is left. Raises OSError.
        """
        host, port = address
        left: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        end, problem = time.monotonic() + TIMEOUT_S, OSError(f"{host} has no address")
        while left:
            family, kind, protocol, _, peer = left.pop(0)
            sock = socket.socket(family, kind, protocol)
            try:
                self._await(sock, peer, max(1.0, (end - time.monotonic()) / (len(left) + 1)))
                return sock
            except OSError as error:
                sock.close()
                problem = error
            except BaseException:
                sock.close()
                raise
        raise problem

    def _await(self, sock: socket.socket, peer: Any, seconds: float) -> None:
        """Connect, and look meanwhile whether somebody waits. Raises OSError."""
        sock.setblocking(False)
        code, end = sock.connect_ex(peer), time.monotonic() + seconds
        while code in (errno.EINPROGRESS, errno.EAGAIN):
            self._look()
            if time.monotonic() >= end:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            _, ready, _ = select.select([], [sock], [], min(SLICE_S, seconds))
            if ready:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _tunnel(self, sock: socket.socket, proxy: SplitResult, url: SplitResult) -> None:
        line = _Line(sock, self._look)
        line.begin(0)
        host, port = _address(url)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        head = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        head += [f"{name}: {value}" for name, value in _basic(proxy, "Proxy-Authorization").items()]
        line.sendall("\r\n".join([*head, "", ""]).encode("ascii"))
        response = http.client.HTTPResponse(line, method="CONNECT")  # type: ignore[arg-type]
        response.begin()
        if response.status != http.client.OK:
            answer = printable(f"{response.status} {response.reason}", REASON_MAX)
            raise OSError(f"the proxy {proxy.hostname} answered {answer}")

    @property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._access.authorities:
            self._trust(context, self._access.authorities)
        if self._without_dates:
            context.verify_flags |= NO_CHECK_TIME
        return context

    def _trust(self, context: ssl.SSLContext, file: Path) -> None:
        """Trust the certificates of a file; those that are none stop none of the others."""
        try:
            found = CERTIFICATE.findall(file.read_text(errors="replace"))
        except OSError as error:
            raise UpdateError(f"{file} can't be read: {error.strerror}") from None
        good = 0
        for number, text in enumerate(found, 1):
            try:
                context.load_verify_locations(cadata=text)
                good += 1
            except ssl.SSLError as error:
                self._say(f"{file}: certificate {number} is damaged: {_words(error)}")
        if not good:
            raise UpdateError(f"{file} holds no certificate that can be read")


class _Line:
    """The socket of a connection. What comes by it is counted and timed."""

    def __init__(self, sock: socket.socket, look: Callable[[], None]) -> None:
        self._sock, self._look = sock, look
        self._readers, self._closing = 0, False
        self.paused = 0.0  # seconds in which nothing was asked for

    def begin(self, most: int) -> None:
        """An answer begins, with a body of at most so many bytes."""
        self._start, self._come, self.paused = time.monotonic(), 0, 0.0
        self._most = AROUND + 2 * most

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(TIMEOUT_S)
        self._sock.sendall(data)

    def take(self, room: Any) -> int:
        """Bytes that come; how many. Raises OSError."""
        self._sock.settimeout(SLICE_S)
        idle = 0.0
        while True:
            self._look()
            seconds = time.monotonic() - self._start - self.paused
            if seconds > GRACE_S and self._come < SLOWEST * seconds:
                raise OSError(f"{self._come} bytes in {seconds:.0f} s: slow")
            try:
                count = self._sock.recv_into(room)
            except TimeoutError:
                idle += SLICE_S
                if idle >= TIMEOUT_S:
                    raise
                continue
            self._come += count
            if self._come > self._most:
                raise OSError(f"more than {self._most} bytes come for one answer")
            return count

    # As http.client wants it: the socket lives as long as it or a reader does.

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._readers += 1
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        self._closing = True
        self.leave(0)

    def leave(self, readers: int = 1) -> None:
        self._readers -= readers
        if self._closing and not self._readers:
            self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, line: _Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        return self._line.take(room)

    def close(self) -> None:
        if not self.closed:
            self._line.leave()
        super().close()


def split_url(url: str) -> SplitResult:
    """A URL in its parts. Raises UpdateError where it is none that a node can ask."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        good = good and url.isascii() and url.isprintable() and " " not in url
    except ValueError:  # a port that is none, or half of an IPv6 address
        good = False
    if not good:
        shown = printable(url, REASON_MAX)
        raise UpdateError(
            f"{shown} is no URL like https://example.org/belay or http://[fd00::1]:8080"
        )
    return parts


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _basic(url: SplitResult, name: str = "Authorization") -> dict[str, str]:
    """The user and the password in a URL, as a header."""
    if url.username is None:
        return {}
    words = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
    return {name: f"Basic {b64encode(words).decode()}"}


def _tag(response: http.client.HTTPResponse) -> str:
    """The tag of a file; nothing where it is none, or may be that of the next file too.

    Web servers make it of the second in which a file changed, which may not be over yet.
    """
    tag = response.headers.get("ETag", "")
    changed, now = (response.headers.get(name, "") for name in ("Last-Modified", "Date"))
    if changed and now:
        try:
            age = parsedate_to_datetime(now) - parsedate_to_datetime(changed)
        except (TypeError, ValueError, OverflowError):  # no dates, or one without a zone
            return ""
        if age.total_seconds() < SETTLED_S:
            return ""
    return tag if ETAG.fullmatch(tag) else ""


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
