"""Whatever lies on `data`, and whatever it doesn't take, the node goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.esp import esp
from tests.publisher import NOW, FileNode
from updater.errors import UpdateError
from updater.memory import HISTORY_LINES, Memory, Tried, Trust

KEY = "0123456789ABCDEF"
TRUST = Trust({"stable": {KEY: NOW}}, (KEY,), {"stable": '"5f-2a"'})
TRIED = Tried("1.1.0", "b", reached=True)


@pytest.fixture
def node(tmp_path: Path) -> FileNode:
    return FileNode(tmp_path / "node", esp(), [])


@pytest.fixture
def memory(node: FileNode) -> Memory:
    node.memory.keep_trust(TRUST)
    node.memory.keep_tried(TRIED)
    node.memory.note("update", "1.1.0", "b")
    return node.memory


def rubbish(path: Path) -> None:
    path.write_bytes(b"\0\xff{" * 100)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def huge(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" " * (100 << 20))  # JSON all the same


def folder(path: Path) -> None:
    path.unlink()
    (path / "in it").mkdir(parents=True)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def number(path: Path) -> None:
    path.write_text("1" * 5000)  # more digits than Python takes


@pytest.mark.parametrize("damage", [rubbish, nested, huge, folder, pipe, loop, number])
def test_what_is_damaged_is_put_aside_and_done_without(
    memory: Memory, damage: Callable[[Path], None]
) -> None:
    for name in ("trust.json", "tried.json"):
        damage(memory.folder / name)
    assert (memory.trust(), memory.tried()) == (Trust(), None)
    assert [line.split()[0] for line in memory.damaged()] == ["tried.json", "trust.json"]
    for name in ("trust.json", "tried.json"):
        assert not (memory.folder / name).exists()
    memory.keep_trust(TRUST)
    memory.keep_tried(TRIED)
    assert (memory.trust(), memory.tried()) == (TRUST, TRIED)
    damage(memory.folder / "trust.json")  # the older damaged one makes room
    assert memory.trust() == Trust()


@pytest.mark.parametrize(
    "values",
    [
        {"version": "1.1.0", "slot": "c"},
        {"version": "1.1.0", "slot": ["b"]},
        {"version": 1.1, "slot": "b"},
        {"version": "1.1.0", "slot": "b", "confirmed": "yes"},
        {"version": "1.1.0", "slot": "b", "rejected": "\x1b[2J"},
        {"version": "1.1.0", "slot": "b", "rejected": "x" * 5000},
        {"slot": "b"},
    ],
)
def test_a_field_that_makes_no_sense_is_damage(memory: Memory, values: object) -> None:
    (memory.folder / "tried.json").write_text(json.dumps(values))
    assert memory.tried() is None
    assert len(memory.damaged()) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("etags", {"stable": "*"}),
        ("etags", {"stable": '"' + "x" * 60_000 + '"'}),
        ("etags", {"stable": '"a"\r\nHost: x'}),
        ("etags", 7),
        ("newest", {"../../etc": 7}),
        ("newest", {"stable": 10**18}),
        ("newest", {"stable": {KEY: -1}}),
        ("newest", {"stable": {"no key": NOW}}),
        ("newest", {"stable": "yesterday"}),
        ("revoked", [KEY, "no key"]),
        ("revoked", "all"),
    ],
)
def test_what_makes_sense_beside_it_is_kept(memory: Memory, field: str, value: object) -> None:
    (memory.folder / "trust.json").write_text(json.dumps({**TRUST._asdict(), field: value}))
    found = memory.trust()
    assert [name for name in Trust._fields if getattr(found, name) == getattr(TRUST, name)] == [
        name for name in Trust._fields if name != field or (field == "revoked" and value != "all")
    ]
    assert len(memory.damaged()) == 1
    assert json.loads((memory.folder / "trust.json").read_text().splitlines()[0]) == json.loads(
        json.dumps(found._asdict())
    )


def test_times_of_versions_before_count_for_all_keys(memory: Memory) -> None:
    (memory.folder / "trust.json").write_text(
        '{"newest": {"stable": 7}, "revoked": [], "etags": {}}'
    )
    assert memory.newest("stable", set()) == 7
    assert memory.damaged() == []


def test_fields_of_other_versions_are_no_damage(memory: Memory) -> None:
    for change in ({"more": 7}, {"etags": None}):
        values = {**TRUST._asdict(), **change}
        (memory.folder / "trust.json").write_text(
            json.dumps({name: value for name, value in values.items() if value is not None})
        )
        assert memory.trust().newest == TRUST.newest
        assert memory.damaged() == []


def test_lines_of_the_history_that_make_no_sense_are_left_out(memory: Memory) -> None:
    lines = (memory.folder / "history").read_text()
    odd = [
        "", "{}", "[1]", "[" * 100_000, '{"time": 1}',
        json.dumps({"time": 10**18, "what": "x", "version": "", "slot": ""}),
        json.dumps({"time": 1, "what": "\x1b[2J", "version": "", "slot": ""}),
    ]  # fmt: skip
    (memory.folder / "history").write_text("\n".join([*odd, lines]))
    assert [event.version for event in memory.history()] == ["1.1.0"]
    for count in range(HISTORY_LINES):
        memory.note("failed", str(count), "b", "\x1b[31m" + "long " * 5000)
    events = memory.history()
    assert len(events) == HISTORY_LINES and events[0].version == "0"
    assert (memory.folder / "history").stat().st_size < 4 << 20
    assert all("\x1b" not in event.reason for event in events)


@pytest.mark.parametrize("place", ["belay", "."])
def test_without_data_it_is_remembered_until_the_next_boot(
    node: FileNode, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    data = node.root / "data"
    if place == ".":
        data.symlink_to("/dev/full")
    else:
        data.mkdir()
        (data / "belay").symlink_to("/proc/self/fdinfo")  # a folder in which nothing can be made
    node.memory.keep_trust(TRUST)
    assert node.memory.trust() == TRUST
    assert node.memory.volatile_files == ["signed", "trust.json"]
    with pytest.raises(UpdateError, match=r"can't be written: .*; nothing was changed"):
        node.memory.write("trust.json", b"{}", durable=True)
    assert node.memory.trust() == TRUST
    (data if place == "." else data / "belay").unlink()
    node.memory.keep_trust(TRUST._replace(revoked=()))
    assert node.memory.trust() == TRUST._replace(revoked=())
    assert node.memory.volatile_files == []


def test_a_flipped_bit_in_what_is_trusted_is_noticed(memory: Memory) -> None:
    """A time that is far ahead would refuse every honest channel, for ever."""
    memory.keep_trust(Trust({"stable": {"0123456789ABCDEF": NOW}}))
    file = memory.folder / "trust.json"
    file.write_text(file.read_text().replace(f": {NOW}", f": {NOW + 2**31}"))
    assert memory.trust() == Trust()
    assert [line.split()[0] for line in memory.damaged()] == ["trust.json"]
    assert memory.trust() == Trust()


def test_damaged_trust_on_a_disk_that_takes_no_writes(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = memory.folder / "trust.json"
    file.write_text('{"newest": {}, "revoked": ["no key"], "etags": {}}')

    def read_only(path: Path, target: Path) -> None:
        if path.parent == memory.folder:
            raise OSError(errno.EROFS, "Read-only file system")
        shutil.move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", read_only)
        assert memory.trust() == Trust()
        memory.keep_trust(TRUST._replace(revoked=()))
        assert memory.trust() == TRUST._replace(revoked=())


def test_a_server_without_tags_damages_nothing(memory: Memory) -> None:
    """Versions before kept an empty one."""
    (memory.folder / "trust.json").write_text('{"newest": {}, "etags": {"stable": ""}}')
    assert memory.trust() == Trust() and memory.damaged() == []


def test_what_is_in_the_way_makes_room(node: FileNode) -> None:
    (node.root / "data").mkdir()
    (node.root / "data/belay").symlink_to("nowhere")
    node.memory.write("site-a-trial", b"one", durable=True)
    for name in (".site-a-trial", "site-a-trial"):
        path = node.memory.folder / name
        path.unlink(missing_ok=True)
        (path / "in it").mkdir(parents=True)
        node.memory.write("site-a-trial", b"two", durable=True)
        assert node.memory.read("site-a-trial") == b"two"


def test_what_memory_holds_damaged_does_not_cost_what_data_has(memory: Memory) -> None:
    memory.keep_tried(Tried("1.1.0", "b"))
    (memory.node.root / "run/belay/kept/tried.json").mkdir(parents=True)
    tried = memory.tried()
    assert tried and tried.version == "1.1.0" and memory.damaged() == []


def test_long_reasons_in_any_letters_leave_the_history_readable(memory: Memory) -> None:
    for count in range(400):
        memory.note("failed", str(count), "b", "\U0001f984" * 4000)
    assert memory.history()[-1].version == "399" and memory.damaged() == []


def test_a_file_in_the_place_of_the_folder_makes_room(node: FileNode) -> None:
    (node.root / "data").mkdir()
    (node.root / "data/belay").write_text("what is this?")
    assert node.memory.trust() == Trust()
    node.memory.keep_trust(TRUST)
    assert node.memory.volatile_files == [] and node.memory.trust() == TRUST
    assert (node.root / "data/damaged-belay").read_text() == "what is this?"


def test_no_error_has_more_than_a_terminal_should_see() -> None:
    output = str(UpdateError("\x1b[2J\x07 a \u202e word\n" + "x" * 5000))
    assert (
        output.startswith("?[2J? a ? word\nxxx") and output.endswith("x...") and len(output) == 2000
    )


def test_nobody_else_may_read_it(node: FileNode) -> None:
    node.memory.folder.mkdir(parents=True, mode=0o755)
    node.memory.keep_trust(TRUST)
    assert stat.S_IMODE(node.memory.folder.stat().st_mode) == 0o700


def test_many_at_once_lose_nothing(node: FileNode) -> None:
    """As `belay check` beside the service that pulls: each has a Memory of its own."""

    def note(count: int) -> None:
        Memory(node.node, lambda: NOW).note("failed", str(count), "b")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(note, range(120)))
    assert sorted(int(event.version) for event in node.memory.history()) == list(range(120))
