"""The three parts of a slot image."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updater import slot


def squashfs(size: int) -> bytes:
    """The shape of a squashfs of `size` bytes, padded as mksquashfs does."""
    superblock = b"hsqs" + bytes(36) + struct.pack("<Q", size) + bytes(48)
    return superblock.ljust(-(-size // 4096) * 4096, b"\0")


@given(st.lists(st.integers(96, 50_000), min_size=3, max_size=3))
def test_the_parts_of_a_slot_are_found_by_their_own_lengths(sizes: list[int]) -> None:
    image = b"".join(squashfs(size) for size in sizes)
    found = slot.parts(lambda offset, size: image[offset : offset + size])
    assert [part.name for part in found] == ["boot", "root", "modloop"]
    assert found[0].offset == 0
    assert found[-1].offset + found[-1].size == len(image)


def test_an_empty_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="no root part at byte 4096"):
        image = squashfs(100)
        slot.parts(lambda offset, size: image[offset : offset + size])
