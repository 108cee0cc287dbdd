"""What becomes of a boot: confirmed, rejected, or only reported; and why."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.esp import COPY_AT, FAT_AT, GRUBENV_AT, esp
from tests.publisher import NOW, FileNode
from updater import gate
from updater.boot import BootStateFile
from updater.contract import BAD, GOOD, TRIAL
from updater.errors import UpdateError
from updater.grubenv import FIRST_SECTOR, BootState, SlotState
from updater.memory import Tried
from updater.settings import Settings


@pytest.fixture
def node(tmp_path: Path) -> FileNode:
    """It runs 1.0.0 in slot a, on trial."""
    node = FileNode(tmp_path / "node", esp(), [])
    node.change(mode=TRIAL)
    node.boot.write(BootState(last_good="b").with_slot("a", TRIAL))
    (node.root / "etc/belay/health.d").mkdir(parents=True)
    return node


def check(node: FileNode, name: str, script: str) -> None:
    path = node.root / "etc/belay/health.d" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(node: FileNode) -> tuple[bool, list[str], list[str]]:
    output: list[str] = []
    reboots: list[str] = []
    well = gate.gate(node.node, node.memory, output.append, lambda: reboots.append("reboot"))
    return well, output, reboots


def test_a_healthy_trial_is_kept(node: FileNode) -> None:
    check(node, "10-fine", "exit 0")
    check(node, "20-skipped", "echo no need; exit 77")
    well, output, reboots = run(node)
    assert well and not reboots
    assert node.boot.read() == BootState(last_good="a")
    assert "check 20-skipped skipped: no need" in output
    assert [event.what for event in node.memory.history()] == ["confirmed"]


def test_a_failed_check_ends_a_trial_at_once(node: FileNode) -> None:
    check(node, "10-fine", "echo ran >>$0.log")
    check(node, "20-broken", "echo the disk is on fire; exit 3")
    check(node, "30-never", "echo ran >>$0.log")
    well, _, reboots = run(node)
    assert not well and reboots == ["reboot"]
    state = node.boot.read()
    assert state.slots["a"] == SlotState(BAD, 0)
    assert (state.order, state.why, state.last_good) == (("b", "a"), "gate", "b")
    tried = node.memory.tried()
    assert tried and tried.rejected == "check 20-broken failed: the disk is on fire"
    assert not (node.root / "etc/belay/health.d/30-never.log").exists()


def test_a_check_that_hangs_fails(node: FileNode) -> None:
    from updater.settings import Settings

    node.change(settings=Settings(deadline_s=0))
    check(node, "10-hangs", "echo began; sleep 600")
    well, _, reboots = run(node)
    assert not well and reboots
    tried = node.memory.tried()
    assert tried
    assert tried.rejected == "check 10-hangs failed: it was not done within 1 s\nbegan"


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("#!/bin/sh\nexit 0\n", 0o644, "it is no executable file: chmod +x it"),
        ("#!/no/such/shell\nexit 0\n", 0o755, "it can't be run: No such file"),
        ("exit 0\n", 0o755, "it can't be run: Exec format error"),
    ],
)
def test_a_check_that_cannot_run_has_failed(node: FileNode, text: str, mode: int, why: str) -> None:
    path = node.root / "etc/belay/health.d/60-moon"
    path.write_text(text)
    path.chmod(mode)
    well, _, reboots = run(node)
    assert not well and reboots
    tried = node.memory.tried()
    assert tried and tried.rejected.startswith(f"check 60-moon failed: {why}")


def test_a_reason_begins_with_its_last_line(node: FileNode) -> None:
    check(node, "10-service", "echo starting; echo its own words; echo not running: app; exit 1")
    _, output, _ = run(node)
    tried = node.memory.tried()
    assert tried and tried.rejected == (
        "check 10-service failed: not running: app\nstarting\nits own words"
    )
    assert [line for line in output if "its own words" in line] == [tried.rejected], "output once"
    assert node.memory.volatile("health")["what"] == (
        "unhealthy: check 10-service failed: not running: app"
    )
    gate._notice(node.node, node.memory)
    notice = (node.root / "run/belay/notice").read_text()
    assert (
        notice == "belay: release 1.0.0 was rejected: check 10-service failed: not running: app\n"
    )


def test_what_is_not_yet_is_waited_for(node: FileNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away for half a minute."""
    monkeypatch.setattr("updater.health.AGAIN_S", 0.05)
    check(node, "50-away", 'echo x >>"$0.log"; [ "$(wc -l <"$0.log")" = 4 ] || exit 75')
    check(node, "60-left", 'echo "$BELAY_LEFT_S s"; [ "$BELAY_LEFT_S" -gt 200 ]')
    well, output, reboots = run(node)
    assert well and not reboots, output
    assert node.boot.read().slots["a"] == SlotState()


def test_what_was_not_reached_is_tried_again_later_and_not_for_ever(
    node: FileNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("updater.health.AGAIN_S", 0.05)
    node.change(settings=Settings(deadline_s=1))
    check(node, "50-away", "echo connection refused; exit 75")
    waits = []
    for count in range(1, 6):
        node.boot.write(BootState(last_good="b").with_slot("a", TRIAL))
        well, _, reboots = run(node)
        assert not well and reboots and node.boot.read().slots["a"].state == BAD
        tried = node.memory.tried()
        assert tried and "connection refused" in tried.rejected and tried.unreached == count
        waits.append(tried.again_in(node.clock))
        assert tried.again_in(node.clock + 400 * 3600) in (0, None)
        assert tried.again_in(node.clock - 10**6) in (0, None), "the clock was set back"
    assert waits == [3600, 4 * 3600, 16 * 3600, 64 * 3600, None]
    # What is wrong with it is another matter.
    check(node, "50-away", "exit 1")
    node.boot.write(BootState(last_good="b").with_slot("a", TRIAL))
    run(node)
    tried = node.memory.tried()
    assert tried and tried.unreached == 0 and tried.again_in(node.clock + 10**6) is None


def test_a_failed_check_leaves_a_good_slot_alone(node: FileNode) -> None:
    node.change(mode=GOOD)
    node.boot.write(BootState(slots={"a": SlotState(GOOD, 5), "b": SlotState()}))
    check(node, "10-broken", "echo no cable; exit 1")
    well, _, reboots = run(node)
    assert not well and not reboots
    assert node.boot.read() == BootState(), "its tries are for boots that never come this far"
    assert node.memory.history()[-1].reason == "check 10-broken failed: no cable"


def test_a_boot_for_once_changes_nothing(node: FileNode) -> None:
    node.change(mode="once")
    check(node, "10-broken", "exit 1")
    before = (node.root / "esp").read_bytes()
    well, _, reboots = run(node)
    assert well and not reboots
    assert (node.root / "esp").read_bytes() == before


def test_a_rescue_in_which_all_is_well_makes_its_slot_good_again(node: FileNode) -> None:
    """Power that comes and goes may use up all tries."""
    node.change(mode="rescue")
    used_up = BootState(rescues=1).with_slot("a", BAD).with_slot("b", BAD)
    node.boot.write(used_up._replace(why="panic"))
    check(node, "10-broken", "exit 1")
    well, _, reboots = run(node)
    assert not well and not reboots
    assert node.boot.read().slots["a"].state == BAD, "what is unwell is not made good"
    assert (node.root / "run/belay/confirmed").exists(), "but it may be mended"
    noted = node.memory.history()[0]
    assert (noted.what, noted.slot) == ("rescue", "a") and "no slot had a try" in noted.reason
    notice = (node.root / "run/belay/notice").read_text()
    assert "belay: this boot is a rescue: no slot had a try left" in notice
    check(node, "10-broken", "exit 0")
    well, output, _ = run(node)
    assert well and "slot a is good: belay 1.0.0" in output
    state = node.boot.read()
    assert state.slots["a"] == SlotState()
    assert (state.order, state.last_good, state.rescues) == (("a", "b"), "a", 0)


@pytest.mark.parametrize("mode", ["good", "trial", "rescue"])
def test_a_boot_counts_as_confirmed_where_that_can_t_be_kept(
    node: FileNode, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A disk that takes no writes any more is no reason to end a node that works."""

    def broken(*_: object) -> None:
        raise UpdateError("dev/sda2 can't be written at byte 0: Read-only file system")

    monkeypatch.setattr("updater.boot.BootStateFile.write", broken)
    node.change(mode=mode)
    for _ in range(2):
        well, output, reboots = run(node)
        assert well and not reboots
        assert any("that slot a is good can't be kept: dev/sda2" in line for line in output)
        assert (node.root / "run/belay/confirmed").exists()
    assert len(node.node.warnings) == 1 and "Read-only" in node.node.warnings[0]


def test_an_unhealthy_trial_goes_back_where_that_can_t_be_kept(
    node: FileNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise UpdateError("dev/sda2 can't be written")

    monkeypatch.setattr("updater.boot.BootStateFile.write", broken)
    node.change(mode="trial")
    check(node, "10-broken", "exit 1")
    well, output, reboots = run(node)
    assert not well and reboots and "dev/sda2 can't be written" in output


def test_what_an_unhealthy_boot_said_is_kept_with_that_of_the_one_before(node: FileNode) -> None:
    (node.root / "var/log").mkdir(parents=True)
    check(node, "10-broken", "echo no cable; exit 1")
    for number in (1, 2, 3):
        (node.root / "var/log/rc.log").write_text(
            f"boot {number} \x1b[2J\n" + "x" * 200_000 + "end\n"
        )
        (node.root / "var/log/messages").write_text(f"message {number}\n")
        run(node)
        node.change(mode=GOOD)
    for name, number in (("log", 3), ("log-before", 2)):
        text = node.memory.read(name, gate.LOGS_MAX).decode()
        assert text.startswith("belay 1.0.0 in slot a: check 10-broken failed: no cable\n")
        assert f"--- /var/log/messages\nmessage {number}\n" in text
        assert "xend\n" in text and "boot" not in text.split("---")[1], "the end of what is long"
        assert len(text) <= gate.LOGS_MAX and "\x1b" not in text


def test_only_one_sector_is_written_and_that_of_the_copy(node: FileNode) -> None:
    before = (node.root / "esp").read_bytes()
    run(node)
    after = (node.root / "esp").read_bytes()
    changed = {at // FIRST_SECTOR for at, byte in enumerate(after) if byte != before[at]}
    assert changed == {GRUBENV_AT // FIRST_SECTOR, COPY_AT // FIRST_SECTOR}


def test_where_the_boot_state_can_t_be_read_its_copy_counts(node: FileNode) -> None:
    """Else slot a would be booted for ever, whatever it holds."""
    state = BootState(order=("b", "a"), last_good="b", tried="1.1.0").with_slot("a", BAD)
    node.boot.write(state)
    esp = node.root / "esp"
    whole = esp.read_bytes()
    named = whole.index(b"GRUBENV    ")
    for at, damage in ((GRUBENV_AT, bytes(1024)), (named, b"\xe5")):
        esp.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
        assert node.boot.read() == state
        node.boot.write(state._replace(rescues=1))
        assert node.boot.read() == state._replace(rescues=1)
    # What can be written is mended.
    esp.write_bytes(whole[:GRUBENV_AT] + bytes(1024) + whole[GRUBENV_AT + 1024 :])
    node.boot.write(state)
    assert esp.read_bytes() == whole
    # The copy is written first: power may go in between.
    esp.write_bytes(whole[:COPY_AT] + b"x" * 1024 + whole[COPY_AT + 1024 :])
    assert node.boot.read() == state
    both = whole[:GRUBENV_AT] + b"x" * 1024 + whole[GRUBENV_AT + 1024 :]
    esp.write_bytes(both[:COPY_AT] + b"x" * 1024 + both[COPY_AT + 1024 :])
    assert node.boot.read() == BootState()


def test_an_image_without_a_copy_works_as_it_did(node: FileNode) -> None:
    (node.root / "esp").write_bytes(esp(copy=False))
    state = BootState(order=("b", "a"))
    node.boot.write(state)
    assert node.boot.read() == state
    (node.root / "esp").write_bytes(bytes(64 << 10))
    with pytest.raises(UpdateError, match="is no FAT32"):
        node.boot.read()


def back_on_the_old_slot(node: FileNode) -> None:
    """The release in b used up its tries; a runs again."""
    node.change(mode=GOOD)
    node.boot.write(BootState(why="panic", tried="1.1.0").with_slot("b", BAD))
    node.memory.keep_tried(Tried("1.1.0", "b"))


def test_an_installation_that_was_cut_off_condemns_nothing(node: FileNode) -> None:
    """Power was lost between the note and the last sector: the slot was never tried."""
    node.change(mode=GOOD)
    node.boot.write(BootState().with_slot("b", BAD))
    node.memory.keep_tried(Tried("1.1.0", "b"))
    run(node)
    tried = node.memory.tried()
    assert tried and not tried.rejected
    assert "rejected" not in [event.what for event in node.memory.history()]


def test_a_slot_that_the_loader_passes_over_is_rejected_once(node: FileNode) -> None:
    """Its writes fail, or another GRUB comes first: rebooting for ever would not help."""
    boot_id = node.root / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("this-boot\n")
    node.change(mode=GOOD)
    waiting = BootState(order=("b", "a"), tried="1.1.0").with_slot("b", TRIAL)
    node.boot.write(waiting)
    node.memory.keep_tried(Tried("1.1.0", "b", boot="this-boot"))
    run(node)
    assert node.boot.read().slots["b"].state == TRIAL, "nobody rebooted yet"
    node.memory.keep_tried(Tried("1.1.0", "b", boot="an-earlier-boot"))
    for _ in range(2):
        run(node)
        state = node.boot.read()
        assert (state.slots["b"].state, state.order) == (BAD, ("a", "b"))
        tried = node.memory.tried()
        assert tried and tried.rejected == gate.NOT_TRIED
    assert [event.what for event in node.memory.history()] == ["rejected"]


def test_a_slot_passed_over_is_rejected_where_the_node_can_t_write_either(
    node: FileNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UpdateError("the disk did not keep the boot state")

    node.change(mode=GOOD)
    node.boot.write(BootState(order=("b", "a"), tried="1.1.0").with_slot("b", TRIAL))
    node.memory.keep_tried(Tried("1.1.0", "b", boot="an-earlier-boot"))
    monkeypatch.setattr(type(node.boot), "write", fail)
    _, output, _ = run(node)
    assert any("did not keep" in line for line in output), (
        "nor can it be kept that the slot is good"
    )
    tried = node.memory.tried()
    assert tried and tried.rejected == gate.NOT_TRIED


def test_a_panic_is_told(node: FileNode) -> None:
    back_on_the_old_slot(node)
    pstore = node.root / "sys/fs/pstore"
    pstore.mkdir(parents=True)
    (pstore / "dmesg-efi-2").write_text("Panic#1 Part2\n<6> usb: a stick\n")
    (pstore / "dmesg-efi-1").write_text(
        "Panic#1 Part1\n<4> Call Trace:\n<0> Kernel panic - not syncing: no root\n<0> end\n"
    )
    run(node)
    tried = node.memory.tried()
    assert tried and "the kernel panicked" in tried.rejected
    assert (
        "usb: a stick\n<4> Call Trace:\n<0> Kernel panic - not syncing: no root" in tried.rejected
    )
    assert not list(pstore.iterdir()), "there is room for the next"
    assert node.memory.history()[0].what == "rejected"
    notice = (node.root / "run/belay/notice").read_text()
    assert notice.startswith("belay: release 1.1.0 was rejected: the kernel panicked")


@pytest.mark.parametrize("kind", ["tried", "panic", "boot"])
def test_whatever_looking_back_meets_the_slot_is_judged(
    node: FileNode, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One flipped bit made a slot of the name c out of b."""
    back_on_the_old_slot(node)
    if kind == "tried":
        (node.memory.folder / "tried.json").write_text('{"version": "1.1.0", "slot": "c"}')
    elif kind == "panic":
        (node.root / "sys/fs/pstore/dmesg-efi-1").mkdir(parents=True)
    else:
        monkeypatch.setattr(gate, "_panic", lambda _: 1 / 0)
    check(node, "10-fine", "exit 0")
    well, output, _ = run(node)
    assert well and node.boot.read().slots["a"] == SlotState()
    assert any("can't be told" in line for line in output) == (kind != "tried")


def test_without_data_a_rejected_release_is_known_by_the_boot_state(node: FileNode) -> None:
    node.change(mode=GOOD)
    node.boot.write(BootState(tried="1.1.0").with_slot("b", BAD))
    _, output, _ = run(node)
    assert f"release 1.1.0 in slot b was rejected: {gate.WITHOUT_TRACE}" in output
    tried = node.memory.tried()
    assert tried and (tried.version, tried.rejected) == ("1.1.0", gate.WITHOUT_TRACE)


def test_a_hang_is_told_once(node: FileNode) -> None:
    back_on_the_old_slot(node)
    run(node)
    run(node)
    rejections = [event for event in node.memory.history() if event.what == "rejected"]
    assert [event.reason for event in rejections] == [gate.WITHOUT_TRACE]


def test_what_was_reset_before_it_was_confirmed_is_told(node: FileNode) -> None:
    """By the watchdog: what hung as it started is in the history, and its log is kept."""
    (node.root / "run/openrc/starting").mkdir(parents=True)
    for name in ("stuck", "belay-gate"):
        (node.root / "run/openrc/starting" / name).touch()
    (node.root / "run/openrc/rc.log").write_text("Starting stuck ...\n")
    gate.overdue(node.node, node.memory, "this boot was not confirmed within 600 s")
    event = node.memory.history()[-1]
    why = "this boot was not confirmed within 600 s; still starting: stuck"
    assert (event.what, event.version, event.reason) == ("unhealthy", "1.0.0", why)
    log = node.memory.read(
        "log", gate.LOGS_MAX
    ).decode()  # the kernel's of this machine may be long
    assert "--- /run/openrc/rc.log\nStarting stuck" in log

    # The other slot, when all tries are gone.
    node.change(slot="b", mode=GOOD)
    node.memory.keep_tried(Tried("1.0.0", "a"))
    state = BootState(order=("b", "a"), why="panic", tried="1.0.0").with_slot("a", BAD)
    node.boot.write(state)
    run(node)
    assert (tried := node.memory.tried()) and tried.rejected == why
    # It is of that release, and gone with the next boot that is well.
    for version in ("1.1.0", "1.0.0"):
        node.memory.write("overdue", b"1.0.0\n" + why.encode() if version == "1.1.0" else b"")
        node.memory.keep_tried(Tried(version, "a"))
        node.boot.write(state._replace(tried=version))
        run(node)
        assert (tried := node.memory.tried()) and "left no trace" in tried.rejected
        assert not node.memory.read("overdue")


def test_a_rescue_tells_what_the_last_boot_hung_at(node: FileNode) -> None:
    gate.overdue(node.node, node.memory, "this boot was not confirmed within 600 s")
    node.change(mode="rescue")
    node.boot.write(BootState(rescues=1).with_slot("a", BAD).with_slot("b", BAD))
    run(node)
    assert "left:\nthis boot was not confirmed" in str(node.memory.volatile("rescue")["what"])


def test_a_rollback_can_be_taken_back(node: FileNode) -> None:
    node.change(mode=GOOD)
    node.boot.write(BootState())
    output: list[str] = []
    gate.roll_back(node.node, node.memory, output.append)
    gate.roll_back(node.node, node.memory, output.append)
    assert output[-1] == "slot b is booted next already"
    gate.confirm_by_hand(node.node, node.memory, output.append)
    assert (tried := node.memory.tried()) and not tried.rejected and tried.confirmed
    assert node.boot.read().order == ("a", "b")
    events = [(event.what, event.reason) for event in node.memory.history()]
    assert events == [("rejected", "by belay rollback"), ("confirmed", "by belay confirm")]
    assert (node.root / "run/belay/notice").read_text() == ""


def test_rollback_takes_the_other_slot(node: FileNode) -> None:
    node.change(mode=GOOD)
    node.boot.write(BootState())
    gate.roll_back(node.node, node.memory, lambda _: None)
    state = node.boot.read()
    assert (state.order, state.last_good) == (("b", "a"), "b")
    assert state.slots["a"].state == BAD
    tried = node.memory.tried()
    assert tried and tried.rejected == "by belay rollback"


def test_rollback_needs_a_good_slot(node: FileNode) -> None:
    node.boot.write(BootState().with_slot("b", BAD))
    with pytest.raises(UpdateError, match="slot b is bad: there is nothing to go back to"):
        gate.roll_back(node.node, node.memory, lambda _: None)


def test_keys_that_a_kept_image_revokes_stay_revoked(node: FileNode) -> None:
    node.change(revoked=frozenset(["AB" * 8]))
    run(node)
    assert node.memory.trust().revoked == ("AB" * 8,)


def test_without_data_the_slot_is_kept_nevertheless(node: FileNode) -> None:
    (node.root / "data").symlink_to("/dev/full")
    well, _, _ = run(node)
    assert well
    assert node.boot.read().slots["a"] == SlotState()


def test_damaged_memory_is_like_none(node: FileNode) -> None:
    folder = node.root / "data/belay"
    folder.mkdir(parents=True)
    for name in ("trust.json", "tried.json", "history"):
        for rubbish in ("", "[1]", "{}", "{", '{"newest": 7}', "\0" * 100):
            (folder / name).write_text(rubbish)
            assert node.memory.trust().newest == {}
            assert node.memory.tried() is None
            assert node.memory.history() == []
    assert node.memory.now(0)[0] == NOW


@pytest.mark.parametrize(
    ("at", "damage"),
    [
        (26, b"\x02"),  # the cluster of the root directory
        (26, b"\x04"),  # of EFI/BOOT
        (26, b"\x00"),
        (26, b"\x08"),  # of the copy: it would be that, and its own
        (26, b"\x07"),  # the file's second
        (21, b"\x01"),  # far behind the end
        (28, b"\x00\x02"),
    ],
)
def test_a_damaged_entry_leads_to_no_other_place(node: FileNode, at: int, damage: bytes) -> None:
    """What it leads to would be written over; the copy counts then."""
    state = BootState(order=("b", "a"), last_good="b")
    node.boot.write(state)
    esp = node.root / "esp"
    whole = bytearray(esp.read_bytes())
    entry = whole.index(b"GRUBENV    ") + at
    whole[entry : entry + len(damage)] = damage
    esp.write_bytes(whole)
    assert node.boot.read() == state
    node.boot.write(state._replace(rescues=1))
    after = esp.read_bytes()
    assert len(after) == len(whole)
    changed = {number for number, byte in enumerate(after) if byte != whole[number]}
    assert changed and all(COPY_AT <= number < COPY_AT + 1024 for number in changed)


@pytest.mark.parametrize("cluster", [0, 3, 4, 5, 6, 7])
def test_a_damaged_table_of_clusters_is_told(node: FileNode, cluster: int) -> None:
    """Whatever it says: an answer or an UpdateError, and nothing else is written over."""
    esp = node.root / "esp"
    whole = esp.read_bytes()
    for value in (0, 1, 2, 9, 0x0FFFFFF7, 0xFFFFFFFF, 0x7FFFFFFF, 200):
        damaged = bytearray(whole)
        at = FAT_AT + cluster * 4
        damaged[at : at + 4] = value.to_bytes(4, "little")
        esp.write_bytes(damaged)
        try:
            node.boot.write(node.boot.read())
        except UpdateError as error:
            assert "EFI/BOOT" in str(error) or "damaged" in str(error)
        assert esp.read_bytes() == bytes(damaged)
    for at in range(11, 64):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        esp.write_bytes(damaged)
        with suppress(UpdateError):
            node.boot.write(node.boot.read())
        assert len(esp.read_bytes()) == len(whole)


def test_a_disk_without_a_partition_that_is_wanted_is_told(node: FileNode) -> None:
    node.change(boot=BootStateFile(node.root / "dev/no-partition-esp"))
    well, output, _ = run(node)
    assert well and (node.root / "run/belay/confirmed").exists()
    assert any("no-partition-esp" in line for line in output)


def test_what_is_not_yet_stays_so_when_its_time_is_over(
    node: FileNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that drops what is sent to it keeps the last look waiting until it is ended."""
    monkeypatch.setattr("updater.health.AGAIN_S", 0.1)
    node.change(mode="trial", settings=Settings(deadline_s=3))
    check(
        node, "50-slow", 'if [ -e "$0.seen" ]; then sleep 60; fi; : >"$0.seen"; echo away; exit 75'
    )
    well, output, reboots = run(node)
    assert not well and reboots
    tried = node.memory.tried()
    assert tried and tried.unreached == 1 and "away" in tried.rejected
    assert any("check 50-slow failed: away" in line for line in output)


def test_a_daemon_that_a_check_leaves_is_not_waited_for(node: FileNode) -> None:
    check(node, "50-daemon", "setsid sleep 30 & echo started")
    start = time.monotonic()
    well, _, _ = run(node)
    assert well and time.monotonic() - start < 15
