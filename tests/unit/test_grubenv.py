"""The boot state in GRUB's environment block."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updater import contract, grubenv
from updater.contract import TRIES
from updater.formats import VERSION
from updater.grubenv import BootState, SlotState

SLOT_STATES = st.builds(
    SlotState,
    st.sampled_from(["good", "trial", "bad"]),
    st.integers(0, contract.TRIES[contract.GOOD]),
)
BOOT_STATES = st.builds(
    BootState,
    order=st.sampled_from([("a", "b"), ("b", "a")]),
    slots=st.fixed_dictionaries({"a": SLOT_STATES, "b": SLOT_STATES}),
    last_good=st.sampled_from("ab"),
    next=st.sampled_from(["", "a", "b"]),
    rescues=st.integers(0, 3),
    data=st.sampled_from(["", "lost"]),
    why=st.sampled_from(["none", "gate", "deadline", "panic"]),
    tried=st.from_regex(VERSION, fullmatch=True),
)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (b"order=b a\n", {"order": ("b", "a")}),
        (b"order=b  a\n", {}),
        (b"order=b a\r\n", {}),
        (b"\norder=b a\n", {}),  # a name may have the end of a line in it
        (b"junk\norder=b a\n", {}),
        (b"junk\n#\norder=b a\n", {}),
        (b"#=\norder=b a\n", {"order": ("b", "a")}),
        (b"junk=\norder=b a\n", {"order": ("b", "a")}),
        (b"order=b a", {}),  # has no end
        (b"order=b\\ a\n", {"order": ("b", "a")}),
        (b"order=b a\\\n\n", {}),
        (b"order=b a\0more\n", {"order": ("b", "a")}),
        (b"order\0more=b a\n", {"order": ("b", "a")}),
        (b"order=a b\norder=b a\n", {"order": ("b", "a")}),
        (b"a_state=god\n", {"a": SlotState("bad", TRIES["good"])}),
        (b"a_state=\n", {"a": SlotState("bad", TRIES["good"])}),
        (b"a_state=trial\n", {"a": SlotState("trial", TRIES["good"])}),
        (b"a_tries=%d\n" % (TRIES["good"] + 1), {"a": SlotState("good", 0)}),
        (b"a_tries=08\n", {"a": SlotState("good", 0)}),
        (b"a_tries=-1\n", {"a": SlotState("good", 0)}),
        (b"rescues=7\n", {"rescues": 3}),
        (b"rescues=\n", {"rescues": 3}),
        (b"last_good=c\nnext=c\nwhy=c\n", {}),
        (b"last_good=b\nnext=b\n", {"last_good": "b", "next": "b"}),
        (b"x=1\n" + b"#" * 600 + b"\nnext=b\n", {"next": "b"}),  # in the second sector
    ],
)
def test_a_damaged_block_means_what_grub_makes_of_it(text: bytes, changes: dict[str, Any]) -> None:
    block = (grubenv.HEADER.encode() + text).ljust(grubenv.SIZE, b"#")
    slots = {name: changes.pop(name, SlotState()) for name in contract.SLOTS}
    assert grubenv.parse(block) == BootState(slots=slots, **changes)


@given(BOOT_STATES)
def test_a_boot_state_is_read_as_it_was_written(state: BootState) -> None:
    assert grubenv.parse(grubenv.render(state)) == state


@given(BOOT_STATES, BOOT_STATES)
def test_a_torn_write_is_the_old_state_or_the_new(old: BootState, new: BootState) -> None:
    first, second = grubenv.render(old), grubenv.render(new)
    assert grubenv.parse(first[:512] + second[512:]) == old
    assert grubenv.parse(second[:512] + first[512:]) == new


@given(st.binary(max_size=999))
def test_damage_behind_the_header_gives_a_state_that_is_allowed(data: bytes) -> None:
    state = grubenv.parse((grubenv.HEADER.encode() + data).ljust(grubenv.SIZE, b"#"))
    assert grubenv.parse(grubenv.render(state)) == state


@pytest.mark.parametrize("data", [b"", bytes(1024), b"\xff" * 1024])
def test_what_is_no_environment_block_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no GRUB environment block"):
        grubenv.parse(data)
