"""The command `belay`, on a root with /proc, /sys and partitions that are files."""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from builder.core.paths import PROJECT
from tests.esp import esp
from tests.publisher import BUILT, SLOT_SIZE, Publisher, served, slot_bytes
from updater.__main__ import main
from updater.boot import BootStateFile
from updater.commands import in_window
from updater.contract import BAD, GOOD, TRIAL, TRIES
from updater.disk import Disk
from updater.errors import UpdateError
from updater.grubenv import BootState, SlotState, boots_next
from updater.memory import Memory
from updater.node import find_node

GUID = "3c0e1c9a-0000-4000-8000-00000000000a"


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setattr("builder.releases.chunks.CACHE", tmp_path / "cache")
    monkeypatch.setattr("updater.memory.time.time", lambda: BUILT + 2000)
    return Publisher(tmp_path / "server")


@pytest.fixture
def root(tmp_path: Path, publisher: Publisher) -> Path:
    """A node that runs 1.0.0 in slot a; a second disk has the same names."""
    root = tmp_path / "root"
    classes = root / "sys/class/block"
    classes.mkdir(parents=True)
    for disk, guid in (("vda", GUID), ("vdb", "another")):
        for number, name in enumerate(("esp", "slot-a", "slot-b", "node", "data"), start=2):
            device = root / "sys/devices" / disk / f"{disk}{number}"
            device.mkdir(parents=True)
            own = guid if name == "slot-a" else f"{guid}-{name}"
            (device / "uevent").write_text(f"PARTNAME={name}\nPARTUUID={own}\n")
            (classes / device.name).symlink_to(device)
        (classes / disk).symlink_to(root / "sys/devices" / disk)
    for folder in ("dev", "proc", "etc/belay/keys", "run/belay/node"):
        (root / folder).mkdir(parents=True)
    (root / "proc/cmdline").write_text(
        f"quiet belay.slot=a belay.mode=good belay.partuuid={GUID}\n"
    )
    (root / "dev/vda2").write_bytes(esp())
    for number in (3, 4):
        (root / f"dev/vda{number}").write_bytes(slot_bytes("old").ljust(SLOT_SIZE, b"\0"))
    (root / "dev/vda5").write_bytes(bytes(64 << 10))
    (root / "etc/belay/node-label").write_text("BELAY\n")
    system = {"os": "belay", "arch": "x86_64", "version": "1.0.0", "built": BUILT}
    (root / "etc/belay/release.json").write_text(json.dumps(system))
    (root / "etc/belay/settings.json").write_text(json.dumps({"channel": "stable"}))
    (root / "etc/belay/keys/release.pub").write_bytes(publisher.key.public_file)
    return root


def answer(
    capsys: pytest.CaptureFixture[str], root: Path, *words: str
) -> tuple[int, dict[str, object]]:
    code = main(["--root", str(root), *words, "--json"])
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return code, result


def test_an_update_by_command(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish("1.1.0")
    with served(publisher.store.folder) as (url, _):
        (root / "run/belay/node/settings.json").write_text(json.dumps({"url": url, "rate": "x"}))
        assert answer(capsys, root, "check") == (0, {"version": "1.1.0", "news": True})
        for what in ("is in slot b", "is installed already"):
            assert main(["--root", str(root), "update"]) == 0
            assert f"release 1.1.0 {what}: reboot to try it" in capsys.readouterr().out
        assert answer(capsys, root, "update") == (0, {"version": "1.1.0", "installed": True})
    code, status = answer(capsys, root, "status")
    assert code == 0
    assert status["slots"] == {
        "a": {"state": "good", "tries": TRIES[GOOD]}, "b": {"state": "trial", "tries": 3},
    }  # fmt: skip
    assert main(["--root", str(root), "status"]) == 0
    assert "release 1.1.0 is installed in slot b: reboot to try it" in capsys.readouterr().out
    assert main(["--root", str(root), "history"]) == 0
    assert "update     1.1.0 in slot b" in capsys.readouterr().out


def test_a_disk_that_looks_the_same_is_told_and_left_alone(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slots, boot state and node files are those of the disk that the initramfs found."""
    twin = root / "sys/devices/vdb/vdb3"
    (twin / "uevent").write_text((root / "sys/devices/vda/vda3/uevent").read_text())
    for booted, other in (("vda3", "vdb3"), ("vdb3", "vda3")):
        (root / "etc/belay/booted").write_text(f"{booted}\n")
        node = find_node(root)
        assert {path.name[:3] for path in node.partitions.values()} == {booted[:3]}
        assert node.boot.esp == root / f"dev/{booted[:3]}2"
        assert node.twins == (other,)
    (root / "etc/belay/booted").write_text("vda3\n")
    assert main(["--root", str(root), "status"]) == 0
    assert "warning: vdb3 has the GUID of the slot that runs, too" in capsys.readouterr().out
    (root / "etc/belay/booted").write_text("vdc3\n")
    assert main(["--root", str(root), "status"]) == 1
    output = capsys.readouterr().err
    assert "the disk with vdc3, from which this system was booted, is gone" in output


@pytest.mark.parametrize(
    ("noted", "told"),
    [
        ("iTCO_wdt\n30\n", "watchdog iTCO_wdt: a hang ends in a reset after 30 s\n"),
        (
            "Software Watchdog\n60\n",
            "a hang ends in a reset after 60 s; but not where the kernel itself hangs\n",
        ),
        ("", "no watchdog: where the kernel hangs, somebody has to switch this machine off and on"),
    ],
)
def test_what_a_hang_would_do_is_told(
    root: Path, capsys: pytest.CaptureFixture[str], noted: str, told: str
) -> None:
    (root / "run/belay/watchdog").write_text(noted)
    assert main(["--root", str(root), "status"]) == 0
    assert told in capsys.readouterr().out
    name = noted.partition("\n")[0]
    _, status = answer(capsys, root, "status")
    assert status["watchdog"] == (
        {"name": name, "timeout_s": int(noted.split("\n")[1])} if noted else None
    )


def test_status_tells_of_the_disk_and_the_clock(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = False
    monkeypatch.setattr("updater.memory._clock_is_kept", lambda: kept)
    (root / "sys/devices/vda/size").write_text("33554432\n")
    assert main(["--root", str(root), "status"]) == 0
    output = capsys.readouterr().out
    assert "disk vda of 16.0 GiB; /data can't be used\n" in output
    assert "; no hardware clock knew the time, and no time server keeps it right\n" in output
    assert f"clock: {time.strftime('%Y-')}" in output
    assert "this boot is not confirmed yet: its checks come next\n" in output
    (root / "run/openrc/starting").mkdir(parents=True)
    for name in ("belay-gate", "stuck", "slow"):
        (root / "run/openrc/starting" / name).touch()
    assert answer(capsys, root, "status")[1]["starting"] == ["slow", "stuck"]
    files = "dropbear_ed25519_host_key and authorized_keys"
    assert f"no SSH: the node's files are without {files}\n" in output
    (root / "run/belay/node/dropbear_ed25519_host_key").touch()

    (root / "data").mkdir(exist_ok=True)
    (root / "proc/mounts").write_text("/dev/vda6 /data ext4 rw 0 0\n")
    (root / "sys/class/rtc/rtc0").mkdir(parents=True)
    room = os.statvfs(root)
    assert main(["--root", str(root), "status"]) == 0
    output = capsys.readouterr().out
    assert f" free, of {room.f_blocks * room.f_frsize / (1 << 30):.1f} GiB\n" in output
    assert "; from the hardware clock; no time server" in output
    assert "this boot is not confirmed yet: these services still start: slow, stuck\n" in output
    (root / "run/belay/confirmed").touch()

    assert "no SSH: the node's files are without authorized_keys\n" in output

    (root / "run/belay/node/authorized_keys").touch()
    (root / "run/belay/clock").touch()  # it was behind what is signed
    kept = True
    _, status = answer(capsys, root, "status")
    assert status["clock"] == "server"
    assert isinstance(status["disk"], dict) and status["disk"]["size"] == 16 << 30
    kept = False
    assert answer(capsys, root, "status")[1]["clock"] == "release"
    assert main(["--root", str(root), "status"]) == 0
    output = capsys.readouterr().out
    assert "SSH" not in output and "confirmed yet" not in output


def test_what_was_left_is_not_tried_again_by_itself(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish("1.1.0")
    source = str(publisher.store.folder)
    memory = root / "data/belay"
    memory.mkdir(parents=True)
    (memory / "tried.json").write_text('{"version": "1.1.0", "slot": "b", "rejected": "it hung"}')
    update = ("update", "--from", source)
    assert answer(capsys, root, *update) == (0, {"version": "1.1.0", "installed": False})
    code, result = answer(capsys, root, *update, "--again")
    assert (code, result["installed"]) == (0, True)


def test_what_could_not_be_reached_is_tried_again_when_it_is_time(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish("1.1.0")
    (root / "data/belay").mkdir(parents=True)
    tried = {"version": "1.1.0", "slot": "b", "rejected": "no server", "unreached": 1}
    update = ("--root", str(root), "update", "--from", str(publisher.store.folder))

    def given_up(ago: int) -> None:
        values = json.dumps({**tried, "at": BUILT + 2000 - ago})
        (root / "data/belay/tried.json").write_text(values)

    given_up(60)
    assert main(update) == 0
    output = capsys.readouterr().out
    assert "was rejected before (no server), and is tried again by itself in 60 min" in output
    assert main(["--root", str(root), "status"]) == 0
    assert "it is tried again in 59 min" in capsys.readouterr().out
    given_up(3600)
    assert main(update) == 0
    now = json.loads((root / "data/belay/tried.json").read_text())
    assert (now["rejected"], now["unreached"]) == ("", 1)


def test_what_was_rejected_is_named_with_the_way_to_try_it_again(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish("1.1.0")
    memory = root / "data/belay"
    memory.mkdir(parents=True)
    reason = "check 10-own failed: it hung\nwith more"
    tried = {"version": "1.1.0", "slot": "b", "rejected": reason}
    (memory / "tried.json").write_text(json.dumps(tried))
    options = ("--from", str(publisher.store.folder))
    assert main(["--root", str(root), "check", *options]) == 0
    output = capsys.readouterr().out
    assert output == (
        "release 1.1.0 is there, but was rejected before: check 10-own failed: it hung; "
        "to try it now: belay update --again\n"
    )
    assert main(["--root", str(root), "update", *options]) == 0
    output = capsys.readouterr().out
    assert "(check 10-own failed: it hung)" in output and "belay update --again" in output


def test_history_has_a_line_for_each_event(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = find_node(root)
    Memory(node).note("rejected", "1.1.0", "b", "check 10-own failed: it hung\nwith more")
    assert main(["--root", str(root), "history"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("rejected   1.1.0 in slot b: check 10-own failed: it hung")
    _, result = answer(capsys, root, "history")
    assert "with more" in str(result["events"])


def test_status_says_what_boots_next_and_when_the_server_was_asked(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish("1.1.0")
    options = ("--from", str(publisher.store.folder))
    assert main(["--root", str(root), "update", *options]) == 0
    assert main(["--root", str(root), "status"]) == 0
    output = capsys.readouterr().out
    assert "the next boot is of slot b\n" in output
    assert "asked 0 min ago: channel stable has 1.1.0\n" in output
    assert main(["--root", str(root), "check", "--from", "http://127.0.0.1:1"]) == 75
    assert main(["--root", str(root), "status"]) == 0
    assert "asked 0 min ago: http://127.0.0.1:1/channels/stable: " in capsys.readouterr().out


def test_confirm_says_what_boots_next_and_takes_a_rollback_back(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(root), "rollback"]) == 0
    assert main(["--root", str(root), "status"]) == 0
    assert "the next boot is of slot b\n" in capsys.readouterr().out
    assert main(["--root", str(root), "confirm"]) == 0
    assert "the next boot is of slot a\n" in capsys.readouterr().out
    assert boots_next(find_node(root).boot.read()) == "a"


def test_a_command_names_only_options_that_it_has(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, has in (("check", True), ("update", True), ("site", False)):
        assert main(["--root", str(root), command]) == 1
        assert ("give --from" in capsys.readouterr().err) is has


@pytest.mark.parametrize(
    ("state", "slot"),
    [
        (BootState(), "a"),
        (BootState(next="b"), "b"),
        (BootState(order=("b", "a")).with_slot("b", TRIAL), "b"),
        (BootState(order=("b", "a")).with_slot("b", BAD), "a"),
        (BootState(slots={"a": SlotState(GOOD, 0), "b": SlotState()}), "b"),
        (BootState().with_slot("a", BAD).with_slot("b", BAD), ""),
    ],
)
def test_what_boots_next(state: BootState, slot: str) -> None:
    assert boots_next(state) == slot


def test_the_running_release_once_more(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish("1.0.0")
    update = ("update", "--from", str(publisher.store.folder))
    assert answer(capsys, root, *update) == (0, {"version": "1.0.0", "installed": False})
    assert answer(capsys, root, *update, "--reinstall")[1]["installed"] is True
    assert BootStateFile(root / "dev/vda2").read().slots["b"] == SlotState(TRIAL, 3)


def test_the_service_updates_and_reboots(
    root: Path,
    publisher: Publisher,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reboots: list[str] = []
    monkeypatch.setattr("updater.__main__._reboot", lambda: reboots.append("reboot"))
    publisher.store.folder.mkdir()
    options = ("--from", str(publisher.store.folder))
    for _ in range(2):
        assert answer(capsys, root, "pull", *options)[0] == 75
    assert len(answer(capsys, root, "history")[1]["events"]) == 1, "it is told once"  # type: ignore[arg-type]
    publisher.publish("1.1.0")
    assert answer(capsys, root, "pull", *options) == (0, {"version": "1.1.0", "installed": True})
    assert answer(capsys, root, "pull", *options) == (0, {"version": "1.1.0", "installed": True})
    assert reboots == ["reboot"], "once in a boot"


def test_a_person_may_not_go_back_without_a_signed_order(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.release("0.9.0")
    update = ("update", "--from", str(publisher.store.folder), "--to", "0.9.0")
    code, result = answer(capsys, root, *update)
    assert code == 1 and "0.9.0 is older than 1.0.0: only a signed order" in str(result["error"])
    code, result = answer(capsys, root, "update", "--from", str(root), "--to", "../../etc")
    assert code == 1


def test_status_says_whether_a_trial_is_over(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cmdline = root / "proc/cmdline"
    cmdline.write_text(cmdline.read_text().replace("mode=good", "mode=trial"))
    boot = find_node(root).boot
    for state in ("trial", "good"):
        boot.write(boot.read().with_slot("a", state))
        assert main(["--root", str(root), "status"]) == 0
        assert f"runs in slot a ({state})" in capsys.readouterr().out


def test_without_data_status_says_what_the_boot_loader_knows(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = BootStateFile(root / "dev/vda2")
    boot.write(boot.read().with_slot("b", BAD)._replace(why="panic"))
    assert main(["--root", str(root), "status"]) == 0
    output = capsys.readouterr().out
    assert (
        "before this one was rejected: its reason was lost; the boot loader knows: panic" in output
    )


def volume(label: bytes = b"BELAY") -> bytes:
    head = bytearray(512)
    head[43:54] = label.ljust(11)
    head[510:512] = b"\x55\xaa"
    return bytes(head) + bytes(range(256)) * 254


def test_own_files_are_written_to_their_partition(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, partition = tmp_path / "volume", root / "dev/vda5"
    file.write_bytes(volume())
    assert answer(capsys, root, "node", "--write", str(file))[0] == 0
    assert partition.read_bytes().startswith(volume())
    for wrong, why in (
        (volume(b"OTHER"), "is no volume labelled BELAY"),
        (bytes(1024), "is no volume labelled BELAY"),
        (b"", "is no volume labelled BELAY"),
        (volume() + bytes(64 << 10), "and 131072 came"),
    ):
        file.write_bytes(wrong)
        code, result = answer(capsys, root, "node", "--write", str(file))
        assert code == 1 and why in str(result["error"])
        assert partition.read_bytes().startswith(volume()), "what was there stays"


def test_own_files_that_are_cut_off_are_no_volume(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sectors come last, so there is no moment with half of a file system."""
    partition = root / "dev/vda5"
    states = []
    flush = Disk.flush

    def seen(disk: Disk) -> None:
        flush(disk)
        states.append(partition.read_bytes())

    monkeypatch.setattr(Disk, "flush", seen)
    (tmp_path / "volume").write_bytes(volume())
    assert main(["--root", str(root), "node", "--write", str(tmp_path / "volume")]) == 0
    assert [state[510:512] for state in states] == [b"\0\0", b"\0\0", b"\x55\xaa"]


def test_who_pauses_holds_nobody(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a limit, or until a server that failed is asked again: both take minutes."""
    publisher.publish("1.1.0")
    begun = threading.Event()

    def fail(request: http.server.BaseHTTPRequestHandler) -> bool:
        if "/blobs/" not in request.path:
            return False
        begun.set()
        request.send_error(503)
        return True

    def begin(_: http.server.BaseHTTPRequestHandler) -> bool:
        begun.set()
        return False

    for rate, trouble in ((0, fail), (2000, begin)):
        begun.clear()
        with served(publisher.store.folder, trouble) as (url, _):
            own = json.dumps({"url": url, "rate": rate})
            (root / "run/belay/node/settings.json").write_text(own)
            words = [sys.executable, "-m", "updater", "--root", str(root), "update"]
            process = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
            try:
                assert begun.wait(60)
                time.sleep(
                    3
                )  # the third pause is of eight seconds, that of the rate of half a minute
                start = time.monotonic()
                assert answer(capsys, root, "confirm") == (0, {"slot": "a"})
                assert time.monotonic() - start < 4
                _, output = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 75 and "another belay has its turn first" in output


@pytest.mark.parametrize("command", ["update", "pull", "site"])
def test_who_waits_for_a_server_holds_nobody(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    publisher.publish("1.1.0")
    begun, go_on = threading.Event(), threading.Event()

    def hang(request: http.server.BaseHTTPRequestHandler) -> bool:
        begun.set()
        go_on.wait(60)
        return False

    with served(publisher.store.folder, hang) as (url, _):
        own = json.dumps({"url": url, "site": True})
        (root / "run/belay/node/settings.json").write_text(own)
        words = [sys.executable, "-m", "updater", "--root", str(root), command]
        process = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        try:
            assert begun.wait(60)
            start = time.monotonic()
            code, result = answer(capsys, root, "rollback")
            assert (code, result) == (0, {"slot": "b"})
            assert time.monotonic() - start < 15
            _, output = process.communicate(timeout=60)
        finally:
            process.kill()
            go_on.set()
    assert process.returncode == 75
    assert "another belay has its turn first; this goes on later from here" in output
    _, told = answer(capsys, root, "history")
    assert "failed" not in json.dumps(told), "nothing failed"


def test_two_at_once(
    root: Path,
    publisher: Publisher,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("updater.turns.PATIENCE_S", 0.3)
    publisher.publish("1.1.0")
    lock = root / "run/belay/lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, result = answer(capsys, root, "update", "--from", str(publisher.store.folder))
    assert code == 1 and "at work already" in str(result["error"])


def test_a_server_out_of_reach_may_work_later(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(root), "check", "--from", "http://127.0.0.1:1"]) == 75
    assert capsys.readouterr().err.startswith("belay: http://127.0.0.1:1/channels/stable: ")
    assert main(["--root", str(root), "check"]) == 1
    assert "no server is set" in capsys.readouterr().err


def test_write_errors_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slot"
    path.write_bytes(bytes(8192))

    def broken(*_: object) -> int:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "pwritev", broken)
    reason = "slot can't be written at byte 4096: Input/output"
    with Disk(path, write=True) as disk, pytest.raises(UpdateError, match=reason):
        disk.write(4096, b"x")


@pytest.mark.parametrize(
    ("window", "hour", "inside"),
    [("", 3, True), ("22-4", 23, True), ("22-4", 3, True), ("22-4", 4, False), ("2-5", 5, False)],
)
def test_the_window(window: str, hour: int, inside: bool) -> None:
    assert in_window(window, hour) is inside


def test_a_look_at_the_state_loads_nothing_heavy(root: Path) -> None:
    """What each start loads is felt on a small machine; the rest comes when it is used."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from updater.__main__ import main
code = main(["--root", sys.argv[2], "status"])
heavy = {"ctypes", "hashlib", "http.client", "socket", "ssl", "tarfile", "urllib.request"}
print(code, sorted(heavy & sys.modules.keys()))
"""
    words = [sys.executable, "-I", "-S", "-c", script, str(PROJECT), str(root)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == "0 []"


def test_one_that_waits_and_is_stopped_is_passed_over(
    root: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given way to once: by Ctrl-Z nobody ends updates for good."""
    monkeypatch.setattr("updater.turns.PATIENCE_S", 0.5)
    publisher.publish("1.1.0")
    waiting = root / "run/belay/waiting"
    with served(publisher.store.folder) as (url, _), waiting.open("w") as stopped:
        own = json.dumps({"url": url})
        (root / "run/belay/node/settings.json").write_text(own)
        fcntl.flock(stopped, fcntl.LOCK_SH)
        assert main(["--root", str(root), "update"]) == 75
        time.sleep(1.2)
        assert main(["--root", str(root), "update"]) == 0
    # And the next that waits is given way to again.
    assert main(["--root", str(root), "check", "--from", str(publisher.store.folder)]) == 0
    with served(publisher.store.folder) as (url, _), waiting.open("w") as another:
        (root / "run/belay/node/settings.json").write_text(json.dumps({"url": url}))
        assert main(["--root", str(root), "update"]) == 0
        fcntl.flock(another, fcntl.LOCK_SH)
        assert main(["--root", str(root), "update"]) == 75


def test_nobody_else_can_hold_its_locks(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish("1.1.0")
    assert answer(capsys, root, "update", "--from", str(publisher.store.folder))[0] == 0
    for name in ("lock", "waiting", "memory-lock"):
        assert (root / "run/belay" / name).stat().st_mode & 0o777 == 0o600, name


def test_the_logs_of_unhealthy_boots_are_shown(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(root), "history", "--log"]) == 0
    assert capsys.readouterr().out == "no boot was unhealthy, as far as this node remembers\n"
    (root / "data/belay").mkdir(parents=True)
    (root / "data/belay/log").write_text("the last one\n")
    (root / "data/belay/log-before").write_text("one before\x1b[2J\n")
    assert main(["--root", str(root), "history", "--log"]) == 0
    assert capsys.readouterr().out == "one before?[2J\nthe last one\n"
    code, told = answer(capsys, root, "history", "--log")
    assert (code, told["logs"]) == (0, ["one before\x1b[2J\n", "the last one\n"])


def test_who_reads_no_further_and_who_interrupts_sees_no_traceback(root: Path) -> None:
    words = [sys.executable, "-m", "updater", "--root", str(root)]
    shell = f"{sys.executable} -m updater --root {root} status | true"
    done = subprocess.run(
        ["sh", "-c", shell], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    silent = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    url = f"http://127.0.0.1:{silent.server_address[1]}"  # it listens, and never answers
    process = subprocess.Popen(
        [*words, "check", "--from", url], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=30)
    silent.server_close()
    assert (process.returncode, output) == (130, "")


def test_a_site_that_can_t_be_had_is_noted_as_a_release_is(
    root: Path, publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(publisher.store.folder) as (url, _):
        own = json.dumps({"url": url, "site": True})
        (root / "run/belay/node/settings.json").write_text(own)
        for _ in range(2):
            assert main(["--root", str(root), "pull"]) == 75
    capsys.readouterr()
    _, told = answer(capsys, root, "history")
    reasons = [event["reason"] for event in told["events"]]  # type: ignore[attr-defined]
    assert len(reasons) == 2 and "/channels/stable: " in reasons[0]
    assert "/channels/stable.site: " in reasons[1]
