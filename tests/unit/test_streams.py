"""Compressed parts of a slot: unpacked through a window, packed again, taken in order."""

from __future__ import annotations

import random
import subprocess
import zlib
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updater import streams
from updater.errors import Mismatch, Unreachable
from updater.streams import BLOCK, GZIP, REACH, Taker, Window, by_busybox, by_zlib

CONTENT = b"".join(random.Random(n).randbytes(900) + bytes(900) for n in range(4000))
GAP = 77


def gzip(data: bytes) -> bytes:
    engine = zlib.compressobj(1, zlib.DEFLATED, GZIP)
    return engine.compress(data) + engine.flush()


PACKED = bytes(GAP) + gzip(CONTENT) + b"what is behind it"


def window(data: bytes = PACKED) -> Window:
    return Window(lambda at, size: data[at : at + size], GAP, len(data) - GAP - 17)


def test_a_window_moves_over_what_is_unpacked() -> None:
    found, size = window(), 1 << 20
    for at in range(0, len(CONTENT), size):
        found.move(at, size)
        low, high = max(0, at - REACH), min(len(CONTENT), at + size + REACH)
        for begin, end in ((low, low + 9), (at, at + 5000), (high - 7, high), (at + 3, at + 4)):
            assert found.read(begin, end - begin) == CONTENT[begin:end]
        assert len(found._held) <= size + 2 * REACH + BLOCK, "its memory is bounded"
        if low:
            assert found.read(low - 1, 5) == b"", "it is gone"
        if at + size + REACH < len(CONTENT):
            assert found.read(at + size + REACH - 4, 5) == b"", "it is out of reach"
    assert found.read(len(CONTENT) - 3, 9) in (b"", CONTENT[-3:])


@pytest.mark.parametrize("kind", ["cut", "flipped", "none", "bomb"])
def test_a_window_over_what_is_damaged(kind: str) -> None:
    data = bytearray(PACKED)
    data[GAP + 60_000] ^= 0xFF
    damaged = {"cut": PACKED[: GAP + 1000], "flipped": bytes(data), "none": bytes(9999)}
    found = window(damaged.get(kind, bytes(GAP) + gzip(bytes(200 << 20)) + bytes(17)))
    found.move(1 << 20, 1 << 20)
    try:
        assert found.read(0, 3 << 20) != CONTENT[: 3 << 20]
    except Mismatch:
        assert kind in ("flipped", "none")
    assert len(found._held) <= 3 * REACH + BLOCK


def take(taker: Taker, at: int, size: int) -> bytes:
    data = bytearray(size)
    taker.fill(at, memoryview(data))
    return bytes(data)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.data())
def test_what_is_taken_is_what_lies_there(pieces: list[bytes], data: st.DataObject) -> None:
    whole, at = b"".join(pieces), 0
    taker = Taker(piece for piece in pieces)
    while at < len(whole):
        at = data.draw(st.integers(at, len(whole)))
        size = data.draw(st.integers(0, len(whole) - at))
        for _ in range(data.draw(st.integers(0, 3))):
            assert taker.prepare(at, at + size) or taker.begin + len(taker._held) == len(whole)
        assert len(taker._held) <= max(0, at + size - taker.begin) + 50
        assert take(taker, at, size) == whole[at : at + size]
        at += size
        if not size:
            break
    with pytest.raises(Mismatch, match="ends too early"):
        take(taker, at, len(whole) + 1)


def pieces_of(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 70_000] for at in range(0, len(data), 70_000))


def test_zlib_packs_what_it_packed_before_however_it_comes() -> None:
    packed = b"".join(by_zlib(pieces_of(CONTENT)))
    assert packed == b"".join(by_zlib([CONTENT]))
    assert zlib.decompress(packed, GZIP) == CONTENT
    assert packed[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\3", "as the builder packs the initramfs"


@pytest.fixture
def gzip_for_busybox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BUSYBOX", ("gzip", "-9", "-n", "-c"))


@pytest.mark.usefixtures("gzip_for_busybox")
def test_another_process_packs_and_takes_no_memory_of_ours() -> None:
    assert zlib.decompress(b"".join(by_busybox(pieces_of(CONTENT))), GZIP) == CONTENT


@pytest.mark.usefixtures("gzip_for_busybox")
def test_what_fails_while_it_is_fed_is_told() -> None:
    def failing() -> Iterator[bytes]:
        yield CONTENT
        raise Unreachable("the line is cut")

    with pytest.raises(Unreachable, match="the line is cut"):
        list(by_busybox(failing()))


@pytest.mark.usefixtures("gzip_for_busybox")
def test_a_stream_that_is_closed_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []
    popen = subprocess.Popen

    def noted(*words: Any, **more: Any) -> Any:
        processes.append(popen(*words, **more))
        return processes[-1]

    monkeypatch.setattr("subprocess.Popen", noted)
    packed: Generator[bytes, None, None] = by_busybox(pieces_of(CONTENT))
    taker = Taker(packed)
    assert take(taker, 0, 2) == b"\x1f\x8b"
    taker.close()
    assert processes[0].returncode is not None


def test_without_busybox_there_is_no_such_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BUSYBOX", ("/nowhere/busybox",))
    with pytest.raises(Mismatch, match="can't be started"):
        next(by_busybox([b"x"]))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sleep 1000", "does nothing for 0.3 s"),
        ("head -c 100; sleep 1000", "does nothing for 0.3 s"),
        ("exec gzip -c; exit 3", None),
        ("cat >/dev/null; echo half; exit 3", "ended with exit code 3"),
        ("head -c 10 >/dev/null; exit 0", "before it had packed everything"),
        ("exec >&-; sleep 1000", "before it had packed everything"),
        ("cat >/dev/null; exec >&-; sleep 1000", "doesn't end"),
    ],
    ids=["hangs", "stands still", "well", "fails", "leaves", "closes", "closes late"],
)
def test_a_packer_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, script: str, message: str | None
) -> None:
    monkeypatch.setattr(streams, "BUSYBOX", ("sh", "-c", script))
    monkeypatch.setattr(streams, "PATIENCE_S", 0.3)
    packed = by_busybox(pieces_of(CONTENT))
    if message is None:
        assert b"".join(packed)
        return
    with pytest.raises(Mismatch, match=f"^sh .*{message}"):
        list(packed)
