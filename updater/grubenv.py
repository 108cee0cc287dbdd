"""The boot state: which slot is booted next, and how often it is still tried.

It lives in `grubenv`, a file of 1024 bytes that GRUB and the node both rewrite in place. GRUB
writes it as two sectors, not at once; so everything that counts stays in the first 512 bytes, and a
torn write leaves either the old state or the new one. The rules that GRUB follows are in
`grub.cfg.in`.

Format: "environment block" in GRUB's manual, https://www.gnu.org/software/grub/manual/grub/
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from updater.contract import (
    BAD,
    GOOD,
    RESCUES,
    SLOTS,
    TRIAL,
    TRIES,
)

SIZE = 1024
FIRST_SECTOR = 512
HEADER = "# GRUB Environment Block\n"

WORD = re.compile(r"[0-9a-z.-]{0,64}")  # a version
VALUE = re.compile(rb"((?:[^\\\n]|\\.)*)\n", re.DOTALL)


class SlotState(NamedTuple):
    """What is known of a slot: `state` is good, trial or bad; `tries` are left."""

    state: str = GOOD
    tries: int = TRIES[GOOD]


class BootState(NamedTuple):
    """All that is in grubenv; the defaults are what GRUB goes by where it can't read it."""

    order: tuple[str, str] = SLOTS
    slots: Mapping[str, SlotState] = {"a": SlotState(), "b": SlotState()}
    last_good: str = "a"
    next: str = ""  # a slot to boot once, whatever its state
    rescues: int = 0  # rescue boots since the last good one
    why: str = "none"  # why a slot was given up: none, gate, deadline, panic
    tried: str = ""  # the version that was installed last, should `data` not know it
    data: str = ""  # "lost" where that was installed without /data

    def with_slot(self, slot: str, state: str) -> "BootState":
        """The same with `slot` in another state, and the tries that go with it."""
        return self._replace(slots={**self.slots, slot: SlotState(state, TRIES[state])})


def boots_next(state: BootState) -> str:
    """The slot that GRUB would boot now, if what it holds can be; nothing where that is rescue."""
    if state.next in SLOTS:
        return state.next
    for name in state.order:
        slot = state.slots[name]
        if slot.state in (GOOD, TRIAL) and 0 < slot.tries <= TRIES[GOOD]:
            return name
    return ""


def render(state: BootState) -> bytes:
    """The file. Raises ValueError where the state doesn't fit into the first sector."""
    variables = {"order": " ".join(state.order)}
    for slot in SLOTS:
        variables[f"{slot}_state"] = state.slots[slot].state
        variables[f"{slot}_tries"] = str(state.slots[slot].tries)
    variables |= {
        "last_good": state.last_good,
        "next": state.next,
        "rescues": str(state.rescues),
        "why": state.why,
        "tried": state.tried,
        "data": state.data,
    }
    text = HEADER + "".join(f"{name}={value}\n" for name, value in variables.items())
    if len(text) > FIRST_SECTOR:
        raise ValueError(f"the boot state has {len(text)} bytes, and only {FIRST_SECTOR} are safe")
    return text.encode("ascii").ljust(SIZE, b"#")


def parse(data: bytes) -> BootState:
    """The state in a file of SIZE bytes, as `grub.cfg.in` goes by it, however it is damaged.

    What is missing has its default; a slot whose state or tries make no sense isn't bootable.
    Raises ValueError where it is no environment block at all.
    """
    if not data.startswith(HEADER.encode()) or len(data) != SIZE:
        raise ValueError("this is no GRUB environment block")
    variables = _variables(data[len(HEADER) :])

    def one_of(name: str, allowed: tuple[str, ...], default: str, instead: str) -> str:
        value = variables.get(name, default)
        return value if value in allowed else instead

    tries = tuple(str(number) for number in range(TRIES[GOOD] + 1))
    rescues = tuple(str(number) for number in range(RESCUES + 1))
    tried = variables.get("tried", "")
    return BootState(
        order=("b", "a") if variables.get("order") == "b a" else SLOTS,
        slots={
            slot: SlotState(
                one_of(f"{slot}_state", (GOOD, TRIAL, BAD), GOOD, BAD),
                int(one_of(f"{slot}_tries", tries, tries[-1], "0")),
            )
            for slot in SLOTS
        },
        last_good=one_of("last_good", SLOTS, "a", "a"),
        next=one_of("next", SLOTS, "", ""),
        rescues=int(one_of("rescues", rescues, "0", rescues[-1])),
        why=one_of("why", ("none", "gate", "deadline", "panic"), "none", "none"),
        tried=tried if WORD.fullmatch(tried) else "",
        data=one_of("data", ("lost",), "", ""),
    )


def _variables(text: bytes) -> dict[str, str]:
    """The variables in a block behind its header, as GRUB's `load_env` finds them.

    That takes a name up to the next =, over ends of lines too, and stops at what has no end.
    Source of the behaviour: grub-core/lib/envblk.c.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if text[at : at + 1] != b"#":
            name, equals, rest = text[at:].partition(b"=")
            value = VALUE.match(rest)
            if not equals or not value:
                break
            plain = re.sub(rb"(?s)\\(.)", rb"\1", value[1])
            # For GRUB, which is written in C, a string ends with its first zero byte.
            key, shown = (part.partition(b"\0")[0].decode("latin-1") for part in (name, plain))
            found[key] = shown
            at += len(name) + 1 + value.end() - 1
        end = text.find(b"\n", at)
        at = end + 1 if end >= 0 else len(text)
    return found
