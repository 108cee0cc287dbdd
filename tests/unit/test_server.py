"""A web server that is slow, broken, hostile, or behind something."""

from __future__ import annotations

import datetime
import email.utils
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from updater import server as server_module
from updater.errors import GaveWay, Unreachable, UpdateError
from updater.server import Access, Server

Talk = Callable[[socket.socket, bytes], None]  # with whom, and the head of what it asks
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


@contextmanager
def talking(talk: Talk, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A server at a port, which answers each request by `talk`; the heads of the requests."""
    heads: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with suppress(OSError), tls.wrap_socket(sock, server_side=True) if tls else sock as line:
            while head := head_of(line):
                heads.append(head)
                talk(line, head)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1], heads
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def head_of(line: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (data := line.recv(1)):
            return b""
        head += data
    return head


def saying(*answers: bytes) -> Talk:
    """These, one after the other; then the last one again."""
    left = list(answers)

    def talk(line: socket.socket, _head: bytes) -> None:
        line.sendall(left.pop(0) if len(left) > 1 else left[0])

    return talk


def endlessly(head: bytes, piece: bytes, pause_s: float = 0) -> Talk:
    def talk(line: socket.socket, _head: bytes) -> None:
        line.sendall(head)
        while True:
            line.sendall(piece)
            time.sleep(pause_s)

    return talk


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GRACE_S": 0.3, "SLICE_S": 0.05, "TIMEOUT_S": 2}.items():
        monkeypatch.setattr(server_module, name, value)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (endlessly(b"", b"H", 0.02), "slow"),
        (endlessly(OK, b"X: y\r\n", 0.02), "slow"),
        (endlessly(OK + b"Content-Length: 100\r\n\r\n", b"x", 0.02), "slow"),
        (endlessly(CHUNKED, b"1\r\nx\r\n", 0.02), "slow"),
        (endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "more than [0-9]+ bytes come"),
        (endlessly(CHUNKED, b"1;" + b"x" * 60_000 + b"\r\nx\r\n"), "more than [0-9]+ bytes come"),
        (endlessly(CHUNKED + b"0\r\n", b"X: " + b"y" * 60_000 + b"\r\n"), "more than [0-9]+ byt"),
        (endlessly(OK, b"X: " + b"y" * 60_000 + b"\r\n"), "got more than 100 headers|more than"),
        (lambda line, _: time.sleep(5), "timed out|0 bytes in 0 s: slow"),
        (lambda line, _: line.close(), "closed connection|RemoteDisconnected"),
        (saying(b"\0\xff\r\n\r\n"), "BadStatusLine|\\?"),
        (saying(OK + b"Content-Length: 9\r\n\r\nshort"), "after 5 bytes|timed out"),
    ],
    ids=[
        "a slow status", "slow headers", "a slow body", "slow chunks", "100 for ever",
        "chunk extensions", "trailers", "headers", "silence", "nothing", "rubbish", "a short body",
    ],
)  # fmt: skip
def test_it_holds_nobody_for_long(talk: Talk, reason: str) -> None:
    start = time.monotonic()
    with talking(talk) as (port, _), pytest.raises(Unreachable, match=reason) as raised:
        Server(f"http://127.0.0.1:{port}/belay").get("channels/stable", 16 << 10)
    assert time.monotonic() - start < 20
    assert str(raised.value).startswith(f"http://127.0.0.1:{port}/belay/channels/stable: ")


def test_its_words_reach_nobody_as_they_are() -> None:
    words = b"HTTP/1.1 500 \x1b[2J\x07" + b"very bad " * 7000 + b"\r\n\r\n"
    with talking(saying(words)) as (port, _), pytest.raises(Unreachable) as raised:
        Server(f"http://127.0.0.1:{port}").get("x", 10)
    output = str(raised.value)
    assert "answered 500 ?[2J?very bad" in output
    assert len(output) < 200 and output.isprintable()


@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        (b'"5f-2a"', '"5f-2a"'),
        (b'W/"x"', 'W/"x"'),
        (b"*", ""),
        (b'"' + b"x" * 60_000 + b'"', ""),
        (b"5f-2a", ""),
        (b'"a", "b"', ""),
        (b'"\xff"', ""),
    ],
)
def test_a_tag_that_is_none_is_not_kept(tag: bytes, kept: str) -> None:
    answer = OK + b"ETag: " + tag + b"\r\nContent-Length: 5\r\n\r\nhello"
    with talking(saying(answer)) as (port, _):
        assert Server(f"http://127.0.0.1:{port}").get("x", 10) == (b"hello", kept)


@pytest.mark.parametrize(("age_s", "kept"), [(0, ""), (1, ""), (2, '"5f-2a"'), (3600, '"5f-2a"')])
def test_the_tag_of_a_file_that_may_change_within_its_second_is_not_kept(
    age_s: int, kept: str
) -> None:
    """nginx makes it of seconds and length."""
    times = [
        email.utils.formatdate(1_800_000_000 + after, usegmt=True).encode() for after in (0, age_s)
    ]
    head = OK + b'ETag: "5f-2a"\r\nLast-Modified: %s\r\nDate: %s\r\n' % (*times,)
    with talking(saying(head + b"Content-Length: 5\r\n\r\nhello")) as (port, _):
        assert Server(f"http://127.0.0.1:{port}").get("x", 10) == (b"hello", kept)


@pytest.mark.parametrize(
    "date",
    [
        b"Mon, 99999999999999999999 Jan 2024 00:00:00 GMT",
        b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        b"Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        b"0",
        b"\xff",
    ],
)
def test_dates_that_are_none_are_no_reason_to_stop(date: bytes) -> None:
    for changed, now in ((date, b"Mon, 01 Jan 2024 00:00:00 GMT"), (date, date)):
        head = OK + b'ETag: "5f-2a"\r\nLast-Modified: %s\r\nDate: %s\r\n' % (changed, now)
        with talking(saying(head + b"Content-Length: 5\r\n\r\nhello")) as (port, _):
            assert Server(f"http://127.0.0.1:{port}").get("x", 10) == (b"hello", "")


def moved(url: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


def test_redirects_are_followed_and_the_token_stays(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with talking(saying(HELLO)) as (other, far):
        elsewhere = moved(f"http://localhost:{other}/y?z=1")
        with talking(saying(moved("/belay/second"), elsewhere, HELLO)) as (port, here):
            server = Server(
                f"http://127.0.0.1:{port}/belay", access=Access(token=tmp_path / "token")
            )
            assert server.get("x", 10) == (b"hello", "")
            assert server.get("x", 10) == (b"hello", "")
    assert [head.split(b"\r\n")[0] for head in here] == [
        b"GET /belay/x HTTP/1.1", b"GET /belay/second HTTP/1.1", b"GET /belay/x HTTP/1.1"
    ]  # fmt: skip
    assert all(b"Authorization: Bearer s3cret\r\n" in head for head in here)
    assert far[0].startswith(b"GET /y?z=1 HTTP/1.1\r\n")
    assert b"Authorization" not in far[0] and f"Host: localhost:{other}".encode() in far[0]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/x", "sends on more than 5 times"),
        ("ftp://x/y", "sends on to ftp://x/y, no URL"),
        ("http://[::1/x", "no URL"),
        ("http://a..b/", "label empty or too long"),
        (f"http://{'x' * 64}.org/", "label empty or too long|label too long"),
        ("https://.example.org/", "label empty or too long|no URL"),
        ("http://x:port/", "no URL"),
        ("", "answered 302 Found"),
    ],
)
def test_a_redirect_that_leads_nowhere(place: str, reason: str) -> None:
    with talking(saying(moved(place))) as (port, heads), pytest.raises(Unreachable, match=reason):
        Server(f"http://127.0.0.1:{port}").get("x", 10)
    assert len(heads) <= 6


@pytest.mark.parametrize(
    "url",
    [
        "http://", "http://:80", "http://host:port", "http://host:0", "http://host:99999",
        "http://[::1", "http://a b/", "http://x\x1b[2J/", "ftp://host/", "https://ex\u00e4mple.org",
    ],
)  # fmt: skip
def test_an_odd_url_is_a_sentence(url: str) -> None:
    with pytest.raises(UpdateError, match=r"is no URL like https://example.org/belay"):
        Server(url)


def test_ipv6_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(host: str, port: int, **_: object) -> None:
        asked.append((host, port))
        raise OSError("no route")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for url in ("http://[fd00::1]:8080/belay", "https://[fd00::1]"):
        with pytest.raises(Unreachable, match="no route"):
            Server(url).get("x", 10)
    assert asked == [("fd00::1", 8080), ("fd00::1", 443)]


@pytest.mark.usefixtures("impatient")
def test_who_waits_for_it_may_be_called_away() -> None:
    def look() -> None:
        raise UpdateError("somebody else is waiting")

    with (
        talking(lambda line, _: time.sleep(5)) as (port, _),
        pytest.raises(UpdateError, match="somebody else"),
    ):
        Server(f"http://127.0.0.1:{port}", look=look).get("x", 10)


# --- behind TLS, and behind a proxy ---


class Authority:
    """Signs certificates for servers; `file` has its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        own = self._signed(self._name, self._key.public_key(), 3650, ca=True)
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        days: int,
        *,
        ca: bool,
        host: str = "",
    ) -> x509.Certificate:
        """Good from `days` before to `days` after today; from then on where that is negative."""
        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - abs(days) * day if days > 0 else now - 9 * day)
            .not_valid_after(now + days * day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if host:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def context(self, host: str = "127.0.0.1", days: int = 30) -> ssl.SSLContext:
        """What a server needs that is to be `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        file = self.folder / "server.pem"
        file.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
            + self._signed(name, key.public_key(), days, ca=False, host=host).public_bytes(pem)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_an_authority_of_ones_own(authority: Authority, tmp_path: Path) -> None:
    with talking(saying(HELLO), authority.context()) as (port, _):
        url, own = f"https://127.0.0.1:{port}", Access(authorities=authority.file)
        assert Server(url, access=own).get("x", 10) == (b"hello", "")
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            Server(url).get("x", 10)
        (tmp_path / "none").write_text("no certificate")
        with pytest.raises(UpdateError, match="none holds no certificate that can be read"):
            Server(url, access=Access(authorities=tmp_path / "none")).get("x", 10)


def test_a_damaged_certificate_stops_none_of_the_others(
    authority: Authority, tmp_path: Path
) -> None:
    good, output = authority.file.read_text(), list[str]()
    bad = good.replace("MII", "AAA", 1)
    (tmp_path / "both").write_text(f"{bad}\n# mine\n{good}\n{good[:100]}")
    with talking(saying(HELLO), authority.context()) as (port, _):
        own = Access(authorities=tmp_path / "both")
        server = Server(f"https://127.0.0.1:{port}", access=own, say=output.append)
        assert server.get("x", 10) == (b"hello", "")
    assert len(output) == 1 and "both: certificate 1 is damaged" in output[0]


def test_dates_alone_end_no_updates(authority: Authority) -> None:
    """A node's clock may be wrong; what it takes is signed."""
    output: list[str] = []
    own = Access(authorities=authority.file)
    with talking(saying(HELLO), authority.context(days=-2)) as (port, _):
        server = Server(f"https://127.0.0.1:{port}", access=own, say=output.append)
        assert server.get("x", 10) == (b"hello", "")
        assert server.get("x", 10) == (b"hello", "")
    assert output == [
        "the clock and the certificate of 127.0.0.1 disagree (certificate has expired): "
        "its dates are not looked at"
    ]
    for host, access in (("127.0.0.2", own), ("127.0.0.1", Access())):
        with (
            talking(saying(HELLO), authority.context(host, days=-2)) as (port, _),
            pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            Server(f"https://127.0.0.1:{port}", access=access).get("x", 10)


def test_nothing_sends_on_from_https_to_http(authority: Authority) -> None:
    with talking(saying(moved("http://127.0.0.1:1/")), authority.context()) as (port, _):
        server = Server(f"https://127.0.0.1:{port}", access=Access(authorities=authority.file))
        with pytest.raises(Unreachable, match="sends on from https to http"):
            server.get("x", 10)


def proxying(refuses: bool = False, pause_s: float = 0) -> Talk:
    """A proxy, as far as tunnels go; other requests it answers itself."""

    def talk(line: socket.socket, head: bytes) -> None:
        verb, address, _ = head.split(b" ", 2)
        if verb != b"CONNECT" or refuses:
            line.sendall(b"HTTP/1.1 407 No\x1b[1m way\r\n\r\n" if refuses else HELLO)
            return
        host, _, port = address.decode().rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            line.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
            time.sleep(pause_s)
            back = threading.Thread(target=pass_on, args=[far, line])
            back.start()
            pass_on(line, far)
            back.join()

    return talk


def pass_on(near: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := near.recv(4096):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def test_a_proxy(authority: Authority) -> None:
    with talking(proxying()) as (proxy, heads):
        access = Access(proxy=f"http://me:p%20w@127.0.0.1:{proxy}", authorities=authority.file)
        assert Server("http://example.org/belay", access=access).get("x", 10) == (b"hello", "")
        assert heads[0].startswith(b"GET http://example.org/belay/x HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6cCB3\r\n" in heads[0]
        with talking(saying(HELLO), authority.context()) as (port, direct):
            server = Server(f"https://127.0.0.1:{port}", access=access)
            assert server.get("x", 10) == (b"hello", "")
            assert server.get("x", 10) == (b"hello", "")
            assert heads[1].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n".encode())
            assert b"Proxy-Authorization: Basic bWU6cCB3\r\n" in heads[1]
            assert b"Proxy-Authorization" not in direct[0], "that is the proxy's business"
            assert len(heads) == 2 and len(direct) == 2, "one tunnel for both"
        with talking(saying(HELLO)) as (port, direct):
            near = access._replace(no_proxy="example.org, 0.0.1,127.0.0.1")
            Server(f"http://127.0.0.1:{port}", access=near).get("x", 10)
            assert len(heads) == 2 and len(direct) == 1


def test_a_slow_proxy_leaves_time_for_what_comes_after_it(authority: Authority) -> None:
    with (
        talking(saying(HELLO), authority.context()) as (port, _),
        talking(proxying(pause_s=1.5)) as (proxy, _),
    ):
        access = Access(f"http://127.0.0.1:{proxy}", authorities=authority.file)
        assert Server(f"https://127.0.0.1:{port}", access=access).get("x", 10) == (b"hello", "")


def test_who_can_t_be_reached_is_named() -> None:
    with pytest.raises(Unreachable, match=r"a\.org/x: http://127\.0\.0\.1: .*refused"):
        Server("http://a.org", access=Access("http://127.0.0.1:1")).get("x", 10)
    with (
        talking(saying(moved("http://127.0.0.2:1/x"))) as (port, _),
        pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{port}/x: http://127\.0\.0\.2: .*refused"),
    ):
        Server(f"http://127.0.0.1:{port}").get("x", 10)


def test_one_address_that_is_silent_costs_no_other_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And all of them together have the time of one; who waits is not held."""
    monkeypatch.setattr(server_module, "TIMEOUT_S", 2.0)
    full = socket.create_server(("127.0.0.3", 0), backlog=0)
    waiting = [socket.socket() for _ in range(3)]
    for waiter in waiting:  # nobody accepts them, so that further ones get no answer
        waiter.setblocking(False)
        waiter.connect_ex(full.getsockname())
    silent = (socket.AF_INET, socket.SOCK_STREAM, 6, "", full.getsockname())
    with talking(saying(HELLO)) as (port, _):
        good = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        addresses = [silent, silent, good]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(addresses))
        start = time.monotonic()
        assert Server("http://many.example").get("x", 10) == (b"hello", "")
        addresses[:] = [silent] * 8
        with pytest.raises(Unreachable, match="timed out"):
            Server("http://many.example").get("x", 10)
        assert time.monotonic() - start < 20

        def look() -> None:
            raise GaveWay("somebody waits")

        start = time.monotonic()
        with pytest.raises(GaveWay):
            Server("http://many.example", look=look).get("x", 10)
        assert time.monotonic() - start < 2
    for waiter in (*waiting, full):
        waiter.close()


def test_a_proxy_that_refuses() -> None:
    with talking(proxying(refuses=True)) as (proxy, _):
        access = Access(proxy=f"http://127.0.0.1:{proxy}")
        with pytest.raises(Unreachable, match=r"the proxy 127.0.0.1 answered 407 No\?\[1m way"):
            Server("https://example.org", access=access).get("x", 10)
    with pytest.raises(UpdateError, match="the proxy x is to be reached by http://"):
        Server("http://y", access=Access(proxy="https://x")).get("x", 10)
