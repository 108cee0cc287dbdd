"""The boot state: which slot is booted next, and how often it is still tried.

It lives in `grubenv`, a file of 1024 bytes that GRUB and the node both rewrite in place. GRUB
writes it as two sectors, not at once; so everything that counts stays in the first 512 bytes, and a
torn write leaves either the old state or the new one. The rules that GRUB follows are in
`grub.cfg.in`.

Format: "environment block" in GRUB's manual, https://www.gnu.org/software/grub/manual/grub/
"""

from collections.abc import Mapping
from typing import NamedTuple

SIZE = 1024
FIRST_SECTOR = 512
HEADER = "# GRUB Environment Block\n"

SLOTS = ("a", "b")
GOOD, TRIAL, BAD = "good", "trial", "bad"
TRIES = {GOOD: 8, TRIAL: 3, BAD: 0}
RESCUES = 3


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
    }
    text = HEADER + "".join(f"{name}={value}\n" for name, value in variables.items())
    if len(text) > FIRST_SECTOR:
        raise ValueError(f"the boot state has {len(text)} bytes, and only {FIRST_SECTOR} are safe")
    return text.encode("ascii").ljust(SIZE, b"#")


def parse(data: bytes) -> BootState:
    """The state in a file, as GRUB reads it: what is missing or makes no sense has its default.

    Raises ValueError where it is no environment block at all.
    """
    if not data.startswith(HEADER.encode()):
        raise ValueError("this is no GRUB environment block")
    lines = data[len(HEADER) : FIRST_SECTOR].decode("ascii", "replace").splitlines()
    variables = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")

    def one_of(name: str, allowed: tuple[str, ...], default: str) -> str:
        value = variables.get(name, default)
        return value if value in allowed else default

    slots = {}
    for slot in SLOTS:
        state = one_of(f"{slot}_state", (GOOD, TRIAL, BAD), GOOD)
        allowed = tuple(str(number) for number in range(TRIES[GOOD] + 1))
        slots[slot] = SlotState(state, int(one_of(f"{slot}_tries", allowed, str(TRIES[state]))))
    return BootState(
        order=("b", "a") if variables.get("order") == "b a" else SLOTS,
        slots=slots,
        last_good=one_of("last_good", SLOTS, "a"),
        next=one_of("next", SLOTS, ""),
        rescues=int(one_of("rescues", ("0", "1", "2", "3"), "0")),
        why=one_of("why", ("none", "gate", "deadline", "panic"), "none"),
    )
