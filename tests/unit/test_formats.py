"""The formats that builder and node share."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updater import grubenv, slot
from updater.grubenv import BootState, SlotState

SLOT_STATES = st.builds(
    SlotState, st.sampled_from(["good", "trial", "bad"]), st.integers(0, grubenv.TRIES["good"])
)
BOOT_STATES = st.builds(
    BootState,
    order=st.sampled_from([("a", "b"), ("b", "a")]),
    slots=st.fixed_dictionaries({"a": SLOT_STATES, "b": SLOT_STATES}),
    last_good=st.sampled_from("ab"),
    next=st.sampled_from(["", "a", "b"]),
    rescues=st.integers(0, 3),
    why=st.sampled_from(["none", "gate", "deadline", "panic"]),
)


@given(BOOT_STATES)
def test_a_boot_state_is_read_as_it_was_written(state: BootState) -> None:
    assert grubenv.parse(grubenv.render(state)) == state


@given(BOOT_STATES, BOOT_STATES)
def test_a_torn_write_is_the_old_state_or_the_new(old: BootState, new: BootState) -> None:
    first, second = grubenv.render(old), grubenv.render(new)
    assert grubenv.parse(first[:512] + second[512:]) == old
    assert grubenv.parse(second[:512] + first[512:]) == new


@given(st.binary(max_size=1024))
def test_damage_behind_the_header_gives_a_state_that_is_allowed(data: bytes) -> None:
    state = grubenv.parse(grubenv.HEADER.encode() + data)
    assert grubenv.parse(grubenv.render(state)) == state


@pytest.mark.parametrize("data", [b"", bytes(1024), b"\xff" * 1024])
def test_what_is_no_environment_block_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no GRUB environment block"):
        grubenv.parse(data)


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
