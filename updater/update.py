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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from updater.contract import BAD, GOOD, TRIAL
from updater.disk import Disk
from updater.errors import GaveWay, Missing, NotNow, Refused, Unreachable, UpdateError
from updater.formats import (
    CHANNEL_SIZE_MAX,
    CHUNK,
    MANIFEST_SIZE_MAX,
    SIGNATURE_SIZE_MAX,
    VERSION,
    Channel,
    Chunk,
    Manifest,
    SlotImage,
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
PAUSE_S = 2.0  # before the second attempt; doubled each time


@dataclass(frozen=True)
class Part:
    """The begin of a packed chunk."""

    chunk: int
    data: bytes


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
        self._part = Part(0, b"")  # of a chunk, from a line that was cut
        self._maker: Maker | None = None
        self._fetched = 0  # bytes

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
        came = f"{count} chunk{'s' * (count != 1)} came whole"
        what = "the delta was given up" if maker.is_hopeless else came
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
        """Bytes of a blob that are needed in the middle of something: waited for until they come.

        Raises Unreachable where nothing more of them came for a while.
        """
        data, attempt = bytearray(), 0
        while len(data) < size:
            before = len(data)
            try:
                for part in self.source.stream(f"blobs/{blob}", offset + before, size - before):
                    data += part
            except (GaveWay, Missing):
                raise
            except Unreachable:
                attempt = attempt + 1 if len(data) == before else 1
                if attempt == ATTEMPTS:
                    raise
                self._sleep(PAUSE_S * 2**attempt)
        self._fetched += size
        return bytes(data)

    def _write_missing(self, disk: Disk, manifest: Manifest, first: Callable[[], None]) -> None:
        """Bring the chunks again and again, as long as some come."""
        chunks, maker = manifest.slot.chunks, self._maker
        order, late = maker.order() if maker else (list(range(len(chunks))), set[int]())
        missing = self._missing(disk, manifest, order)
        attempt = 0
        while missing:
            before = len(missing), self._part
            batch = [at for at in missing if at not in late] or missing.copy()
            try:
                for at, fetched in self._fetch(disk, manifest, batch, first):
                    missing.remove(at)
                    self._progress(len(chunks) - len(missing), len(chunks), fetched)
            except GaveWay:
                raise
            except Unreachable:
                missing = self._missing(disk, manifest, missing)
                attempt = attempt + 1 if (len(missing), self._part) == before else 1
                if attempt == ATTEMPTS:
                    raise
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
        """Bring missing chunks; yield those written, and the bytes that were fetched until then.

        While one is written, the next is made: writing has a thread of its own.
        """
        from concurrent.futures import ThreadPoolExecutor  # slow to come; most looks find no news

        with ThreadPoolExecutor(1) as writer:
            written: Future[int] | None = None
            for at, data in self._chunks(manifest, missing):
                if not written:
                    first()
                else:
                    yield written.result(), self._fetched
                written = writer.submit(_write, disk, at, data)
            if written:
                yield written.result(), self._fetched

    def _chunks(
        self, manifest: Manifest, numbers: list[int]
    ) -> Iterator[tuple[int, bytes | bytearray]]:
        """Chunks by their numbers: made, or fetched, in one request for each run of neighbours."""
        whole = []
        for count, at in enumerate(numbers, 1):
            data = self._maker.chunk(at) if self._maker else None
            if data is None:
                whole.append(at)
                continue
            yield at, data
            if self._maker:
                self._maker.prepare(numbers[count:])
        for run in _runs(whole, manifest.slot.chunks):
            for at, packed in self._packed(manifest.slot, run):
                self._fetched += len(packed)
                yield at, self._checked(manifest, at, packed)
                if self._maker and self._maker.resume():
                    return

    def _checked(self, manifest: Manifest, at: int, packed: bytes) -> bytes:
        """A chunk, unpacked. Raises Refused where it isn't the signed one."""
        try:
            data = unpacked(packed, manifest.slot.chunk_size(at))
            if hashlib.sha256(data).hexdigest() != manifest.slot.chunks[at].sha256:
                raise Refused(f"release {manifest.version}: chunk {at} is corrupt")
        except Refused:
            if (part := self._part) and part.chunk == at and part.data:
                self._part = Part(0, b"")
                raise Unreachable(f"chunk {at} came in two parts that don't fit") from None
            raise
        return data

    def _packed(self, slot: SlotImage, run: list[int]) -> Iterator[tuple[int, bytes]]:
        """The chunks of a run, packed. What came of the first before is not asked for again."""
        chunks = slot.chunks
        buffer = bytearray(self._part.data if self._part.chunk == run[0] else b"")
        begin, end = chunks[run[0]].offset + len(buffer), chunks[run[-1]].offset
        end += chunks[run[-1]].size
        done = 0
        try:
            pieces = self.source.stream(f"blobs/{slot.blob.sha256}", begin, end - begin)
            sizes = [chunks[at].size for at in run]
            # In this order, so that the source is asked to its end, and its connection is kept.
            for packed, at in zip(cut(pieces, sizes, buffer), run, strict=False):
                yield at, packed
                done += 1
        except Unreachable:
            self._part = Part(run[done], bytes(buffer))
            raise
        self._part = Part(0, b"")


def _write(disk: Disk, at: int, data: bytes | bytearray) -> int:
    disk.write(at * CHUNK, data)
    return at


def _runs(numbers: list[int], chunks: tuple[Chunk, ...]) -> list[list[int]]:
    """Split chunk numbers where the next doesn't begin in the blob where the one before ends."""
    runs: list[list[int]] = []
    for at in numbers:
        before = chunks[runs[-1][-1]] if runs else None
        if before and before.offset + before.size == chunks[at].offset:
            runs[-1].append(at)
        else:
            runs.append([at])
    return runs


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
