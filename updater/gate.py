"""What happens to the running slot: it is confirmed or rejected, and why one was rejected before.

Every change of the boot state on a running node is here or in `Updater.install`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from updater.contract import BAD, GOOD, RESCUE, RUN_CONFIRMED, RUN_DATA_LOST, RUN_NOTICE, TRIAL
from updater.errors import UpdateError, printable
from updater.health import run_checks
from updater.memory import Memory, Tried, headline
from updater.node import Node

PSTORE = "sys/fs/pstore"
PANIC_LINES = 12
LOG, LOG_BEFORE = "log", "log-before"  # of the last boot that was unhealthy, and the one before
# The first has what services said since the runlevel began, until all of them have started.
LOGS = ("run/openrc/rc.log", "var/log/rc.log", "var/log/messages")
OVERDUE = "overdue"  # why the boot before was given up, and that of which release
LOG_MAX, LOGS_MAX = 64 << 10, 256 << 10  # bytes of each, and of all together
NOT_TRIED = (
    "the boot loader did not try its slot: it can't write its state, the slot holds no kernel, or "
    "another boot loader or disk comes first"
)
RESCUED = (
    "no slot had a try left: their boots hung, panicked or lost power before the health checks "
    "were through, or they were rejected"
)
WITHOUT_TRACE = "it hung or lost power in each of its tries, and left no trace"
Say = Callable[[str], None]


def gate(
    node: Node,
    memory: Memory,
    say: Say,
    reboot: Callable[[], None],
    whisper: Say | None = None,
) -> bool:
    """Look at the health of this boot and act on it; whether the slot may stay.

    What is as it should be goes to `whisper`.
    On a trial slot a check that fails is no accident: the release is rejected at once. A good slot
    stays whatever a check says, and keeps all its tries: they are for boots that never come this
    far. A cut line or a full disk must not bring an old release back. A rescue boot in which all is
    well makes its slot good again.
    """
    whisper = whisper or say
    try:
        look_back(node, memory, say)
        _notice(node, memory)
    except Exception as error:
        # Whatever lies there: it is about the past, and the gate is about now.
        say(f"what became of the boots before can't be told: {printable(repr(error))}")
    if node.mode not in (GOOD, TRIAL, RESCUE):
        whisper(f"slot {node.slot} was booted in mode {node.mode}: nothing to confirm")
        _mark_confirmed(node)
        return True
    tried = memory.tried()
    for result in run_checks(node, reached=bool(tried and tried.reached)):
        if not result.failed:
            whisper(str(result))
        else:
            say(str(result))
            _keep_logs(node, memory, str(result))
            memory.note_volatile("health", f"unhealthy: {headline(str(result))}")
            if node.mode == TRIAL:
                try:
                    reject(node, memory, str(result), say, result.unreached)
                except UpdateError as error:
                    say(str(error))  # the loader counts the tries that are left
                reboot()
                return False
            memory.note("unhealthy", node.system.version, node.slot, str(result))
            if node.mode == RESCUE:
                _mark_confirmed(node)  # of this boot: an update may mend it
            else:
                _confirm_this_boot(node, memory, lambda text: say(f"all the same, {text}"))
            return False
    memory.note_volatile("health", "healthy: all checks passed")
    _confirm_this_boot(node, memory, whisper if node.mode == GOOD else say)
    return True


def overdue(node: Node, memory: Memory, why: str) -> None:
    """Keep what can be known of a boot that is reset, as it was not confirmed in time."""
    names = ", ".join(node.starting)
    reason = f"{why}; still starting: {names}" if names else why
    _keep_logs(node, memory, reason)
    memory.note("unhealthy", node.system.version, node.slot, reason)
    memory.write(OVERDUE, f"{node.system.version}\n{printable(reason)}".encode())


def _why_overdue(memory: Memory, version: str) -> str:
    """Why the last boot of a release was reset; nothing where it wasn't."""
    of, _, reason = memory.read(OVERDUE).decode(errors="replace").partition("\n")
    return reason if of == version else ""


def _keep_logs(node: Node, memory: Memory, why: str) -> None:
    """Keep what this boot said, which nobody could read after the next one; and that of before."""
    parts = [f"{node.system.os} {node.system.version} in slot {node.slot}: {headline(why)}\n"]
    for name in LOGS:
        with suppress(OSError):
            with (node.root / name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LOG_MAX))
                text = file.read(LOG_MAX).decode(errors="replace")
            parts.append(f"--- /{name}\n{printable(text, LOG_MAX)}\n")
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(["dmesg"], capture_output=True, timeout=10, check=False)
        text = done.stdout[-LOG_MAX:].decode(errors="replace")
        parts.append(f"--- the kernel\n{printable(text, LOG_MAX)}\n")
    with suppress(UpdateError):
        if before := memory.read(LOG, LOGS_MAX):
            memory.write(LOG_BEFORE, before)
        memory.write(LOG, "".join(parts).encode()[-LOGS_MAX:])


def _confirm_this_boot(node: Node, memory: Memory, say: Say) -> None:
    """Confirm the slot; where that can't be kept, this boot all the same.

    Else the watchdog would end a healthy node again and again, for a disk that takes no writes.
    """
    try:
        confirm(node, memory, say)
    except UpdateError as error:
        text = f"that slot {node.slot} is good can't be kept: {error}"
        say(text)
        node.warn(text)
        _mark_confirmed(node)


def confirm(node: Node, memory: Memory, say: Say) -> None:
    """The running slot is good and has all its tries; the keys that its image revokes are gone."""
    before = node.boot.read()
    state = before.with_slot(node.slot, GOOD)
    if before.slots[node.other].state != TRIAL:  # that one is to be tried at the next boot
        state = state._replace(order=(node.slot, node.other))
    node.boot.write(state._replace(last_good=node.slot, rescues=0))
    say(f"slot {node.slot} is good: {node.system.os} {node.system.version}")
    _mark_confirmed(node)
    memory.forget(OVERDUE)
    if before.slots[node.slot].state != TRIAL:
        return
    memory.note("confirmed", node.system.version, node.slot)
    try:
        with memory.alone():
            trust = memory.trust()
            revoked = tuple(sorted({*trust.revoked, *node.revoked}))
            memory.keep_trust(trust._replace(revoked=revoked))
        tried = memory.tried()
        if tried and tried.slot == node.slot:
            memory.keep_tried(tried._replace(confirmed=True))
    except UpdateError as error:
        say(str(error))  # the slot is good nevertheless


def reject(node: Node, memory: Memory, reason: str, say: Say, unreached: bool = False) -> None:
    """Give the running trial slot up; the next boot takes the other one.

    `unreached`: only because something could not be reached, so that it may be tried again later.

    The reason is kept first: once the boot state has changed, power may go at any time.
    """
    say(f"release {node.system.version} in slot {node.slot} is rejected; back to slot {node.other}")
    _note_rejected(memory, node.system.version, node.slot, reason, unreached)
    state = node.boot.read().with_slot(node.slot, BAD)
    node.boot.write(state._replace(order=(node.other, node.slot), why="gate"))


def confirm_by_hand(node: Node, memory: Memory, say: Say) -> None:
    """The same by the wish of a person, who may take a rollback back. Raises UpdateError."""
    confirm(node, memory, say)
    tried = memory.tried()
    if tried and tried.rejected and tried.slot == node.slot:
        memory.keep_tried(tried._replace(rejected="", confirmed=True))
        memory.note("confirmed", node.system.version, node.slot, "by belay confirm")
        _notice(node, memory)


def roll_back(node: Node, memory: Memory, say: Say) -> None:
    """Go back to the other slot at the next boot, by the wish of a person. Raises UpdateError."""
    state = node.boot.read()
    other = state.slots[node.other]
    if other.state != GOOD:
        raise UpdateError(f"slot {node.other} is {other.state}: there is nothing to go back to")
    if state.slots[node.slot].state == BAD and state.order[0] == node.other:
        say(f"slot {node.other} is booted next already")
        return
    _note_rejected(memory, node.system.version, node.slot, "by belay rollback")
    order = (node.other, node.slot)
    node.boot.write(state.with_slot(node.slot, BAD)._replace(order=order, last_good=node.other))
    say(f"slot {node.other} is booted next")


def look_back(node: Node, memory: Memory, say: Say) -> None:
    """Find out whether the boot before ended badly, and keep what it left behind."""
    panic = _panic(node)
    if panic:
        try:
            memory.write("panic", panic.encode())
        except UpdateError as error:
            say(str(error))
    lost = node.root / RUN_DATA_LOST
    if lost.exists():
        memory.note("data", node.system.version, node.slot, lost.read_text().strip())
        lost.unlink()
    if node.mode == RESCUE:
        left = panic or _why_overdue(memory, node.system.version)
        reason = f"{RESCUED}; the last one left:\n{left}" if left else RESCUED
        say(f"this boot of slot {node.slot} is a rescue: {reason}")
        memory.note_volatile("rescue", reason)
        memory.note("rescue", node.system.version, node.slot, reason)
    state = node.boot.read()
    tried = memory.tried() or Tried(state.tried or "of a version that is not known", node.other)
    if tried.rejected or tried.slot == node.slot or node.mode == "once":
        return
    slot = state.slots[tried.slot]
    if slot.state == TRIAL and tried.boot not in ("", node.boot_id):
        say(f"release {tried.version} in slot {tried.slot} is rejected: {NOT_TRIED}")
        # First, as the node may be unable to write the state, too.
        _note_rejected(memory, tried.version, tried.slot, NOT_TRIED)
        node.boot.write(state.with_slot(tried.slot, BAD)._replace(order=(node.slot, tried.slot)))
        return
    # The loader says so, or the last step of its installation was done: else it was cut off before.
    if slot.state != BAD or not (state.why == "panic" or state.tried == tried.version):
        return
    trace = panic or memory.read("panic").decode(errors="replace")
    late = _why_overdue(memory, tried.version)
    reason = f"the kernel panicked:\n{trace}" if trace else late or WITHOUT_TRACE
    say(f"release {tried.version} in slot {tried.slot} was rejected: {reason}")
    _note_rejected(memory, tried.version, tried.slot, reason)
    memory.forget("panic")


def _note_rejected(
    memory: Memory, version: str, slot: str, reason: str, unreached: bool = False
) -> None:
    memory.note("rejected", version, slot, reason)
    before = memory.tried()
    count = before.unreached if before and before.version == version else 0
    tried = Tried(version, slot, rejected=reason, at=int(memory.clock()))
    try:
        memory.keep_tried(tried._replace(unreached=count + 1 if unreached else 0))
    except UpdateError:
        return  # grubenv knows it too, if less of it


def _panic(node: Node) -> str:
    """The end of what the kernel said before it panicked, if it left that anywhere."""
    folder = node.root / PSTORE
    parts = sorted(folder.glob("dmesg-*"), key=_part)
    text = "".join(_without_head(path) for path in reversed(parts))
    for path in parts:
        path.unlink(missing_ok=True)  # its room is small, and the next panic needs it
    lines = text.splitlines()
    starts = [at for at, line in enumerate(lines) if "Kernel panic" in line]
    first = max(0, starts[-1] - PANIC_LINES // 2) if starts else max(0, len(lines) - PANIC_LINES)
    return "\n".join(lines[first : first + PANIC_LINES])


def _part(path: Path) -> int:
    """The number of a part: its first line is such as `Panic#1 Part3`; part 1 is the last."""
    head = path.read_text(errors="replace").split("\n", 1)[0]
    digits = head.rpartition("Part")[2].strip()
    return int(digits) if digits.isdigit() else 0


def _without_head(path: Path) -> str:
    return path.read_text(errors="replace").partition("\n")[2]


def _notice(node: Node, memory: Memory) -> None:
    """Leave for those who log in why a release was rejected, and why this boot is a rescue."""
    tried, rescue = memory.tried(), memory.volatile("rescue")
    path = node.root / RUN_NOTICE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = ""
    if tried and tried.rejected:
        text += f"belay: release {tried.version} was rejected: {headline(tried.rejected)}\n"
    if rescue:
        text += f"belay: this boot is a rescue: {headline(rescue['what'])}\n"
    path.write_text(text)


def _mark_confirmed(node: Node) -> None:
    path = node.root / RUN_CONFIRMED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
