"""Brings a release into the inactive slot and makes it the one to try next.

The order is what makes it safe, and it is all in `Updater.install`:

1. The release is verified as a whole before anything changes: who signed it, what it is for.
2. The inactive slot is marked bad, and the disk has that, before its first byte is overwritten:
   from then on the boot loader never takes it, however much of it is written.
3. Chunks that the slot holds already are skipped. So an update that was cut off, by whatever, goes
   on where it stopped, without any note of how far it came. The others are made from the active
   slot, where the release has a delta for it (updater/delta.py), or fetched as a whole.
4. All is flushed, then read back from the disk and compared with the signed hash.
5. Only then the slot becomes the trial slot: one sector, flushed.
"""

from __future__ import annotations

import hashlib
import lzma
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from updater.contract import BAD, GOOD, TRIAL
from updater.disk import Disk
from updater.errors import GaveWay, NotNow, Refused, Unreachable, UpdateError
from updater.formats import (
    CHANNEL_SIZE_MAX,
    CHUNK,
    MANIFEST_SIZE_MAX,
    SIGNATURE_SIZE_MAX,
    VERSION,
    Channel,
    Manifest,
    open_channel,
    open_manifest,
    version_key,
)
from updater.memory import Memory, Tried
from updater.node import Node
from updater.reading import TIME_MAX
from updater.signature import PublicKey
from updater.source import Source

if TYPE_CHECKING:
    from concurrent.futures import Future

    from updater.delta import Maker

TAG_S = 86400  # after that a channel is asked for as if it were new
MEMORY_MAX = 32 << 20  # of the decompressor: what is larger was not made by us
ATTEMPTS = 5  # without a single new chunk
LOOK_AHEAD = 4  # chunks
PIECES_MAX = 1 << 20  # bytes of them that are fetched before they are used, and one more
PAUSE_S = 2.0  # before the second attempt; doubled each time


class Place(NamedTuple):
    """Where a chunk lies on the server: `size` bytes of a blob; as a whole, or as a piece."""

    blob: str
    offset: int
    size: int
    is_piece: bool


@dataclass(frozen=True)
class Part:
    """The begin of what lies at a place."""

    place: Place | None
    data: bytes


NO_PART = Part(None, b"")


@dataclass(frozen=True)
class Offer:
    """What a channel has for this node; `news` says whether it is not what runs already."""

    manifest: Manifest
    news: bool


class Updater:
    """Updates `node` from `source`.

    `progress` is told how many chunks are done, how many there are, and the bytes fetched.
    """

    def __init__(
        self,
        node: Node,
        source: Source,
        memory: Memory,
        progress: Callable[[int, int, int], None] = lambda done, all_, fetched: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.node, self.source, self.memory = node, source, memory
        self._progress, self._sleep = progress, sleep
        self._part = NO_PART  # of a chunk, from a line that was cut
        self._maker: Maker | None = None

    @property
    def keys(self) -> list[PublicKey]:
        """Those that count: of the running image, and not revoked by any image that was good."""
        revoked = self.node.revoked | set(self.memory.trust().revoked)
        return [key for key in self.node.keys if key.id not in revoked]

    # --- what there is ---

    def channel(self, name: str = "") -> Channel:
        """A channel as it is now, the node's by default. One small request where nothing is new.

        Raises Refused.
        """
        name = name or self.node.settings.channel
        try:
            channel = self._channel(name)
        except UpdateError as error:
            self.memory.note_volatile("asked", str(error))
            raise
        self.memory.note_volatile("asked", f"channel {name} has {channel.version}")
        return channel

    def _channel(self, name: str) -> Channel:
        file, trust = f"channel-{name}", self.memory.trust()
        channel, key, data, etag = None, "", b"", trust.etags.get(name, "")
        with suppress(UpdateError):
            channel, key = self._judged(self.memory.read(file, CHANNEL_SIZE_MAX), name)
        # Nobody signed the tag: without a good copy it is worth nothing, nor is it for ever.
        if not channel or not self.memory.is_fresh(file, TAG_S):
            etag = ""
        if answer := self.source.get(f"channels/{name}", CHANNEL_SIZE_MAX, etag):
            data, etag = answer
            channel, key = self._judged(data, name)
        assert channel is not None, "without a tag there is always an answer"
        with self.memory.alone():
            trust = self.memory.trust()
            # Another process may have seen a newer one meanwhile.
            times = trust.newest.get(name, {})
            if times.get(key, 0) <= channel.signed:
                if data:
                    self.memory.write(file, data)
                newest = {**trust.newest, name: {**times, key: channel.signed}}
                etags = {other: tag for other, tag in trust.etags.items() if other != name}
                etags |= {name: etag} if etag else {}
                self.memory.keep_trust(trust._replace(newest=newest, etags=etags))
        return channel

    def _judged(self, data: bytes, name: str) -> tuple[Channel, str]:
        """A channel file that counts now, and which key signed it. Raises Refused."""
        keys = self.keys
        channel, key = open_channel(data, keys, name)
        newest = self.memory.newest(name, {key.id for key in keys})
        now, latest = self.memory.now(newest)
        if channel.os != self.node.system.os:
            raise Refused(f"channel {name} is for {channel.os}, and this is {self.node.system.os}")
        if channel.signed < newest:
            raise NotNow(f"channel {name} is an old one: a newer was seen before")
        if channel.signed > latest:
            # It would outlive every honest one, whatever becomes of the key that signed it.
            day = time.strftime("%Y-%m-%d", time.gmtime(min(channel.signed, TIME_MAX)))
            raise NotNow(f"channel {name} says that it was signed on {day}, which is yet to come")
        if channel.expires < now:
            raise NotNow(f"channel {name} has expired; whoever publishes it has to sign it again")
        return channel, key

    def offered(self) -> Offer:
        """The release that the channel points to. Raises Refused where it isn't for this node."""
        channel = self.channel()
        running = self.node.system.version
        newer = version_key(channel.version) > version_key(running)
        if not newer and not channel.downgrade and channel.version != running:
            raise Refused(
                f"the channel has {channel.version}, which is older than {running}; "
                "only a signed order to downgrade would be followed"
            )
        manifest = self.manifest(channel.version, channel.manifest)
        return Offer(manifest, channel.version != running)

    def manifest(self, version: str, digest: str = "") -> Manifest:
        """The manifest of a release, which must have that SHA-256 if one is given."""
        if not VERSION.fullmatch(version):
            raise Refused(f"{version!r} is no version")
        folder = f"releases/{version}"
        data = self._whole(f"{folder}/manifest.json", MANIFEST_SIZE_MAX)
        signature = self._whole(f"{folder}/manifest.json.minisig", SIGNATURE_SIZE_MAX)
        name = f"release {version}"
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise Refused(f"{name}: its manifest is not the one that the channel names")
        manifest = open_manifest(data, signature, self.keys, name)
        system = self.node.system
        for what, is_, wanted in (
            ("version", manifest.version, version),
            ("os", manifest.os, system.os),
            ("arch", manifest.arch, system.arch),
        ):
            if is_ != wanted:
                raise Refused(f"{name}: its {what} is {is_}, wanted {wanted}")
        return manifest

    def blob(self, digest: str, most: int) -> bytes:
        """A small blob. Raises Refused where it has other bytes than its name says."""
        data = self._whole(f"blobs/{digest}", most)
        if hashlib.sha256(data).hexdigest() != digest:
            raise Refused(f"blobs/{digest}: its bytes are others")
        return data

    def _whole(self, path: str, most: int) -> bytes:
        answer = self.source.get(path, most)
        assert answer is not None, "without an etag there is always an answer"
        return answer[0]

    # --- taking it ---

    def install(self, manifest: Manifest) -> str:
        """Write a release to the inactive slot and make it the trial slot; see above.

        Returns what its delta was not good for, if anything.
        """
        node, slot = self.node, self.node.other
        state = node.boot.read()
        confirmed = state.last_good == node.slot and state.slots[node.slot].state == GOOD
        # In a rescue boot no slot is of use, and this may be the way out.
        if not confirmed and node.mode != "rescue":
            raise UpdateError(
                f"slot {node.slot} is not confirmed: slot {slot} may be needed yet, and is not "
                "written; look at: belay status"
            )
        with Disk(node.slots[slot], exclusive=True) as disk:
            if disk.size < manifest.slot.size:
                raise Refused(
                    f"release {manifest.version} has {manifest.slot.size} bytes, and slot {slot} "
                    f"only {disk.size}"
                )
            # From the first byte on the slot is no whole one; before, it can be gone back to.
            bad = state.with_slot(slot, BAD)._replace(
                order=(node.slot, slot), next="", why="none", tried=""
            )
            note = self._write_chunks(disk, manifest, lambda: node.boot.write(bad))
            disk.flush()
            digest = disk.sha256(manifest.slot.size)
            if digest != manifest.slot.sha256:
                if not self._missing(disk, manifest, list(range(len(manifest.slot.chunks)))):
                    raise Refused(
                        f"release {manifest.version}: its chunks are signed, and make another slot "
                        "image than the one that is signed: publish it anew"
                    )
                raise UpdateError(
                    f"slot {slot} reads as {digest}, and {manifest.slot.sha256} was written: "
                    "the disk does not keep what it is given"
                )
            before = self.memory.tried()
            count = before.unreached if before and before.version == manifest.version else 0
            tried = Tried(manifest.version, slot, reached=self.source.remote, unreached=count)
            self.memory.keep_tried(tried._replace(boot=node.boot_id))
            state = node.boot.read().with_slot(slot, TRIAL)
            lost = "" if node.has_data else "lost"  # then it says nothing of the release
            state = state._replace(order=(slot, node.slot), next="", why="none")
            node.boot.write(state._replace(tried=manifest.version, data=lost))
        self.memory.note("update", manifest.version, slot)
        return note

    def _write_chunks(self, disk: Disk, manifest: Manifest, first: Callable[[], None]) -> str:
        """Bring all chunks that the slot hasn't got; what the delta was not good for.

        `first` is called before the first one is written.
        """
        with ExitStack() as stack:
            self._maker = self._maker_for(disk, manifest)
            if self._maker:
                stack.enter_context(self._maker)
            self._write_missing(disk, manifest, first)
        maker, self._maker = self._maker, None
        if not maker or not maker.problem:
            return ""
        count = len(maker.failed)
        what = "the delta was given up" if maker.is_hopeless else f"{count} chunks came whole"
        return f"{what}: {maker.problem}"

    def _maker_for(self, disk: Disk, manifest: Manifest) -> Maker | None:
        active = self.node.slots[self.node.slot]
        for delta in manifest.slot.deltas:
            if delta.version == self.node.system.version:
                from updater.delta import Maker

                fetch = partial(self._bytes, delta.blob.sha256)
                with suppress(OSError):
                    return Maker(manifest.slot, delta, active, disk.path, fetch)
        return None

    def _bytes(self, blob: str, offset: int, size: int) -> bytes:
        """Bytes of a blob that are needed in the middle of something: asked for again at once."""
        for attempt in range(1, ATTEMPTS):
            try:
                return b"".join(self.source.stream(f"blobs/{blob}", offset, size))
            except GaveWay:
                raise
            except Unreachable:
                self._sleep(PAUSE_S * 2**attempt)
        return b"".join(self.source.stream(f"blobs/{blob}", offset, size))

    def _write_missing(self, disk: Disk, manifest: Manifest, first: Callable[[], None]) -> None:
        """Bring the chunks again and again, as long as some come."""
        chunks, maker = manifest.slot.chunks, self._maker
        order, late = maker.order() if maker else (list(range(len(chunks))), set[int]())
        missing = self._missing(disk, manifest, order)
        attempt, fetched = 0, 0
        while missing:
            before = len(missing), self._part
            batch = [at for at in missing if at not in late] or missing
            try:
                for at, size in self._fetch(disk, manifest, list(batch), first):
                    missing.remove(at)
                    fetched += size
                    self._progress(len(chunks) - len(missing), len(chunks), fetched)
            except GaveWay:
                raise
            except Unreachable as error:
                missing = self._missing(disk, manifest, missing)
                attempt = attempt + 1 if (len(missing), self._part) == before else 1
                if attempt == ATTEMPTS:
                    if not self._maker or self._maker.is_hopeless:
                        raise
                    self._maker.give_up(str(error))  # the whole chunks may be there
                    attempt = 0
                self._sleep(PAUSE_S * 2**attempt)

    def _missing(self, disk: Disk, manifest: Manifest, candidates: list[int]) -> list[int]:
        """Those chunks that the slot doesn't hold.

        They are written in order. So after some that it doesn't hold the rest is not looked at:
        reading a whole slot for nothing takes as long as writing it.
        """
        missing: list[int] = []
        unlike = 0
        for at in candidates:
            if unlike < LOOK_AHEAD:
                data = disk.read(at * CHUNK, manifest.slot.chunk_size(at))
                if hashlib.sha256(data).hexdigest() == manifest.slot.chunks[at].sha256:
                    unlike = 0
                    continue
            unlike += 1
            missing.append(at)
        return missing

    def _fetch(
        self, disk: Disk, manifest: Manifest, missing: list[int], first: Callable[[], None]
    ) -> Iterator[tuple[int, int]]:
        """Bring missing chunks, in one request for each run of neighbours; yield those written.

        While one is written, the next comes and is unpacked: writing has a thread of its own.
        """
        from concurrent.futures import ThreadPoolExecutor  # slow to come; most looks find no news

        def write(at: int, data: bytes | bytearray, size: int) -> tuple[int, int]:
            disk.write(at * CHUNK, data)
            return at, size

        with ThreadPoolExecutor(1) as writer:
            begun = False
            for run in _runs((at, self._place(manifest, at)) for at in missing):
                written: Future[tuple[int, int]] | None = None
                for at, place, packed in self._packed(run):
                    data = self._checked(manifest, at, place, packed)
                    if place.is_piece and self._maker:
                        self._maker.prepare(missing[missing.index(at) + 1 :])
                    if data is None:
                        if self._maker and self._maker.is_hopeless:
                            break
                        continue
                    if not begun:
                        first()
                        begun = True
                    if written:
                        yield written.result()
                    written = writer.submit(write, at, data, len(packed))
                if written:
                    yield written.result()

    def _place(self, manifest: Manifest, at: int) -> Place:
        """Where to get a chunk: the piece of it, if that is of use."""
        if self._maker and (piece := self._maker.piece(at)):
            return Place(self._maker.delta.blob.sha256, *piece, is_piece=True)
        chunk = manifest.slot.chunks[at]
        return Place(manifest.slot.blob.sha256, chunk.offset, chunk.size, is_piece=False)

    def _checked(
        self, manifest: Manifest, at: int, place: Place, packed: bytes
    ) -> bytes | bytearray | None:
        """A chunk, unpacked; None where its piece was of no use.

        Raises Refused where it isn't the signed one.
        """
        if place.is_piece:
            assert self._maker is not None
            return self._maker.chunk(at, packed)
        try:
            data = unpacked(packed, manifest.slot.chunk_size(at))
            if hashlib.sha256(data).hexdigest() != manifest.slot.chunks[at].sha256:
                raise Refused(f"release {manifest.version}: chunk {at} is corrupt")
        except Refused:
            if self._part.place == place and self._part.data:
                self._part = NO_PART
                raise Unreachable(f"chunk {at} came in two parts that don't fit") from None
            raise
        return data

    def _packed(self, run: list[tuple[int, Place]]) -> Iterator[tuple[int, Place, bytes]]:
        """The chunks of a run, packed.

        Pieces are all here before the first is used: what streams need is asked for in between.
        """
        if not run[0][1].is_piece:
            yield from self._stream(run)
            return
        came, problem = [], None
        try:
            for item in self._stream(run):
                came.append(item)
        except Unreachable as error:
            problem = error
        yield from came
        if problem:
            raise problem

    def _stream(self, run: list[tuple[int, Place]]) -> Iterator[tuple[int, Place, bytes]]:
        """The same as they come. What came of the first before is not asked for again."""
        (_, first), (_, last) = run[0], run[-1]
        buffer = bytearray(self._part.data if self._part.place == first else b"")
        begin, end = first.offset + len(buffer), last.offset + last.size
        done = 0
        try:
            pieces = self.source.stream(f"blobs/{first.blob}", begin, end - begin)
            sizes = [place.size for _, place in run]
            # In this order, so that the source is asked to its end, and its connection is kept.
            for packed, (at, place) in zip(cut(pieces, sizes, buffer), run, strict=False):
                yield at, place, packed
                done += 1
        except Unreachable:
            self._part = Part(run[done][1], bytes(buffer))
            raise
        self._part = NO_PART


def _runs(places: Iterable[tuple[int, Place]]) -> Iterator[list[tuple[int, Place]]]:
    """Split chunks where the next doesn't begin in the blob where the one before ends.

    Pieces, which are kept in memory, are split where they get too many.

    Places are asked for one after the other, so that what becomes of a run counts for the next.
    """
    run: list[tuple[int, Place]] = []
    for at, place in places:
        before = run[-1][1] if run else place._replace(size=0)
        held = before.offset + before.size - run[0][1].offset if run and place.is_piece else 0
        if (before.blob, before.offset + before.size) != place[:2] or held > PIECES_MAX:
            yield run
            run = []
        run.append((at, place))
    if run:
        yield run


def cut(
    pieces: Iterator[bytes], sizes: list[int], buffer: bytearray | None = None
) -> Iterator[bytes]:
    """Cut a stream into parts of these sizes; `buffer` has what came of the next one."""
    buffer = bytearray() if buffer is None else buffer
    for size in sizes:
        while len(buffer) < size:
            piece = next(pieces, b"")
            if not piece:
                return
            buffer += piece
        yield bytes(buffer[:size])
        del buffer[:size]
    for _ in pieces:  # the source notices at its end what was missing
        pass


def unpacked(packed: bytes, size: int) -> bytes:
    """The bytes of a chunk, never more than `size`. Raises Refused."""
    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY_MAX)
        data = decompressor.decompress(packed, size)
    except lzma.LZMAError as error:
        raise Refused(f"a chunk can't be unpacked: {error}") from None
    if len(data) != size:
        raise Refused(f"a chunk has {len(data)} bytes, wanted {size}")
    return data
