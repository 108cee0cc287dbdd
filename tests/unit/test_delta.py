"""Chunks made of the active slot and a residual: the node's side, and what the builder packs."""

from __future__ import annotations

import lzma
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import bsdiff4.core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.releases import deltas, ranges
from builder.releases.deltas import pack, subtracted, unpacked_piece
from builder.releases.ranges import Range, cut, ordered
from updater.delta import DICTIONARY, RANGES_MAX, SLICE, add, made
from updater.errors import Mismatch

TOO_MANY = [0] * (RANGES_MAX + 10)
OLD = random.Random(1).randbytes(5000)


def raw_piece(
    gaps: Sequence[int], lengths: Sequence[int], seeks: Sequence[int], rest: bytes
) -> bytes:
    count = len(gaps)
    head = struct.pack(f"<I{count}I{count}I{count}q", count, *gaps, *lengths, *seeks)
    return packed(head + rest)


def packed(raw: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": DICTIONARY}]
    return lzma.compress(raw, lzma.FORMAT_RAW, filters=filters)


def read(offset: int, size: int) -> bytes:
    return OLD[offset : offset + size]


@given(st.binary(max_size=3 * SLICE), st.randoms())
def test_what_is_subtracted_is_added_again(data: bytes, dice: random.Random) -> None:
    other = dice.randbytes(len(data))
    residual = subtracted(data, other)
    assert residual == bytes((a - b) % 256 for a, b in zip(data, other, strict=True))
    chunk = bytearray(other)
    add(chunk, residual.rstrip(b"\0"))
    assert chunk == data


RANGES = st.lists(
    st.builds(Range, st.integers(0, 3999), st.integers(0, 4000), st.integers(1, 900)), max_size=20
).map(lambda found: ordered(item._replace(size=min(item.size, 4000 - item.new)) for item in found))


@given(RANGES, st.binary(min_size=4000, max_size=4000), st.integers(1, 5000))
def test_a_chunk_is_made_again(ranges: list[Range], data: bytes, at: int) -> None:
    prediction = bytearray(len(data))
    for new, old, size in ranges:
        prediction[new : new + size] = OLD[old : old + size]
    piece = pack(unpacked_piece(ranges, at, subtracted(data, bytes(prediction))))
    assert made(piece, at, len(data), read) == data


@given(RANGES, st.integers(1, 999))
def test_ranges_are_cut_at_the_borders_of_chunks(ranges: list[Range], step: int) -> None:
    def sources(found: Sequence[Range], base: int = 0) -> dict[int, int]:
        return {base + item.new + at: item.old + at for item in found for at in range(item.size)}

    parts = cut(ranges, 4000, step)
    together: dict[int, int] = {}
    for number, part in enumerate(parts):
        assert all(item.new + item.size <= step for item in part)
        together |= sources(part, number * step)
    assert together == sources(ranges)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 50)), max_size=9))
def test_ordered_ranges_don_t_overlap(found: list[tuple[int, int, int]]) -> None:
    ranges = [Range(*item) for item in found]
    kept = ordered(ranges)
    covered = [at for item in kept for at in range(item.new, item.new + item.size)]
    assert covered == sorted(
        {at for item in ranges for at in range(item.new, item.new + item.size)}
    )
    wanted = {
        (at, item.old - item.new) for item in ranges for at in range(item.new, item.new + item.size)
    }
    assert {
        (at, item.old - item.new) for item in kept for at in range(item.new, item.new + item.size)
    } <= wanted


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        (b"", "wrong length"),
        (packed(b"\1\0"), "wrong length"),
        (b"\xff" * 40, "can't be unpacked"),
        (packed(b"\0" * 4 + b"x" * 101), "wrong length"),  # a residual longer than the chunk
        (packed(b"\0" * (64 << 20)), "wrong length"),  # a bomb
        (packed(b"\xff\xff\xff\xff" + b"x" * 80), "wrong length"),
        (raw_piece([0], [101], [0], b""), "lies outside"),
        (raw_piece([90], [20], [0], b""), "lies outside"),
        (raw_piece([0xFFFFFFFF], [1], [0], b""), "lies outside"),
        (raw_piece([0, 0], [60, 60], [0, 0], b""), "lies outside"),
        (raw_piece([0], [10], [-11], b""), "lies outside"),
        (raw_piece([0], [10], [(1 << 63) - 1], b""), "lies outside"),
        (raw_piece([0], [10], [4985], b""), "has no bytes"),
        (raw_piece(TOO_MANY, TOO_MANY, TOO_MANY, b""), "wrong length"),
    ],
)
def test_bad_pieces_make_nothing(piece: bytes, why: str) -> None:
    with pytest.raises(Mismatch, match=why):
        made(piece, 10, 100, read)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_make_a_chunk_or_nothing(raw: bytes) -> None:
    for piece in (raw, packed(raw)):
        try:
            chunk = made(piece, 10, 100, read)
        except Mismatch:
            continue
        assert len(chunk) == 100


def stored(raw: bytes) -> bytes:
    """Raw LZMA2 that holds `raw`, up to 64 KiB, as it is: quicker than an encoder."""
    return b"\1" + struct.pack(">H", len(raw) - 1) + raw + b"\0"


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_pieces_make_the_signed_bytes_or_none(seed: int) -> None:
    """50,000 with numbers and bytes that somebody changed, packed and as they come."""
    dice = random.Random(seed)
    head = struct.pack("<I3I3I3q", 3, 0, 5, 9, 20, 30, 10, 0, 700, -300)
    good = head + bytes(40) + dice.randbytes(20)
    wanted = made(stored(good), 1000, 100, read)
    odd = (0, 1, 3, 0x7F, 0x80, 0xFF)
    others = 0
    for number in range(50_000):
        raw = bytearray(good if number % 2 else stored(good))
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(raw))
            raw[at] = dice.choice(odd) if dice.random() < 0.7 else dice.randrange(256)
        if dice.random() < 0.1:
            del raw[dice.randrange(1, len(raw)) :]
        piece = stored(bytes(raw)) if number % 2 else bytes(raw)
        try:
            chunk = made(piece, 1000, 100, read)
        except Mismatch:
            continue
        assert len(chunk) == 100
        others += chunk != wanted  # such a chunk has another hash, and is not written
    assert others > 1000, "not all is refused by its form"


@given(st.randoms())
def test_what_repeats_is_not_compared(dice: random.Random) -> None:
    """Bsdiff takes hours for megabytes of one byte; what is left has to be found where it is."""

    def some() -> bytes:
        repeated = bytes(dice.randrange(9000)), b"abc" * dice.randrange(3000)
        return b"".join(
            dice.choice([*repeated, dice.randbytes(dice.randrange(2000))]) for _ in range(5)
        )

    old = some()
    cut_at = dice.randrange(len(old) + 1)
    new = old[:cut_at] + some() + old[cut_at:]
    for found in ranges._compared(old, new):
        assert found.size > 0 <= found.new <= len(new) - found.size
        assert 0 <= found.old <= len(old) - found.size
    assert all(size > 0 for _, _, size in ranges._telling(old))
    equal = list(ranges._compared(old, old))
    assert all(item.new == item.old for item in equal)
    assert sum(item.size for item in equal) == sum(size for _, _, size in ranges._telling(old))


def test_megabytes_of_zeros_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def diff(old: bytes, new: bytes) -> tuple[bytes, bytes, bytes]:
        compared.append(len(old) + len(new))
        return bsdiff4.core.diff(old, new)  # type: ignore[no-any-return]

    monkeypatch.setattr(ranges, "bsdiff4", SimpleNamespace(core=SimpleNamespace(diff=diff)))
    old = bytes(1 << 20) + b"a word" + bytes(2 << 20)
    found = list(ranges._compared(old, bytes(5) + old + bytes(1 << 20)))
    assert 0 < sum(compared) < 5000
    assert any(item.new <= (1 << 20) + 5 < item.new + item.size for item in found)


@pytest.mark.parametrize("damage", [b"", b"cut short", struct.pack("<3q", 0, 0, 1 << 40)])
def test_ranges_that_the_cache_lost_are_found_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    monkeypatch.setattr(ranges, "CACHED", tmp_path)
    old, new = b"as it was before " * 50, b"as it is after " + b"as it was before " * 50
    found = ranges.shared(old, new)
    (cached,) = tmp_path.iterdir()
    cached.write_bytes(damage)
    assert ranges.shared(old, new) == (found if damage else [])


def test_a_piece_that_the_cache_lost_is_packed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "CACHED", tmp_path)
    packed, _ = deltas._packed(b"new", 0, [Range(0, 0, 2)], read)
    (cached,) = tmp_path.iterdir()
    for damage in (b"", packed[:-3], deltas._packed(b"two", 0, [], read)[0]):
        cached.write_bytes(damage)
        assert deltas._packed(b"new", 0, [Range(0, 0, 2)], read)[0] == packed
        assert cached.read_bytes() == packed
