"""Updates that make chunks from the slot that runs, also where that holds something else."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.releases.chunks import write_slot
from builder.releases.deltas import Slots, encoded
from builder.releases.ranges import Range
from builder.releases.streams import Found
from tests.esp import esp
from tests.publisher import FileNode, Publisher, served, slot_bytes
from updater.contract import TRIAL
from updater.delta import Maker
from updater.formats import CHUNK, Manifest, Piece
from updater.streams import PACKERS
from updater.update import ATTEMPTS

OLD = slot_bytes("old a", 5 * CHUNK + 4096)
WORD = b"a word more "
AT = CHUNK + 1000
NEW = OLD[:AT] + WORD + OLD[AT : -len(WORD)]
RANGES = [Range(0, 0, AT), Range(AT + len(WORD), AT, len(NEW) - AT - len(WORD))]
CHUNKS = 5


def publish(
    publisher: Publisher,
    new: bytes = NEW,
    ranges: Sequence[Range] = RANGES,
    version: str = "1.1.0",
) -> Manifest:
    """A release with a delta from 1.0.0."""
    file = publisher.store.folder.parent / "image"
    file.write_bytes(new)
    image = write_slot(file, publisher.store.blobs, level=0)
    slots = Slots(memoryview(OLD), memoryview(new))
    delta, price = encoded(slots, ranges, "1.0.0", image, publisher.store.blobs)
    assert price.size == sum(piece.size for piece in delta.pieces)
    manifest = publisher.release(version, data=new, slot=replace(image, deltas=(delta,)))
    publisher.point(version)
    return manifest


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setattr("builder.releases.chunks.CACHE", tmp_path / "cache")
    monkeypatch.setattr("builder.releases.deltas.CACHED", tmp_path / "cache")
    return Publisher(tmp_path / "server")


@pytest.fixture
def node(tmp_path: Path, publisher: Publisher) -> FileNode:
    node = FileNode(tmp_path / "node", esp(), [publisher.key.public])
    node.slots["a"].write_bytes(OLD)
    node.slots["b"].write_bytes(b"\5" * (len(OLD) + CHUNK))
    return node


def fetched(node: FileNode, source: str, manifest: Manifest) -> tuple[int, str]:
    """Update; the bytes that were fetched, and what the delta was not good for."""
    sizes = [0]
    updater = node.updater(source)
    updater._progress = lambda done, total, size: sizes.append(size)
    note = updater.install(manifest)
    assert node.boot.read().slots["b"].state == TRIAL
    return sizes[-1], note


def cut_off(node: FileNode, publisher: Publisher, manifest: Manifest, after: int) -> None:
    """Begin an update that ends after so many chunks."""
    updater = node.updater(str(publisher.store.folder))

    def stop(done: int, total: int, size: int) -> None:
        if done == after:
            raise RuntimeError("the plug was pulled")

    updater._progress = stop
    with pytest.raises(RuntimeError, match="the plug"):
        updater.install(manifest)


def test_what_the_active_slot_has_is_not_fetched(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    with served(publisher.store.folder) as (url, requests):
        size, note = fetched(node, url, manifest)
    assert node.holds("b", manifest, publisher) and not note
    assert size < 1000 < manifest.slot.blob.size
    blobs = [path for path in requests if path.startswith("/blobs/")]
    assert blobs == [f"/blobs/{manifest.slot.deltas[0].blob.sha256}"], "in one request"


def test_nodes_of_other_releases_take_whole_chunks(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    node.change(system=node.node.system._replace(version="0.9.0"))
    size, note = fetched(node, str(publisher.store.folder), manifest)
    assert node.holds("b", manifest, publisher)
    assert (size, note) == (manifest.slot.blob.size, "")


def test_one_wrong_byte_costs_one_chunk(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    data = bytearray(OLD)
    data[3 * CHUNK + 77] ^= 1
    node.slots["a"].write_bytes(data)
    size, note = fetched(node, str(publisher.store.folder), manifest)
    assert node.holds("b", manifest, publisher)
    assert size < 1000 + manifest.slot.chunks[3].size
    assert note.startswith(f"1 chunk came whole: either {node.slots['a']} is not what release")


def test_another_slot_altogether_costs_three_pieces(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    node.slots["a"].write_bytes(slot_bytes("another", len(OLD)))
    with served(publisher.store.folder) as (url, requests):
        size, note = fetched(node, url, manifest)
    assert node.holds("b", manifest, publisher)
    assert 0 < size - manifest.slot.blob.size <= manifest.slot.deltas[0].blob.size
    assert note.startswith("the delta was given up: ")
    assert len([path for path in requests if path.startswith("/blobs/")]) == 2


@pytest.mark.parametrize("size", [0, CHUNK, 4 * CHUNK])
def test_a_slot_that_ends_too_early(node: FileNode, publisher: Publisher, size: int) -> None:
    manifest = publish(publisher)
    node.slots["a"].write_bytes(OLD[:size])
    _, note = fetched(node, str(publisher.store.folder), manifest)
    assert node.holds("b", manifest, publisher) and "a range has no bytes" in note


def test_a_disk_that_fails_to_read_costs_whole_chunks(
    node: FileNode, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(publisher)
    pread = os.pread

    def failing(descriptor: int, size: int, offset: int) -> bytes:
        if offset >= 2 * CHUNK:
            raise OSError(5, "Input/output error")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    _, note = fetched(node, str(publisher.store.folder), manifest)
    assert node.holds("b", manifest, publisher) and "Input/output error" in note


@pytest.mark.parametrize("kind", ["flipped", "short", "empty", "zeros", "long"])
def test_a_damaged_delta_costs_whole_chunks(
    node: FileNode, publisher: Publisher, kind: str
) -> None:
    manifest = publish(publisher)
    blob = publisher.store.blobs / manifest.slot.deltas[0].blob.sha256
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 0x55
    damaged: dict[str, bytes] = {
        "flipped": bytes(data),
        "short": bytes(data[:90]),
        "empty": b"",
        "zeros": bytes(len(data)),
    }
    blob.write_bytes(damaged.get(kind, blob.read_bytes() + b"more"))
    _, note = fetched(node, str(publisher.store.folder), manifest)
    assert node.holds("b", manifest, publisher)
    assert bool(note) == (kind != "long"), "what is behind the pieces isn't fetched"


def test_a_delta_that_is_gone_costs_whole_chunks(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    (publisher.store.blobs / manifest.slot.deltas[0].blob.sha256).unlink()
    with served(publisher.store.folder) as (url, requests):
        size, note = fetched(node, url, manifest)
    assert node.holds("b", manifest, publisher) and "404" in note
    assert size == manifest.slot.blob.size
    assert len([path for path in requests if path.startswith("/blobs/")]) == 2


def test_a_line_that_breaks_goes_on_where_it_was(node: FileNode, publisher: Publisher) -> None:
    new = bytes(byte ^ 7 for byte in OLD)  # so that pieces are large
    manifest = publish(publisher, new, [])
    assert manifest.slot.deltas[0].blob.size > 100_000
    sent: list[int] = []

    def cut(request: Any) -> bool:
        if "/blobs/" not in request.path:
            return False
        first, last = (int(x) for x in request.headers["Range"].removeprefix("bytes=").split("-"))
        is_last = len(sent) % 5 == 4
        sent.append(last + 1 - first if is_last else (last + 1 - first) // 3)
        if is_last:
            return False
        data = (publisher.store.folder / request.path.lstrip("/")).read_bytes()[first : last + 1]
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {first}-{last}/*")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: sent[-1]])
        request.close_connection = True
        return True

    with served(publisher.store.folder, cut) as (url, _):
        _, note = fetched(node, url, manifest)
    assert node.holds("b", manifest, publisher) and not note
    assert len(sent) >= 10 and sum(sent) == manifest.slot.deltas[0].blob.size, "nothing came twice"


def test_an_update_that_was_cut_off_is_resumed_by_delta(
    node: FileNode, publisher: Publisher
) -> None:
    manifest = publish(publisher)
    cut_off(node, publisher, manifest, after=3)
    with served(publisher.store.folder) as (url, _):
        size, note = fetched(node, url, manifest)
    delta = manifest.slot.deltas[0]
    assert node.holds("b", manifest, publisher) and not note
    assert 0 < size <= sum(piece.size for piece in delta.pieces[2:])


def test_an_update_that_was_cut_off_goes_on_with_another_release(
    node: FileNode, publisher: Publisher
) -> None:
    first = publish(publisher)
    cut_off(node, publisher, first, after=3)
    new = OLD[:AT] + bytes(len(WORD)) + OLD[AT : -len(WORD)]
    manifest = publish(publisher, new, RANGES, "1.2.0")
    size, note = fetched(node, str(publisher.store.folder), manifest)
    assert node.holds("b", manifest, publisher) and not note
    assert 0 < size <= manifest.slot.deltas[0].blob.size


def dropping(path: str, times: float = math.inf) -> Callable[[Any], bool]:
    """What drops the line for the first requests of a path."""
    dropped: list[str] = []

    def drop(request: Any) -> bool:
        if path not in request.path or len(dropped) >= times:
            return False
        dropped.append(request.path)
        request.close_connection = True
        return True

    return drop


def test_after_an_outage_the_delta_goes_on(node: FileNode, publisher: Publisher) -> None:
    new = bytes(byte ^ 7 for byte in OLD)  # so that pieces are large
    manifest = publish(publisher, new, [])
    drop = dropping("/blobs/", ATTEMPTS)
    with served(publisher.store.folder, drop) as (url, requests):
        size, note = fetched(node, url, manifest)
    assert node.holds("b", manifest, publisher) and not note
    assert len([path for path in requests if "/blobs/" in path]) > ATTEMPTS
    chunk = max(chunk.size for chunk in manifest.slot.chunks)
    assert size <= manifest.slot.deltas[0].blob.size + chunk, "one came whole: the line was back"


def test_an_outage_forgives_no_wrong_slot(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    node.slots["a"].write_bytes(slot_bytes("another", len(OLD)))
    blob = manifest.slot.deltas[0].blob.sha256
    drop = dropping(blob, ATTEMPTS)
    with served(publisher.store.folder, drop) as (url, requests):
        _, note = fetched(node, url, manifest)
    assert node.holds("b", manifest, publisher) and note.startswith("the delta was given up")
    assert len([path for path in requests if blob in path]) == ATTEMPTS + 1


def test_a_delta_that_never_comes_is_given_up(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    blob = manifest.slot.deltas[0].blob.sha256
    drop = dropping(blob)
    with served(publisher.store.folder, drop) as (url, requests):
        size, note = fetched(node, url, manifest)
    assert node.holds("b", manifest, publisher) and note.startswith("the delta was given up")
    assert size == manifest.slot.blob.size
    assert len([path for path in requests if blob in path]) == 3 * ATTEMPTS


def test_a_chunk_without_a_piece_comes_behind_the_others(
    node: FileNode, publisher: Publisher
) -> None:
    """Else an update that is resumed would look at these first, and take all for missing."""
    manifest = publish(publisher)
    (delta,) = manifest.slot.deltas
    assert len(delta.pieces) == CHUNKS
    delta = replace(delta, pieces=(Piece(0, 0), Piece(0, 0), *delta.pieces[2:]))
    with Maker(
        manifest.slot, delta, node.slots["a"], node.slots["b"], lambda offset, size: b""
    ) as maker:
        assert maker.order() == ([*range(2, CHUNKS), 0, 1], set())


def test_all_comes_by_one_connection(
    node: FileNode, publisher: Publisher, with_streams: Manifest
) -> None:
    clients = []

    def note_client(request: Any) -> bool:
        clients.append(request.client_address)
        return False

    with served(publisher.store.folder, note_client) as (url, _):
        fetched(node, url, with_streams)
    assert len(clients) >= 4 and len(set(clients)) == 1


def test_chunks_that_look_at_others_are_made_last(
    node: FileNode, publisher: Publisher, with_streams: Manifest
) -> None:
    (delta,) = with_streams.slot.deltas
    kernel = next(stream for stream in delta.streams if stream.source)
    with Maker(
        with_streams.slot, delta, node.slots["a"], node.slots["b"], lambda offset, size: b""
    ) as maker:
        order, late = maker.order()
    count = len(with_streams.slot.chunks)
    assert sorted(order) == list(range(count)) and order[-len(late) :] == sorted(late)
    assert late and late == {
        at for at in range(count) if (at + 1) * CHUNK > kernel.at + kernel.size
    } - {count - 1}, "the initramfs lies behind the kernel, and what it holds behind that"
    assert order.index(count - 1) < order.index(0), "the kernel is packed meanwhile"


def test_a_delta_that_makes_no_sense_is_none(node: FileNode, publisher: Publisher) -> None:
    manifest = publish(publisher)
    delta = manifest.slot.deltas[0]
    for odd in (
        replace(delta, pieces=delta.pieces[1:]),
        replace(delta, pieces=(Piece(-1, 5), *delta.pieces[1:])),
        replace(delta, pieces=(Piece(delta.blob.size, 1), *delta.pieces[1:])),
        replace(delta, pieces=("many",) * CHUNKS),  # type: ignore[arg-type]
        replace(delta, version="../.."),
        5,
        None,
    ):
        slot = replace(manifest.slot, deltas=(odd, delta))  # type: ignore[arg-type]
        version = f"1.1.{len(publisher.store.versions())}"
        publisher.release(version, data=NEW, slot=slot)
        (read,) = node.updater(str(publisher.store.folder)).manifest(version).slot.deltas
        assert read == delta


# --- streams ---

INSIDE = random.Random("files").randbytes(3_000_000)
KERNEL_OLD = random.Random("functions").randbytes(2_700_000)
KERNEL_NEW = KERNEL_OLD[:5000] + b"a patch" + KERNEL_OLD[5000:]
HEAD = b"head" * 24


def packed_by(packer: str, content: bytes) -> bytes:
    return b"".join(PACKERS[packer]([content]))


@pytest.fixture
def with_streams(node: FileNode, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """A release with a kernel and an initramfs in it, as real ones have; both are compressed."""
    monkeypatch.setattr("updater.streams.BUSYBOX", ("gzip", "-9", "-n", "-c"))
    small, old_kernel = packed_by("zlib-4", INSIDE), packed_by("gzip-9", KERNEL_OLD)
    kernel = packed_by("gzip-9", KERNEL_NEW)
    old = (HEAD + old_kernel).ljust(2 * CHUNK, b"\0") + INSIDE[:CHUNK]
    new = HEAD + kernel + small
    late = -(-len(new) // CHUNK) * CHUNK
    new = new.ljust(late, b"\0") + INSIDE[CHUNK:]
    assert late >= CHUNK
    node.slots["a"].write_bytes(old)
    node.slots["b"].write_bytes(b"\5" * (len(new) + CHUNK))
    ranges = [Range(0, 0, 5000), Range(5007, 5000, len(KERNEL_OLD) - 5000)]
    both = old + new
    streams = [
        Found(
            "initramfs", len(HEAD) + len(kernel), len(small), "zlib-4", INSIDE,
            [
                Range(0, 2 * CHUNK, CHUNK),
                Range(CHUNK, len(old) + late, len(INSIDE) - CHUNK),
            ],
            lambda at, size: both[at : at + size],
        ),
        Found(
            "kernel", len(HEAD), len(kernel), "gzip-9", KERNEL_NEW, ranges,
            lambda at, size: KERNEL_OLD[at : at + size],
            (Piece(len(HEAD), len(old_kernel)),),
        ),
    ]  # fmt: skip
    file = publisher.store.folder.parent / "image"
    file.write_bytes(new)
    image = write_slot(file, publisher.store.blobs, level=0)
    slots = Slots(memoryview(old), memoryview(new), (), streams)
    delta, _ = encoded(slots, [Range(0, 0, len(HEAD))], "1.0.0", image, publisher.store.blobs)
    manifest = publisher.release("1.1.0", data=new, slot=replace(image, deltas=(delta,)))
    publisher.point("1.1.0")
    return manifest


def test_streams_are_packed_again(
    node: FileNode, publisher: Publisher, with_streams: Manifest
) -> None:
    with served(publisher.store.folder) as (url, requests):
        size, note = fetched(node, url, with_streams)
    assert node.holds("b", with_streams, publisher) and not note
    delta = with_streams.slot.deltas[0]
    wanted = f"/blobs/{delta.blob.sha256}"
    assert {path for path in requests if "/blobs/" in path} == {wanted}
    inside = sum(piece.size for stream in delta.streams for piece in stream.pieces)
    assert inside < 1000 and size <= delta.blob.size, "what the new slot has beside it is enough"
    assert sum(stream.size for stream in delta.streams) > 2 * CHUNK


@pytest.mark.parametrize("packer", ["missing", "other"])
def test_a_packer_that_makes_other_bytes_costs_what_it_packs(
    node: FileNode, publisher: Publisher, with_streams: Manifest,
    monkeypatch: pytest.MonkeyPatch, packer: str,
) -> None:  # fmt: skip
    other = {"missing": ("/nowhere",), "other": ("gzip", "-1", "-n", "-c")}[packer]
    monkeypatch.setattr("updater.streams.BUSYBOX", other)
    _, note = fetched(node, str(publisher.store.folder), with_streams)
    assert node.holds("b", with_streams, publisher) and note


def test_a_packer_of_the_future_is_none(
    node: FileNode, publisher: Publisher, with_streams: Manifest
) -> None:
    delta = with_streams.slot.deltas[0]
    streams = tuple(replace(stream, packer="zstd-99") for stream in delta.streams)
    slot = replace(with_streams.slot, deltas=(replace(delta, streams=streams),))
    data = (publisher.store.folder.parent / "1.1.0.img").read_bytes()
    manifest = publisher.release("1.1.1", data=data, slot=slot)
    _, note = fetched(node, str(publisher.store.folder), manifest)
    assert node.holds("b", manifest, publisher) and "no packer zstd-99" in note


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_an_update_that_was_cut_off_in_a_stream_is_resumed(
    node: FileNode, publisher: Publisher, with_streams: Manifest, done: int
) -> None:
    cut_off(node, publisher, with_streams, after=done)
    _, note = fetched(node, str(publisher.store.folder), with_streams)
    assert node.holds("b", with_streams, publisher) and not note


def test_a_line_that_breaks_in_a_stream_is_asked_again(
    node: FileNode, publisher: Publisher, with_streams: Manifest
) -> None:
    broken: list[str] = []

    def cut(request: Any) -> bool:
        if "/blobs/" not in request.path or len(broken) >= 6:
            return False
        broken.append(request.headers["Range"])
        if len(broken) % 2:
            return False
        request.close_connection = True
        return True

    with served(publisher.store.folder, cut) as (url, _):
        _, note = fetched(node, url, with_streams)
    assert node.holds("b", with_streams, publisher) and not note and len(broken) == 6


def test_damage_in_the_old_kernel_costs_the_new_one(
    node: FileNode, publisher: Publisher, with_streams: Manifest
) -> None:
    data = bytearray(node.slots["a"].read_bytes())
    data[len(HEAD) + 20_000] ^= 0xFF
    node.slots["a"].write_bytes(data)
    _, note = fetched(node, str(publisher.store.folder), with_streams)
    assert node.holds("b", with_streams, publisher) and note
