"""The updater, against real releases over real sockets, with files as partitions."""

from __future__ import annotations

import hashlib
import http.server
import lzma
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.esp import esp
from tests.publisher import BUILT, DAY, NOW, SLOT_SIZE, FileNode, Key, Publisher, served, slot_bytes
from updater import disk as disk_module
from updater.contract import BAD, GOOD, TRIAL
from updater.errors import Refused, Unreachable, UpdateError
from updater.formats import Blob, Chunk
from updater.grubenv import BootState, SlotState
from updater.memory import Trust
from updater.server import Access
from updater.source import open_source
from updater.update import Updater


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setattr("builder.releases.chunks.CACHE", tmp_path / "cache")
    return Publisher(tmp_path / "server")


@pytest.fixture
def node(tmp_path: Path, publisher: Publisher) -> FileNode:
    return FileNode(tmp_path / "node", esp(), [publisher.key.public])


def test_an_update_ends_as_the_trial_slot(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("1.1.0")
    before = node.slots["a"].read_bytes()
    with served(publisher.store.folder) as (url, _):
        node.update(url)
    state = node.boot.read()
    assert state.order == ("b", "a")
    assert state.slots == {"a": SlotState(), "b": SlotState(TRIAL, 3)}
    assert state.last_good == "a"
    assert node.holds("b", manifest, publisher)
    assert node.slots["a"].read_bytes() == before, "the running slot is never written"
    assert [event.what for event in node.memory.history()] == ["update"]


def test_a_folder_is_as_good_as_a_server(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("1.1.0")
    node.update(str(publisher.store.folder))
    assert node.holds("b", manifest, publisher)


def packed(publisher: Publisher, mode: Literal["w:", "w:gz"]) -> Path:
    """What the server has, in one file."""
    file = publisher.store.folder.with_suffix(".tar")
    with tarfile.open(file, mode=mode) as tar:
        tar.add(publisher.store.folder, ".")
    return file


def test_one_file_is_as_good_as_a_folder(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("1.1.0")
    node.update(str(packed(publisher, "w:")))
    assert node.holds("b", manifest, publisher)


def test_a_damaged_file_is_refused_and_an_honest_one_taken(
    publisher: Publisher, node: FileNode
) -> None:
    publisher.publish("1.1.0")
    with pytest.raises(UpdateError, match=r"\.tar is no tar, or is compressed or damaged"):
        node.update(str(packed(publisher, "w:gz")))
    file = packed(publisher, "w:")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UpdateError):
        node.update(str(file))
    assert node.boot.read().slots["b"].state != TRIAL
    file.write_bytes(whole)
    node.update(str(file))


def test_nothing_new_is_one_small_request(publisher: Publisher, node: FileNode) -> None:
    publisher.publish("1.0.0")
    with served(publisher.store.folder) as (url, requests):
        node.updater(url).channel()
        requests.clear()
        assert node.updater(url).channel().version == "1.0.0"
    assert requests == ["/channels/stable"]


def test_a_tag_that_nobody_signed_ends_no_updates(publisher: Publisher, node: FileNode) -> None:
    """One answer of somebody in the middle, and every honest server says: nothing new."""
    publisher.publish("1.0.0")
    asked: list[str] = []

    def note(request: http.server.BaseHTTPRequestHandler) -> bool:
        asked.append(request.headers.get("If-None-Match", ""))
        return False

    def kept_at(time: float) -> None:
        os.utime(node.memory.folder / "channel-stable", (time, time))

    with served(publisher.store.folder, note) as (url, _):
        node.updater(url).channel()
        kept_at(NOW - 10)
        node.updater(url).channel()
        tag = node.memory.trust().etags["stable"]
        assert asked == ["", tag] and tag
        # It is not believed for ever, nor by a clock that jumps, nor without a good copy.
        for time in (NOW - 86400, NOW + 10):
            kept_at(time)
            node.updater(url).channel()
            assert asked.pop() == ""
        for damage in (b"", b"rubbish", b"x" * 100_000):
            (node.memory.folder / "channel-stable").write_bytes(damage)
            kept_at(NOW - 10)
            assert node.updater(url).channel().version == "1.0.0"
            assert asked.pop() == ""
        publisher.point("1.0.0", signed=NOW, expires=NOW + 5)
        node.updater(url).channel()
        kept_at(NOW)
        node.clock += 6
        publisher.point("1.0.0", signed=NOW + 6)
        node.updater(url).channel()
        assert asked.pop() == "", "the copy has expired"


def test_what_the_slot_holds_is_not_fetched_again(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("1.1.0")
    whole = (publisher.store.folder.parent / "1.1.0.img").read_bytes()
    with node.slots["b"].open("r+b") as slot:
        slot.write(whole[: 4 << 20])
    ranges: list[str] = []

    def note(request: http.server.BaseHTTPRequestHandler) -> bool:
        ranges.append(request.headers.get("Range", ""))
        return False

    with served(publisher.store.folder, note) as (url, _):
        node.update(url)
    last = manifest.slot.chunks[-1]
    assert [x for x in ranges if x] == [f"bytes={last.offset}-{last.offset + last.size - 1}"]
    assert node.holds("b", manifest, publisher)


def test_a_lost_connection_goes_on_where_it_stopped(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("1.1.0")
    blob = (publisher.store.blobs / manifest.slot.blob.sha256).read_bytes()
    second = manifest.slot.chunks[1]
    cut = second.offset + second.size // 2
    starts: list[int] = []

    def cut_off(request: http.server.BaseHTTPRequestHandler) -> bool:
        if "blobs" not in request.path:
            return False
        start, end = request.headers["Range"].removeprefix("bytes=").split("-")
        starts.append(int(start))
        if len(starts) > 1:
            return False
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{end}/{len(blob)}")
        request.send_header("Content-Length", str(int(end) + 1))
        request.end_headers()
        request.wfile.write(blob[:cut])
        request.close_connection = True
        return True

    with served(publisher.store.folder, cut_off) as (url, _):
        node.update(url)
    assert starts == [0, cut]
    assert node.holds("b", manifest, publisher)


# --- what is refused ---

Trick = Callable[[Publisher, FileNode], None]


def other_key(publisher: Publisher, node: FileNode) -> None:
    publisher.point("1.1.0", Key().sign)


def release_by_other_key(publisher: Publisher, node: FileNode) -> None:
    publisher.release("1.2.0", Key().sign)
    publisher.point("1.2.0")


def revoked_key(publisher: Publisher, node: FileNode) -> None:
    node.change(revoked=frozenset([publisher.key.public.id]))


def other_channel(publisher: Publisher, node: FileNode) -> None:
    publisher.point("1.1.0", channel="beta")
    channels = publisher.store.folder / "channels"
    (channels / "beta").rename(channels / "stable")


def other_os(publisher: Publisher, node: FileNode) -> None:
    publisher.point("1.1.0", os="harness")


def expired(publisher: Publisher, node: FileNode) -> None:
    publisher.point("1.1.0", expires=NOW - 1)


def older(publisher: Publisher, node: FileNode) -> None:
    publisher.publish("0.9.0")


def replayed(publisher: Publisher, node: FileNode) -> None:
    old = (publisher.store.folder / "channels/stable").read_bytes()
    publisher.publish("1.1.1", signed=NOW + 10)
    node.updater(str(publisher.store.folder)).channel()
    (publisher.store.folder / "channels/stable").write_bytes(old)


def release_for_other_machines(publisher: Publisher, node: FileNode) -> None:
    publisher.release("1.2.0", arch="aarch64")
    publisher.point("1.2.0")


def release_for_other_os(publisher: Publisher, node: FileNode) -> None:
    publisher.release("1.2.0", os="harness")
    publisher.point("1.2.0")


def mixed_releases(publisher: Publisher, node: FileNode) -> None:
    publisher.release("1.2.0")
    for name in ("manifest.json", "manifest.json.minisig"):
        other = publisher.store.release("1.2.0") / name
        (publisher.store.release("1.1.0") / name).write_bytes(other.read_bytes())


def signature_of_another(publisher: Publisher, node: FileNode) -> None:
    publisher.release("1.2.0")
    other = publisher.store.release("1.2.0") / "manifest.json.minisig"
    (publisher.store.release("1.1.0") / "manifest.json.minisig").write_bytes(other.read_bytes())


def edit_signature(change: Callable[[bytes], bytes]) -> Trick:
    def trick(publisher: Publisher, node: FileNode) -> None:
        path = publisher.store.release("1.1.0") / "manifest.json.minisig"
        path.write_bytes(change(path.read_bytes()))

    return trick


def edit_channel(change: Callable[[bytes], bytes]) -> Trick:
    def trick(publisher: Publisher, node: FileNode) -> None:
        path = publisher.store.folder / "channels/stable"
        path.write_bytes(change(path.read_bytes()))

    return trick


def signed_nonsense(text: bytes) -> Trick:
    def trick(publisher: Publisher, node: FileNode) -> None:
        path = publisher.store.folder / "channels/stable"
        path.write_bytes(text + publisher.key.sign(text))

    return trick


def edit_blob(change: Callable[[bytes], bytes]) -> Trick:
    def trick(publisher: Publisher, node: FileNode) -> None:
        manifest = publisher.store.manifest("1.1.0", [publisher.key.public])
        path = publisher.store.blobs / manifest.slot.blob.sha256
        path.write_bytes(change(path.read_bytes()))

    return trick


def corrupt_at(share: float) -> Trick:
    def change(data: bytes) -> bytes:
        at = int(len(data) * share)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return edit_blob(change)


def chunk_that_is_a_bomb(publisher: Publisher, node: FileNode) -> None:
    """A signed chunk that unpacks to more than the manifest says."""
    data = slot_bytes("1.2.0", 1 << 20)
    bomb = lzma.compress(bytes(64 << 20), lzma.FORMAT_XZ, lzma.CHECK_NONE)
    manifest = publisher.release("9.9.9", data=data)
    name = hashlib.sha256(bomb).hexdigest()
    (publisher.store.blobs / name).write_bytes(bomb)
    chunk = Chunk(manifest.slot.chunks[0].sha256, 0, len(bomb))
    slot = replace(manifest.slot, blob=Blob(name, len(bomb)), chunks=(chunk,))
    publisher.release("1.2.0", slot=slot)
    publisher.point("1.2.0")


def too_large(publisher: Publisher, node: FileNode) -> None:
    publisher.release("1.2.0", data=slot_bytes("1.2.0", SLOT_SIZE + 4096))
    publisher.point("1.2.0")


def blob_outside(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.store.manifest("1.1.0", [publisher.key.public])
    blob = replace(manifest.slot.blob, sha256="../../channels/stable")
    publisher.release("1.2.0", slot=replace(manifest.slot, blob=blob))
    publisher.point("1.2.0")


def version_outside(publisher: Publisher, node: FileNode) -> None:
    text = (publisher.store.folder / "channels/stable").read_bytes().split(b"\n")[0]
    signed_nonsense(text.replace(b'"1.1.0"', b'"/etc/1.1.0"') + b"\n")(publisher, node)


REFUSED: dict[str, tuple[Trick, str]] = {
    "another key": (other_key, "signed by key .*; trusted are:"),
    "a release by another key": (release_by_other_key, "release 1.2.0 is signed by key"),
    "a revoked key": (revoked_key, "trusted are: none"),
    "another channel": (other_channel, "gave channel beta instead"),
    "another OS": (other_os, "is for harness, and this is belay"),
    "an expired channel": (expired, "has expired; whoever publishes it"),
    "an older version": (older, "0.9.0, which is older than 1.0.0; only a signed order"),
    "a replayed channel": (replayed, "an old one: a newer was seen before"),
    "another architecture": (release_for_other_machines, "its arch is aarch64, wanted x86_64"),
    "a release of another OS": (release_for_other_os, "its os is harness, wanted belay"),
    "mixed releases": (mixed_releases, "not the one that the channel names"),
    "a signature of another file": (signature_of_another, "not what its signature"),
    "no signature": (edit_signature(lambda _: b""), "has 0 lines, wanted 4"),
    "a line too few": (
        edit_signature(lambda data: b"\n".join(data.split(b"\n")[:3]) + b"\n"),
        "has 3 lines, wanted 4",
    ),
    "a line too many": (edit_signature(lambda data: data + b"more\n"), "has 5 lines, wanted 4"),
    "a changed comment": (
        edit_signature(lambda data: data.replace(b"trusted comment: ", b"trusted comment: x", 2)),
        "not in minisign's format|comment in the signature of release 1.1.0 was changed",
    ),
    "a channel without signature": (edit_channel(lambda x: x.split(b"\n")[0] + b"\n"), "0 lines"),
    "a changed channel": (
        edit_channel(lambda data: data.replace(b'"downgrade":false', b'"downgrade":true ')),
        "not what its signature",
    ),
    "a channel that is too large": (edit_channel(lambda x: x + bytes(1 << 20)), "is larger than"),
    "no JSON": (signed_nonsense(b"hello\n"), "is no JSON"),
    "JSON of another shape": (signed_nonsense(b"[1]\n"), "wanted a JSON object"),
    "JSON that is deep": (signed_nonsense(b"[" * 9000 + b"\n"), "is no JSON"),
    "fields of other types": (signed_nonsense(b'{"format": true}\n'), "format is True"),
    "a later format": (signed_nonsense(b'{"format": 2}\n'), "format is 2"),
    "a short blob": (edit_blob(lambda data: data[: len(data) // 2]), "too early|another range"),
    "an empty blob": (edit_blob(lambda _: b""), "too early|another range"),
    "a blob corrupt at its first byte": (corrupt_at(0), "can't be unpacked"),
    "a blob corrupt in the middle": (corrupt_at(0.5), "can't be unpacked|corrupt|has .* bytes"),
    "a blob corrupt near its end": (corrupt_at(0.99), "can't be unpacked|corrupt|has .* bytes"),
    "a chunk that is a bomb": (chunk_that_is_a_bomb, "corrupt"),
    "a slot that is too small": (too_large, "has .* bytes, and slot b only"),
    "a blob's name with dots": (blob_outside, "sha256 is .*, which makes no sense"),
    "a version with a path": (version_outside, "version is '/etc/1.1.0'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_nothing_is_lost(name: str, publisher: Publisher, node: FileNode) -> None:
    publisher.publish("1.1.0")
    trick, reason = REFUSED[name]
    trick(publisher, node)
    before = node.state()
    with served(publisher.store.folder) as (url, _), pytest.raises(UpdateError, match=reason):
        node.update(url)
    after = node.state()
    assert after["a"] == before["a"]
    state = node.boot.read()
    assert state.order == ("a", "b")
    assert state.slots["a"] == SlotState()
    assert state.slots["b"].state in (GOOD, BAD), "it is not tried"
    if name not in ("a slot that is too small",) and "blob" not in name and "bomb" not in name:
        assert after["boot"] == before["boot"]

    node.change(revoked=frozenset())
    manifest = publisher.publish("1.3.0", signed=NOW + 100)
    with served(publisher.store.folder) as (url, _):
        node.update(url)
    assert node.holds("b", manifest, publisher)
    assert node.boot.read().slots["b"] == SlotState(TRIAL, 3)


def test_a_key_hands_over_to_the_next(publisher: Publisher, node: FileNode) -> None:
    """The old key signs the release that trusts the new one and revokes the old one."""
    source, old, new = str(publisher.store.folder), publisher.key, Key()
    publisher.publish("1.1.0")
    node.update(source)
    # That release runs, was kept, and then left again: what it revoked stays revoked.
    node.boot.write(BootState())
    node.change(keys=[old.public, new.public])
    node.memory.keep_trust(Trust(revoked=(old.public.id,)))
    publisher.publish("1.2.0", signed=NOW + 1)
    with pytest.raises(
        Refused, match=f"signed by key {old.public.id}; trusted are: {new.public.id}"
    ):
        node.update(source)
    publisher.key = new
    manifest = publisher.publish("1.3.0", signed=NOW + 2)
    node.update(source)
    assert node.holds("b", manifest, publisher)


def test_a_downgrade_needs_a_signed_order(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("0.9.0", downgrade=True)
    node.update(str(publisher.store.folder))
    assert node.holds("b", manifest, publisher)


@pytest.mark.parametrize("clock", [0, NOW + 60 * 365 * DAY], ids=["1970", "2083"])
def test_a_wrong_clock_neither_stops_updates_nor_lets_old_ones_in(
    clock: int, publisher: Publisher, node: FileNode
) -> None:
    node.clock = clock
    publisher.publish("1.1.0")
    publisher.point("1.1.0", expires=BUILT - 1)
    with pytest.raises(Refused, match="has expired"):
        node.update(str(publisher.store.folder))
    publisher.point("1.1.0")
    node.update(str(publisher.store.folder))


def test_memory_of_signed_times_outlives_the_release(publisher: Publisher, node: FileNode) -> None:
    publisher.publish("1.1.0", signed=NOW + 50)
    node.updater(str(publisher.store.folder)).channel()
    node.clock = 0
    newest = node.memory.newest("stable", {publisher.key.public.id})
    assert newest == NOW + 50 and node.memory.now(newest)[0] == NOW + 50
    (node.root / "data/belay/trust.json").write_text("rubbish")
    assert node.memory.newest("stable", {publisher.key.public.id}) == 0
    assert node.memory.now(0)[0] == BUILT


@pytest.mark.parametrize("ahead", [31 * DAY, 365 * DAY])
def test_a_clock_that_nobody_keeps_right_ends_no_updates(
    ahead: int, publisher: Publisher, node: FileNode
) -> None:
    """A battery that was set to the wrong month: every good channel would have expired."""
    node.clock, node.clock_is_kept = NOW + ahead, False
    publisher.publish("1.1.0")
    node.update(str(publisher.store.folder))
    publisher.point("1.1.0", signed=NOW - 1)
    with pytest.raises(Refused, match="is an old one"):
        node.update(str(publisher.store.folder))
    publisher.point("1.1.0", signed=NOW, expires=NOW - 1)
    with pytest.raises(Refused, match="has expired"):
        node.update(str(publisher.store.folder))
    node.clock_is_kept = True
    publisher.point("1.1.0")
    with pytest.raises(Refused, match="has expired"):
        node.update(str(publisher.store.folder))


@pytest.mark.parametrize("kept", [True, False])
def test_an_image_that_is_no_release_takes_what_is_signed_now(
    kept: bool, publisher: Publisher, node: FileNode
) -> None:
    node.clock_is_kept = kept
    node.change(system=node.node.system._replace(built=0))
    publisher.publish("1.1.0")
    node.update(str(publisher.store.folder))


def test_a_thief_s_file_of_the_far_future_does_not_outlive_his_key(
    publisher: Publisher, node: FileNode
) -> None:
    thief = Key()
    node.change(keys=[publisher.key.public, thief.public])
    publisher.release("1.1.0")
    source = str(publisher.store.folder)
    later = NOW + 20 * 365 * DAY
    for kept, signed in ((True, NOW + 3 * DAY), (False, later)):
        node.clock_is_kept = kept
        publisher.point("1.1.0", thief.sign, signed=signed, expires=later + DAY)
        with pytest.raises(Refused, match=r"says that it was signed on 20.*, which is yet to come"):
            node.update(source)
    node.clock_is_kept = True
    publisher.point("1.1.0", thief.sign, signed=NOW + DAY, expires=later)
    assert node.updater(source).channel().signed == NOW + DAY
    publisher.point("1.1.0")
    with pytest.raises(Refused, match="is an old one"):
        node.updater(source).channel()
    node.change(revoked=frozenset([thief.public.id]))
    assert node.updater(source).channel().signed == NOW


def answering(status: int, headers: dict[str, str], body: bytes = b"") -> Callable[..., bool]:
    def answer(request: http.server.BaseHTTPRequestHandler) -> bool:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
        request.close_connection = True
        return True

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answering(404, {}), "answered 404"),
        (answering(500, {}), "answered 500"),
        (answering(302, {"Location": "/channels/stable"}), "sends on more than 5 times"),
        (answering(302, {}), "answered 302"),
        (answering(200, {}, b"<html>Welcome to the hotel</html>"), "a web page came"),
        (
            answering(200, {"Content-Length": "999"}, b"short"),
            "0 lines",
        ),
    ],
    ids=["404", "500", "redirect", "redirect to nowhere", "HTML", "short"],
)
def test_a_server_that_fails(
    answer: Callable[..., bool], reason: str, publisher: Publisher, node: FileNode
) -> None:
    publisher.publish("1.1.0")
    before = node.state()
    with (
        served(publisher.store.folder, answer) as (url, _),
        pytest.raises(UpdateError, match=reason),
    ):
        node.update(url)
    assert node.state() == before


def test_nobody_listens(node: FileNode) -> None:
    with pytest.raises(Unreachable, match="refused"):
        node.update("http://127.0.0.1:1")


def test_an_endless_answer_ends(publisher: Publisher, node: FileNode) -> None:
    def endless(request: http.server.BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(bytes(4096))
        except OSError:
            return True

    with (
        served(publisher.store.folder, endless) as (url, _),
        pytest.raises(Refused, match="larger"),
    ):
        node.update(url)


def test_a_slow_server_is_given_up(
    publisher: Publisher, node: FileNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("updater.server.GRACE_S", -1)
    monkeypatch.setattr("updater.server.SLOWEST", 1 << 40)
    publisher.publish("1.1.0")
    with served(publisher.store.folder) as (url, _), pytest.raises(Unreachable, match="slow"):
        node.update(url)


def test_a_server_without_ranges_will_do(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("1.1.0")
    whole = (publisher.store.folder.parent / "1.1.0.img").read_bytes()
    with node.slots["b"].open("r+b") as slot:
        slot.write(whole[: 2 << 20])
    blob = (publisher.store.blobs / manifest.slot.blob.sha256).read_bytes()

    def without_ranges(request: http.server.BaseHTTPRequestHandler) -> bool:
        return "blobs" in request.path and answering(200, {}, blob)(request)

    with served(publisher.store.folder, without_ranges) as (url, _):
        node.update(url)
    assert node.holds("b", manifest, publisher)


def test_a_limit_slows_a_download(publisher: Publisher) -> None:
    publisher.publish("1.1.0")
    waits: list[float] = []
    with served(publisher.store.folder) as (url, _):
        open_source(url, access=Access(limit=100), sleep=waits.append).get("channels/stable", 10000)
    size = (publisher.store.folder / "channels/stable").stat().st_size
    assert waits and waits[-1] == pytest.approx(size / 100, rel=0.2)


def test_a_slot_that_is_not_confirmed_keeps_the_other(publisher: Publisher, node: FileNode) -> None:
    publisher.publish("1.1.0")
    node.boot.write(node.boot.read()._replace(last_good="b"))
    before = node.state() | {"b": node.slots["b"].read_bytes()}
    with pytest.raises(UpdateError, match="slot a is not confirmed: slot b may be needed"):
        node.update(str(publisher.store.folder))
    after = node.state()
    assert (after["boot"], node.slots["b"].read_bytes()) == (before["boot"], before["b"])


def test_a_disk_that_does_not_keep_what_it_is_given(
    publisher: Publisher, node: FileNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish("1.1.0")
    write = disk_module.Disk.write

    def lossy(self: disk_module.Disk, offset: int, data: bytes, alignment: int = 4096) -> None:
        if offset != 2 << 20:
            write(self, offset, data, alignment)

    monkeypatch.setattr(disk_module.Disk, "write", lossy)
    with pytest.raises(UpdateError, match="the disk does not keep what it is given"):
        node.update(str(publisher.store.folder))
    assert node.boot.read().slots["b"].state == BAD
    monkeypatch.undo()


def test_chunks_that_make_another_slot_are_not_the_disks_fault(
    publisher: Publisher, node: FileNode
) -> None:
    image = publisher.release("1.0.5").slot
    swapped = replace(image, chunks=(image.chunks[1], image.chunks[0], *image.chunks[2:]))
    publisher.release("1.1.0", slot=swapped)
    publisher.point("1.1.0")
    with pytest.raises(Refused, match="its chunks are signed, and make another slot image"):
        node.update(str(publisher.store.folder))
    assert node.boot.read().slots["b"].state == BAD


def test_a_chunk_is_no_larger_than_a_chunk_may_be(publisher: Publisher, node: FileNode) -> None:
    """A gigabyte of it would take the memory of a node three times over."""
    image = publisher.release("1.0.5").slot
    blob = Blob(image.blob.sha256, 1 << 30)
    large = replace(image.chunks[0], offset=0, size=1 << 29)
    publisher.release("1.1.0", slot=replace(image, blob=blob, chunks=(large, *image.chunks[1:])))
    publisher.point("1.1.0")
    with pytest.raises(Refused, match="chunks: size is 536870912, which makes no sense"):
        node.update(str(publisher.store.folder))


def test_a_rescue_boot_takes_an_update(publisher: Publisher, node: FileNode) -> None:
    manifest = publisher.publish("1.1.0")
    node.boot.write(BootState(rescues=1).with_slot("a", BAD).with_slot("b", BAD))
    node.change(mode="rescue")
    node.update(str(publisher.store.folder))
    assert node.holds("b", manifest, publisher)
    assert node.boot.read().slots["b"] == SlotState(TRIAL, 3)


def test_without_room_on_data_the_update_comes_that_may_mend_it(
    publisher: Publisher, node: FileNode
) -> None:
    """And grubenv knows what was tried, so that what is rejected doesn't come again and again."""
    manifest = publisher.publish("1.1.0")
    (node.root / "data").symlink_to("/dev/full")
    node.update(str(publisher.store.folder))
    assert node.holds("b", manifest, publisher)
    tried = node.memory.tried_before()
    assert tried and (tried.version, tried.slot, tried.rejected) == ("1.1.0", "b", "")
    shutil.rmtree(node.root / "run/belay")  # as a boot does
    assert node.memory.tried() is None
    tried = node.memory.tried_before()
    assert tried and (tried.version, tried.slot, tried.rejected) == ("1.1.0", "b", "")
    node.boot.write(node.boot.read().with_slot("b", BAD)._replace(why="panic"))
    tried = node.memory.tried_before()
    assert tried and tried.rejected == "its reason was lost; the boot loader knows: panic"
    # An update that is cut off was not tried yet.
    cut_off = publisher.publish("1.2.0", signed=NOW + 1)
    blob = publisher.store.blobs / cut_off.slot.blob.sha256
    data = blob.read_bytes()
    # Without a single byte of it the slot is as it was, though bad.
    for size, known in ((0, True), (cut_off.slot.chunks[1].offset + 1, False)):
        blob.write_bytes(data[:size])
        with pytest.raises(Unreachable):
            node.update(str(publisher.store.folder))
        assert (node.memory.tried_before() is not None) is known


def test_a_good_fallback_is_given_up_only_for_bytes_that_came(
    publisher: Publisher, node: FileNode
) -> None:
    """Else whoever is in between needs no key to take it away."""
    manifest = publisher.publish("1.1.0")
    blob = publisher.store.blobs / manifest.slot.blob.sha256
    data = blob.read_bytes()
    before = node.state(), node.slots["b"].read_bytes()
    for harm in (b"", bytes(len(data)), data[: manifest.slot.chunks[0].size - 1]):
        blob.write_bytes(harm)
        with pytest.raises(UpdateError):
            node.update(str(publisher.store.folder))
        assert (node.state()["boot"], node.slots["b"].read_bytes()) == (
            before[0]["boot"],
            before[1],
        )
    blob.write_bytes(data)
    node.update(str(publisher.store.folder))
    assert node.holds("b", manifest, publisher)


def test_a_newer_time_that_another_process_saw_stays(
    publisher: Publisher, node: FileNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish("1.1.0")
    source, updater = str(publisher.store.folder), node.updater(str(publisher.store.folder))
    judged = Updater._judged
    newer = threading.Event()

    def meanwhile(self: Updater, data: bytes, name: str) -> object:
        answer = judged(self, data, name)
        if data and not newer.is_set():
            newer.set()
            publisher.publish("1.2.0", signed=NOW + 10)
            node.updater(source).channel()
        return answer

    monkeypatch.setattr(Updater, "_judged", meanwhile)
    assert updater.channel().version == "1.1.0"
    assert newer.is_set()
    assert max(node.memory.trust().newest["stable"].values()) == NOW + 10
    assert b'"1.2.0"' in node.memory.read("channel-stable")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>Log in</html>", "a web page came"),
        (b"\n \n<!DOCTYPE html>", "a web page came"),
        (b'{"error": "log in first"}', "0 lines"),
        (b"", "0 lines"),
        (b"please log in\n", "0 lines"),
    ],
)
def test_what_nobody_signed_may_come_otherwise_later(
    publisher: Publisher, node: FileNode, data: bytes, reason: str
) -> None:
    """A portal or a proxy answers: no reason to give a release up."""
    publisher.publish("1.1.0")
    before = node.state()
    with served(publisher.store.folder, answering(200, {}, data)) as (url, _):
        with pytest.raises(Unreachable, match=reason):
            node.update(url)
        assert node.state() == before
    with served(publisher.store.folder) as (url, _):
        node.update(url)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_folder_with_what_is_no_file_is_told(
    publisher: Publisher, node: FileNode, kind: str
) -> None:
    publisher.publish("1.1.0")
    channel = publisher.store.folder / "channels/stable"
    channel.unlink()
    os.mkfifo(channel) if kind == "pipe" else channel.mkdir()
    with pytest.raises(Unreachable, match="channels/stable"):
        node.update(str(publisher.store.folder))


def tar_header(**fields: bytes) -> bytes:
    head = bytearray(512)
    at = {"name": 0, "mode": 100, "size": 124, "mtime": 136, "kind": 156, "magic": 257}
    for name, value in {"name": b"x", "magic": b"ustar\x0000", **fields}.items():
        head[at[name] : at[name] + len(value)] = value
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize(
    "data",
    [
        tar_header(size=b"-0000000001"),
        tar_header(size=b"\xff" * 12),
        tar_header(size=b"\x80" + b"\x7f" * 11, kind=b"x"),
        tar_header(size=b"\x80" + bytes(5) + b"\x01" + bytes(5), kind=b"L"),
        tar_header(size=b"00000000000", kind=b"L") * 3000,
        tar_header(size=b"00000000000", kind=b"x") * 3000,
        tar_header(size=b"77777777777", kind=b"S"),
        b"\0" * 100,
        b"rubbish" * 1000,
    ],
)
def test_a_damaged_tar_is_told(node: FileNode, data: bytes) -> None:
    path = node.root / "x.tar"
    path.write_bytes(data)
    with pytest.raises(UpdateError):
        node.update(str(path))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_line_that_is_cut_within_each_chunk_gets_on(
    publisher: Publisher, node: FileNode, ranges: bool
) -> None:
    """By what came of a chunk; a server without ranges sends all of that again."""
    manifest = publisher.publish("1.1.0")
    packed = (publisher.store.blobs / manifest.slot.blob.sha256).read_bytes()
    most = max(chunk.size for chunk in manifest.slot.chunks) * 2 // 5
    sent = 0

    def cut_off(request: http.server.BaseHTTPRequestHandler) -> bool:
        nonlocal sent
        if "/blobs/" not in request.path:
            return False
        begin, end = request.headers["Range"].removeprefix("bytes=").split("-")
        data = packed[int(begin) : int(end) + 1] if ranges else packed
        request.send_response(206 if ranges else 200)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("Content-Range", f"bytes {begin}-{end}/{len(packed)}")
        request.end_headers()
        room = most if ranges else most + int(begin)
        request.wfile.write(data[:room])
        sent += min(room, len(data))
        request.close_connection = True
        return True

    with served(publisher.store.folder, cut_off) as (url, _):
        node.update(url)
    assert node.holds("b", manifest, publisher)
    if ranges:
        assert sent == manifest.slot.blob.size, "nothing came twice"


def test_two_parts_of_a_chunk_that_don_t_fit_are_fetched_again(
    publisher: Publisher, node: FileNode
) -> None:
    manifest = publisher.publish("1.1.0")
    packed = (publisher.store.blobs / manifest.slot.blob.sha256).read_bytes()
    first = True

    def change(request: http.server.BaseHTTPRequestHandler) -> bool:
        nonlocal first
        if "/blobs/" not in request.path or not first:
            return False
        first = False
        begin, end = request.headers["Range"].removeprefix("bytes=").split("-")
        request.send_response(206)
        request.send_header("Content-Length", str(len(packed)))
        request.send_header("Content-Range", f"bytes {begin}-{end}/{len(packed)}")
        request.end_headers()
        request.wfile.write(b"x" * 1000)
        request.close_connection = True
        return True

    with served(publisher.store.folder, change) as (url, _):
        node.update(url)
    assert node.holds("b", manifest, publisher)
